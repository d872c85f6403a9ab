"""Whether instances fit: what can be placed is never refused."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from provisioning.model import Node, Placement, Pool, RuntimeKind, Workload
from provisioning.spec import room

LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)
POOL = st.builds(
    lambda name, cpus, memory, most, labels: Pool(
        name,
        0,
        Workload("m", "fleet", cpus=cpus, memory_bytes=memory),
        Placement(max_per_node=most, selector=tuple(sorted(labels.items()))),
    ),
    st.text("xyz", min_size=1, max_size=3),
    st.sampled_from([0.1, 0.3, 1.0, 1.5]),
    st.integers(1, 5),
    st.integers(0, 3),
    LABELS,
)
POOLS = st.lists(POOL, min_size=1, max_size=3, unique_by=lambda pool: pool.name)
PICKS = st.lists(st.integers(0, 2), max_size=12)


def node(number: int, chosen: list[Pool], labels: dict[str, str]) -> Node:
    """Return a node with just enough room for what was chosen for it."""
    return Node(
        f"n{number}",
        RuntimeKind.SIMULATED,
        cpus=sum(pool.workload.cpus for pool in chosen),
        memory_bytes=sum(pool.workload.memory_bytes for pool in chosen),
        max_instances=len(chosen),
        first_port=20_000,
        last_port=max(20_000, 19_999 + len(chosen)),
        labels=tuple(sorted(labels.items())),
    )


def test_what_needs_next_to_nothing_finds_room() -> None:
    """More than there are numbers for, where no other resource bounds it."""
    tiny = Pool("a", 3, Workload("m", "fleet", cpus=5e-324, memory_bytes=1))
    roomy = Node("n1", RuntimeKind.SIMULATED, cpus=64.0, memory_bytes=2**30)

    assert [] == list(room.problems_of((tiny,), Counter({roomy: 1})))
    assert room.UNLIMITED == room.room_by_resource(tiny, roomy)["cpus"]


@given(POOLS, st.lists(st.tuples(PICKS, LABELS), min_size=1, max_size=4))
def test_what_can_be_placed_is_never_refused(
    pools: list[Pool], picks: list[tuple[list[int], dict[str, str]]]
) -> None:
    """Nodes are made to hold what was drawn for them: so there is a way to place it all."""
    nodes: list[Node] = []
    count: Counter[str] = Counter()
    for number, (indices, labels) in enumerate(picks):
        chosen: list[Pool] = []
        for pool in (pools[index % len(pools)] for index in indices):
            most = pool.placement.max_per_node or len(indices)
            if (
                chosen.count(pool) < most
                and dict(pool.placement.selector).items() <= labels.items()
            ):
                chosen.append(pool)
        if chosen:
            nodes.append(node(number, chosen, labels))
            count.update(pool.name for pool in chosen)

    wanted = [Pool(pool.name, count[pool.name], pool.workload, pool.placement) for pool in pools]

    assert [] == list(room.problems_of(wanted, room.shapes_of(nodes)))


def test_nodes_that_are_alike_are_looked_at_once() -> None:
    pool = Pool("x", 1, Workload("m", "fleet"))
    nodes = [node(number, [pool], {}) for number in range(5)]

    assert [5] == list(room.shapes_of(nodes).values())
