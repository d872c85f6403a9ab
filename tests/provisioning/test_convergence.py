"""From any mixture of states the fleet becomes what it is to be, and no promise is broken.

`model_world.check` asserts the promises of every reconcile; here are the mixtures, and the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning.model import (
    ContainerState,
    Event,
    Fleet,
    Instance,
    Limits,
    Node,
    ObservedContainer,
    Phase,
    Placement,
    PlacementStrategy,
    Pool,
    Reason,
    Rotation,
)
from provisioning.reconcile import decide
from provisioning.state import orphan_policy
from tests.provisioning.making import CHAT, GIB, NOW_S, node
from tests.provisioning.model_world import Held, World, orphan
from tests.provisioning.node_faults import Fault

SMALL = CHAT.replace(model="small", cpus=0.5)
N_WILD_STEPS = 25
N_CALM_STEPS = 600
NAMES = ("a", "b", "c", "d")
PLACES = (*NAMES, "gone")

rotations = st.builds(
    Rotation,
    every_s=st.sampled_from([0.0, 3600.0, 7 * 86_400.0]),
    at_once=st.integers(1, 3),
    drain_s=st.sampled_from([0.0, 30.0]),
)


def pools(name: str, zone: str = "") -> st.SearchStrategy[Pool]:
    return st.builds(
        Pool,
        name=st.just(name),
        count=st.integers(0, 8),
        workload=st.sampled_from([CHAT, SMALL]),
        placement=st.builds(
            Placement,
            strategy=st.sampled_from(PlacementStrategy),
            max_per_node=st.sampled_from([0, 5]),
            selector=st.just({"zone": zone} if zone else {}),
        ),
        rotation=rotations,
        developers=st.sampled_from([(), ("ada", "bob"), ("bob", "eve", "joe")]),
    )


def small_node(limit: int, *, is_cordoned: bool) -> Node:
    return node("c", cpus=3.0, max_instances=limit, is_cordoned=is_cordoned)


SMALL_NODES = (
    st.builds(small_node, st.integers(0, 3), is_cordoned=st.booleans()),
    st.just(node("d", cpus=4.0, first_port=20_000, last_port=20_002)),
)


def large_node(name: str) -> Node:
    """Return a node that has room for all that is wanted: 16 instances of one CPU."""
    return node(name, cpus=16.0, memory_bytes=40 * GIB, labels={"zone": "east"})


def fleets(large: str) -> st.SearchStrategy[Fleet]:
    """Return fleets of large nodes of these names, and two small ones."""
    return st.builds(
        Fleet,
        name=st.just("test"),
        nodes=st.tuples(*(st.just(large_node(name)) for name in large), *SMALL_NODES),
        pools=st.one_of(
            st.tuples(pools("chat")),
            st.tuples(pools("chat"), pools("code", "east")),
        ),
        limits=st.builds(
            Limits,
            operations=st.integers(1, 12),
            operations_per_node=st.integers(0, 3),
            unavailable_ratio=st.sampled_from([0.0, 0.05, 0.3]),
            retry_failed_s=st.just(60.0),
            node_grace_s=st.just(120.0),
        ),
    )


@st.composite
def records(draw: st.DrawFn, *, number: int) -> Instance:
    """Return a record that may contradict everything else."""
    phase = draw(st.sampled_from(Phase))
    workload = draw(st.sampled_from([CHAT, SMALL]))
    return Instance(
        id=f"{draw(st.sampled_from(['chat', 'code', 'old']))}-{number:05}",
        pool=draw(st.sampled_from(["chat", "chat", "code", "old"])),
        node=draw(st.sampled_from(PLACES)),
        port=20_000 + number,
        generation=draw(st.integers(1, 3)),
        phase=phase,
        phase_since_s=NOW_S - draw(st.sampled_from([-5.0, 0.0, 30.0, 1e6])),
        workload=workload.digest,
        started_s=NOW_S - draw(st.sampled_from([0.0, 3000.0, 1e6])),
        reason=draw(st.sampled_from([None, *Reason])),
        developer=draw(st.sampled_from(["", "ada", "bob", "mallory"])),
        n_failures=draw(st.integers(0, 3)),
        retry_at_s=draw(st.sampled_from([0.0, NOW_S - 1, NOW_S + 300])),
        is_replace_asked=draw(st.booleans()),
        history=(Event(NOW_S - 5, draw(st.sampled_from(["exited", "started"]))),),
        cpus=workload.cpus,
        memory_bytes=workload.memory_bytes,
    )


@st.composite
def worlds(draw: st.DrawFn, large: str = "ab") -> World:
    """Return a world in any state; containers may be missing, extra, dead, or in the wrong place.

    Any one of its nodes may be broken for good where it has three large ones.
    """
    dice = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311
    world = World(draw(fleets(large)), dice, NOW_S)
    for number in range(draw(st.integers(0, 10))):
        one = draw(records(number=number))
        world.records[one.id] = one
        place = draw(st.sampled_from([one.node, one.node, *NAMES]))
        if place != "gone" and draw(st.integers(0, 3)):
            state = draw(
                st.sampled_from([ContainerState.RUNNING, ContainerState.RUNNING, *ContainerState])
            )
            generation = max(1, one.generation - draw(st.sampled_from([0, 0, 1, -1])))
            name = f"{one.id}.{generation}"
            found = ObservedContainer(name, one.id, generation, state)
            world.containers[place][name] = Held(found, one.cpus, one.memory_bytes, one.port)
    for number in range(draw(st.integers(0, 3))):
        name = f"chat-{number:05}"
        world.containers[draw(st.sampled_from(NAMES))][f"{name}.9"] = orphan(name, 9, 20_500)
    return world


def settle(world: World) -> None:
    """Let the world go on until nothing is decided any more, and nothing is under way."""
    n_quiet = 0
    for _ in range(N_CALM_STEPS):
        actions = world.step()
        n_quiet = 0 if actions or world.operations else n_quiet + 1
        if n_quiet > 100:  # longer than any wait in these fleets: grace, drain, retry
            return
    if any(pool.rotation.every_s for pool in world.fleet.pools):
        return  # it rotates on and on
    raise AssertionError(f"after {N_CALM_STEPS} quiet steps there is still to be done: {actions}")


@settings(max_examples=80, print_blob=True)
@given(worlds())
def test_any_mixture_becomes_the_fleet_that_is_wanted(world: World) -> None:
    run_wild(world)
    heal(world)

    settle(world)
    settle_doubts(world)

    assert_wanted(world)


@settings(max_examples=60, print_blob=True)
@given(worlds("abe"), st.sampled_from([*NAMES, "e"]), st.sampled_from(Fault))
def test_a_node_that_is_broken_for_good_keeps_nobody_from_the_fleet_that_is_wanted(
    world: World, broken: str, fault: Fault
) -> None:
    """Two large nodes are left, and have room for all."""
    run_wild(world)
    heal(world, {broken: fault})

    settle(world)
    settle_doubts(world)

    assert_wanted(world)


def run_wild(world: World) -> None:
    """Let everything go wrong that can, nodes break and recover among it."""
    for _ in range(N_WILD_STEPS):
        if world.dice.random() < 0.4:
            world.shake()
        world.step()


def heal(world: World, lasting: Mapping[str, Fault] | None = None) -> None:
    """End all faults but those that last."""
    world.calm(lasting or {})
    world.now_s += 4000.0  # so that no crash is remembered


def settle_doubts(world: World) -> None:
    """Have a person order to delete the orphans, where they are kept."""
    if orphan_policy(world.fleet, world.observe()).n_refused:
        world.are_orphans_deletable = True
        settle(world)


def assert_wanted(world: World) -> None:
    """Assert that the world is what its fleet says."""
    suitable = {one.name for one in world.fleet.nodes if not one.is_cordoned}
    pool_by_name = {one.name: one for one in world.fleet.pools}
    # What is not wanted any more on a node that is silent for good waits there until it answers.
    records = [one for one in world.records.values() if not is_waiting(world, one)]
    assert {one.pool for one in records} <= set(pool_by_name)
    for pool in world.fleet.pools:
        mine = [one for one in records if one.pool == pool.name]
        assert pool.count == len(mine)
        is_rotating = bool(pool.rotation.every_s)
        serving = [one for one in mine if one.phase is Phase.RUNNING]
        assert is_rotating or len(mine) == len(serving)
        # Behind a node that is silent for good, what serves is left as it is.
        heard = [one for one in serving if not world.is_unheard(one.node)]
        assert all(one.workload == pool.workload.digest for one in heard)
        assert {one.node for one in heard} <= suitable
        assert all(world.faults.get(one.node) is not Fault.LOST for one in serving)
        assert len(mine) - len(serving) <= max(1, pool.rotation.at_once)
        served = Counter(one.developer for one in mine if one.developer)
        wanted = min(len(pool.developers), pool.count)
        assert [1] * wanted == list(served.values())
        assert set(served) <= set(pool.developers)
    if not world.operations:
        assert {
            one.container for one in world.records.values() if one.phase is not Phase.FAILED
        } >= {
            container
            for node_name, containers in world.containers.items()
            if not world.is_unheard(node_name)
            for container in containers
        }


def is_waiting(world: World, instance: Instance) -> bool:
    """Say whether an instance waits for its node to answer; those that are wanted have moved."""
    return world.is_unheard(instance.node) and instance.phase is not Phase.RUNNING


@settings(max_examples=40)
@given(worlds(), st.integers(-(2**40), 2**40))
def test_every_mixture_has_an_answer_at_any_time_and_always_the_same(
    world: World, now_s: int
) -> None:
    seen = world.observe()

    assert decide(world.fleet, seen, now_s) == decide(world.fleet, seen, now_s)
