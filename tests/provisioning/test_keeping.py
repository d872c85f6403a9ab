"""Which instances stay when a pool becomes smaller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from msgspec.structs import replace

from provisioning.actions import Drain
from provisioning.model import Instance, Node, Phase, Placement, Pool, Spread
from provisioning.reconcile import ScaleDownRanking, decide
from tests.provisioning.making import GIB, NOW_S, fleet, instance, node, observed, pool
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run

NODES = (node("n1"), node("n2"))


def kept(
    count: int,
    instances: Sequence[Instance],
    *,
    of: Pool | None = None,
    nodes: Iterable[Node] = NODES,
    others: Iterable[Instance] = (),
    unhealthy: Iterable[str] = (),
    serving: Iterable[str] = ("n1", "n2"),
) -> list[int]:
    """Return the numbers of the instances that stay."""
    keeping = ScaleDownRanking(
        of or pool(), nodes, serving_nodes=frozenset(serving), unhealthy=frozenset(unhealthy)
    )
    return sorted(int(one.id[-5:]) for one in keeping.ranked(instances, others)[:count])


def on(name: str, *numbers: int, **fields: object) -> list[Instance]:
    """Return instances on a node, each older than those with lower numbers."""
    return [
        instance(number, node=name, started_s=NOW_S - 3600 - number, **fields) for number in numbers
    ]


@pytest.mark.parametrize(
    ("count", "expected"), [(6, [1, 2, 3, 4, 5, 6]), (5, [1, 2, 3, 5, 6]), (2, [1, 5]), (1, [1])]
)
def test_the_fullest_node_loses_one_first_and_of_it_the_oldest(
    count: int, expected: list[int]
) -> None:
    assert expected == kept(count, [*on("n1", 1, 2, 3, 4), *on("n2", 5, 6)])


def test_what_other_pools_have_on_a_node_fills_it_too() -> None:
    others = [replace(one, pool="code") for one in on("n1", 11, 12)]

    assert [1, 3, 4, 5] == kept(4, [*on("n1", 1, 2), *on("n2", 3, 4, 5)], others=others)


def test_a_larger_node_keeps_more() -> None:
    nodes = (node("n1"), node("n2", cpus=24.0, memory_bytes=24 * GIB))

    assert [1, 5, 6, 7] == kept(4, [*on("n1", 1, 2, 3, 4), *on("n2", 5, 6, 7, 8)], nodes=nodes)


def test_a_pool_that_packs_keeps_the_youngest_wherever_they_are() -> None:
    packed = pool(placement=Placement(Spread.PACK))

    assert [1, 2, 3] == kept(3, [*on("n1", 1, 2, 3, 4), *on("n2", 5, 6)], of=packed)


def test_who_has_a_developer_that_is_listed_stays_whichever_node_is_fuller() -> None:
    theirs = on("n1", 1, 2, 3, developer="ann")
    listed = pool(developers=("ann",))

    assert [1, 2, 3] == kept(3, [*theirs, *on("n2", 4, 5)], of=listed)


def test_a_developer_that_is_not_listed_any_more_keeps_nothing() -> None:
    theirs = on("n1", 1, 2, 3, developer="ann")

    assert [1, 2, 4] == kept(3, [*theirs, *on("n2", 4)])


def test_who_serves_stays_before_all_else() -> None:
    hers = on("n1", 1, developer="ann", phase=Phase.STARTING)
    listed = pool(developers=("ann",))

    assert [2, 3] == kept(2, [*hers, *on("n1", 2, 3)], of=listed, serving=["n1"])
    assert [2, 3] == kept(2, on("n1", 1, 2, 3), unhealthy=["chat-00001"])
    assert [2, 3] == kept(2, [*on("n2", 1), *on("n1", 2, 3)], serving=["n1"])
    gone = on("n9", 1)
    assert [2, 3] == kept(2, [*gone, *on("n1", 2, 3)])


def test_a_pass_drains_what_makes_a_node_fuller_than_others() -> None:
    here = [*on("n1", 1, 2, 3, 4), *on("n2", 5, 6)]

    actions = decide(fleet(pool(2), nodes=NODES), observed(here), NOW_S)

    assert {"chat-00002", "chat-00003", "chat-00004", "chat-00006"} == {
        one.id for one in actions if isinstance(one, Drain)
    }


@pytest.mark.parametrize("n_developers", [0, 4, 7])
def test_a_fleet_that_becomes_smaller_stays_spread(n_developers: int) -> None:
    """Even where its developers are dropped at the same time."""
    names = tuple(f"dev-{number}" for number in range(n_developers))

    async def scene() -> None:
        wanted = fleet(pool(16, developers=names), nodes=NODES)
        async with provisioner(wanted, seed=3) as stage:
            await stage.until(stage.is_whole)
            await VirtualClock().sleep(30.0)
            await stage.put_spec(fleet(pool(4), nodes=NODES))
            await stage.until(stage.is_whole)

            assert {"n1": 2, "n2": 2} == Counter(one.node for one in stage.instances)
            assert {""} == {one.developer for one in stage.instances}

    virtual_run(scene())


def test_a_fleet_is_removed_with_its_developers_listed() -> None:
    names = ("ann", "bob")

    async def scene() -> None:
        async with provisioner(fleet(pool(4, developers=names))) as stage:
            await stage.until(stage.is_whole)
            await stage.put_spec(fleet(pool(0, developers=names)))
            await stage.until(lambda: not stage.instances and not stage.running_containers)

            await stage.put_spec(fleet(pool(2, developers=names)))
            await stage.until(stage.is_whole)
            assert {"ann", "bob"} == {one.developer for one in stage.instances}

    virtual_run(scene())
