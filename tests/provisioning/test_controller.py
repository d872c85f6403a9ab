"""A whole provisioner over a simulated world: what it makes, keeps, moves and leaves alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from provisioning.controller import INTERVAL_S, SHORTEST_GAP_S
from provisioning.errors import (
    NodeUnreachableError,
    PermanentError,
)
from provisioning.lifecycle import Kind, Result
from provisioning.model import (
    ContainerSpec,
    Fleet,
    Limits,
    Node,
    Phase,
    Reason,
    Rotation,
    WarmUp,
)
from provisioning.report import Report
from provisioning.store.base import Change, ChangeRefusal, ChangeResult, Put, PutSpec, Term
from provisioning.store.memory import MemoryStore
from tests.provisioning.counters import Counters
from tests.provisioning.making import (
    CHAT,
    GIB,
    fleet,
    node,
    pool,
)
from tests.provisioning.scene import QUICK, Stage, provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import Behaviour, SimulatedRuntime, World

STUBBORN = Behaviour(ignores_sigterm=True)
PERIOD_S = 7 * 900.0
TWO_NODES = (node("n1", address="127.0.0.1"), node("n2", address="127.0.0.2"))


def test_a_fleet_is_made_from_nothing() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=TWO_NODES)) as stage:
            await stage.until(stage.is_whole)

            assert {"n1": 4, "n2": 4} == {
                name: len(stage.world.containers(name)) for name in ("n1", "n2")
            }
            assert 8 == stage.counters.results[Kind.START, Result.DONE]

    virtual_run(scene())


def test_nothing_is_done_while_nothing_is_wrong() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=TWO_NODES)) as stage:
            await stage.until(stage.is_whole)
            await VirtualClock().sleep(30.0)
            before, n_commits = stage.instances, stage.store.n_commits

            await VirtualClock().sleep(3600.0)

            assert before == stage.instances
            assert n_commits == stage.store.n_commits
            assert stage.counters.n_reconciles > 500
            assert stage.counters.last
            assert "ready=8 wanted=8 actions=0" in str(stage.counters.last)

    virtual_run(scene())


def test_tries_that_fail_are_made_again_until_all_is_there() -> None:
    async def scene() -> None:
        behaviour = Behaviour(start_s=1.0, failure_ratio=0.3, hang_ratio=0.05)
        async with provisioner(fleet(pool(8)), behaviour=behaviour, seed=3) as stage:
            await stage.until(stage.is_whole, within_s=3600.0)

            assert stage.counters.n_tries > 8

    virtual_run(scene())


def test_a_killed_container_is_replaced_soon_by_the_next_generation() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(3))) as stage:
            await stage.until(stage.is_whole)
            first = stage.instances[0]

            stage.world.kill(first.container, is_out_of_memory=True)
            await stage.until(lambda: stage.instances[0].generation == 2, within_s=2.0)
            await stage.until(stage.is_whole, within_s=10.0)

            assert (first.node, first.port) == (stage.instances[0].node, stage.instances[0].port)
            (event,) = [
                one for one in stage.instances[0].history if one.what == Reason.OUT_OF_MEMORY
            ]
            assert "out of memory" in event.detail

    virtual_run(scene())


def test_an_instance_that_crashes_again_and_again_is_restarted_ever_more_slowly() -> None:
    async def scene() -> int:
        behaviour = Behaviour(start_s=0.1, ends_after_s=1.0, exit_status=1)
        async with provisioner(fleet(pool(1)), behaviour=behaviour) as stage:
            await VirtualClock().sleep(3600.0)
            return stage.instances[0].generation

    assert 6 <= virtual_run(scene()) <= 20


def test_a_sick_instance_is_stopped_and_started_afresh() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(3))) as stage:
            await stage.until(stage.is_whole)

            stage.world.sicken(stage.instances[1].container)
            await stage.until(lambda: stage.instances[1].generation == 2, within_s=45.0)
            await stage.until(stage.is_whole)

            assert any(
                one.what == Reason.UNHEALTHY and "status 503" in one.detail
                for one in stage.instances[1].history
            )

    virtual_run(scene())


def test_instances_of_a_lost_node_move_and_are_not_doubled_when_it_returns() -> None:
    async def scene() -> None:
        nodes = (*TWO_NODES, node("n3", address="127.0.0.3"))
        async with provisioner(fleet(pool(9), nodes=nodes)) as stage:
            await stage.until(stage.is_whole)
            stage.world.silence("n2")
            moved = [one.id for one in stage.instances if one.node == "n2"]

            await stage.until(lambda: all(one.node != "n2" for one in stage.instances))
            await stage.until(lambda: all(one.phase is Phase.RUNNING for one in stage.instances))
            stage.world.restore("n2")
            await stage.until(stage.is_whole, within_s=30.0)

            assert moved
            assert () == stage.world.containers("n2")
            assert moved == [one.id for one in stage.instances if one.generation == 2]

    virtual_run(scene())


def test_nothing_happens_when_a_node_returns_within_the_grace() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=TWO_NODES)) as stage:
            await stage.until(stage.is_whole)
            before = stage.instances

            stage.world.silence("n2")
            await VirtualClock().sleep(100.0)
            stage.world.restore("n2")
            await VirtualClock().sleep(600.0)

            assert before == stage.instances

    virtual_run(scene())


def test_a_fleet_made_at_once_is_rotated_a_few_at_a_time_and_never_gets_older() -> None:
    async def scene() -> tuple[int, float]:
        rotation = Rotation(every_s=PERIOD_S, at_once=2, drain_s=60.0)
        limits = Limits(unavailable_ratio=0.5)
        async with provisioner(
            fleet(pool(16, rotation=rotation), nodes=TWO_NODES, limits=limits)
        ) as stage:
            await stage.until(stage.is_whole)
            most_moving, oldest_s = 0, 0.0
            while any(one.generation == 1 for one in stage.instances):
                now_s = VirtualClock().unix_s()
                moving = [one for one in stage.instances if one.phase is not Phase.RUNNING]
                most_moving = max(most_moving, len(moving))
                oldest_s = max(
                    oldest_s,
                    *(
                        now_s - one.started_s
                        for one in stage.instances
                        if one.phase is Phase.RUNNING
                    ),
                )
                await VirtualClock().sleep(20.0)
            await stage.until(stage.is_whole)
            return most_moving, oldest_s

    most_moving, oldest_s = virtual_run(scene())

    assert 1 <= most_moving <= 2
    assert 6 / 7 * PERIOD_S < oldest_s <= PERIOD_S + 60


def test_a_changed_workload_rolls_through_the_pool_and_developers_keep_their_instances() -> None:
    async def scene() -> None:
        chat = pool(6, developers=("ada", "bob"), rotation=Rotation(every_s=0.0, drain_s=5.0))
        async with provisioner(fleet(chat, nodes=TWO_NODES)) as stage:
            await stage.until(stage.is_whole)
            owned = {one.id: one.developer for one in stage.instances}

            await stage.put_spec(
                fleet(chat.replace(workload=CHAT.replace(model="new")), nodes=TWO_NODES)
            )
            await stage.until(lambda: not stage.is_whole())
            await stage.until(stage.is_whole)

            assert owned == {one.id: one.developer for one in stage.instances}
            assert ["", "", "", "", "ada", "bob"] == sorted(owned.values())

    virtual_run(scene())


def test_a_workload_that_never_starts_stops_rolling_at_the_share_that_may_be_down() -> None:
    async def scene() -> list[Phase]:
        chat = pool(8, rotation=Rotation(every_s=0.0, drain_s=0.0))
        limits = Limits(unavailable_ratio=0.25)
        async with provisioner(fleet(chat, limits=limits)) as stage:
            await stage.until(stage.is_whole)
            stage.world.behave(Behaviour(cannot_start=True), image="bad")

            await stage.put_spec(
                fleet(chat.replace(workload=CHAT.replace(image="bad")), limits=limits)
            )
            await VirtualClock().sleep(3600.0)
            stuck = sorted(one.phase for one in stage.instances)

            await stage.put_spec(fleet(chat, limits=limits))
            await stage.until(stage.is_whole, within_s=60.0)
            return stuck

    assert [Phase.FAILED] * 2 + [Phase.RUNNING] * 6 == virtual_run(scene())


def test_without_the_store_nothing_changes_and_afterwards_the_fleet_becomes_whole() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(4))) as stage:
            await stage.until(stage.is_whole)
            stage.store.is_down = True
            stage.world.kill(stage.instances[0].container)
            before = stage.instances

            await VirtualClock().sleep(300.0)
            assert before == stage.instances
            assert 1 == stage.counters.n_outages

            stage.store.is_down = False
            await stage.until(stage.is_whole, within_s=30.0)
            assert [2, 1, 1, 1] == [one.generation for one in stage.instances]

    virtual_run(scene())


@pytest.mark.parametrize("n_answers", [1, 2, 8])
def test_answers_of_the_store_that_are_lost_double_nothing(n_answers: int) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=TWO_NODES)) as stage:
            stage.store.forgets_answers = n_answers
            await stage.until(stage.is_whole)

            assert 8 == len(stage.running_containers)
            assert {1} == {one.generation for one in stage.instances}

    virtual_run(scene())


def test_what_somebody_else_writes_in_between_is_not_overwritten() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(2))) as stage:
            await stage.until(stage.is_whole)
            assert stage.controller.term
            id_, stored = next(iter(stage.backend.stored.items()))
            asked = replace(stored.instance, is_replace_asked=True)
            stage.world.kill(stored.instance.container)

            stage.backend.commit([Put(asked, stored.version)], stage.controller.term)
            await stage.until(lambda: stage.backend.stored[id_].instance.generation == 2)
            await stage.until(stage.is_whole)
            await VirtualClock().sleep(60.0)

            assert 2 == stage.backend.stored[id_].instance.generation
            assert not stage.backend.stored[id_].instance.is_replace_asked

    virtual_run(scene())


def test_a_specification_that_cannot_be_read_leaves_the_last_one_active(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(2))) as stage:
            await stage.until(stage.is_whole)
            await _put_text(stage, "nonsense")
            stage.world.kill(stage.instances[0].container)

            await stage.until(lambda: stage.instances[0].generation == 2)

    virtual_run(scene())

    assert "stored specification cannot be read" in caplog.text


async def _put_text(stage: Stage, words: str) -> None:
    assert stage.controller.term
    assert stage.backend.spec
    stage.backend.commit([PutSpec(words, stage.backend.spec.version)], stage.controller.term)


def test_a_node_that_leaves_the_specification_is_emptied_first() -> None:
    async def scene() -> None:
        chat = pool(4, rotation=Rotation(every_s=0.0, drain_s=5.0))
        async with provisioner(fleet(chat, nodes=TWO_NODES)) as stage:
            await stage.until(stage.is_whole)

            await stage.put_spec(fleet(chat, nodes=TWO_NODES[:1]))
            await stage.until(stage.is_whole)

            await stage.until(lambda: {"n1"} == set(stage.controller.loop.reports), within_s=30.0)
            assert () == stage.world.containers("n2")

    virtual_run(scene())


class Named(SimulatedRuntime):
    """A runtime that knows its node's name."""

    def __init__(self, world: World, node: str, fleet: str) -> None:
        super().__init__(world, node, fleet)
        self.name = node


def test_a_node_that_answers_but_starts_nothing_does_not_keep_its_instances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deaf(Named):
        async def start(self, container: ContainerSpec) -> None:
            if self.name == "n1":
                raise NodeUnreachableError("the daemon is deaf")
            await super().start(container)

    async def scene() -> None:
        async with provisioner(fleet(pool(4), nodes=TWO_NODES)) as stage:
            await stage.until(stage.is_whole, within_s=120.0)

            assert {"n2"} == {one.node for one in stage.instances}
            assert any("deaf" in event.detail for event in stage.instances[0].history)

    monkeypatch.setattr("tests.provisioning.scene.SimulatedRuntime", Deaf)
    virtual_run(scene())


def test_what_cannot_be_removed_is_tried_ever_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removals: list[str] = []

    class Stuck(Named):
        async def remove(self, name: str, *, grace_s: float) -> None:
            removals.append(name)
            raise PermanentError("it cannot be removed")

    async def scene() -> None:
        async with provisioner(fleet(pool(2))) as stage:
            await stage.until(stage.is_whole)
            stage.world.kill(stage.instances[0].container)
            await VirtualClock().sleep(600.0)

    monkeypatch.setattr("tests.provisioning.scene.SimulatedRuntime", Stuck)
    virtual_run(scene())

    assert 8 <= len(removals) <= 20


@pytest.mark.parametrize("n_lost", [1, 4, 12])
def test_a_store_that_knows_nothing_of_what_runs_ends_nothing_of_it(
    n_lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does the same specification, applied again, make others in their stead."""

    async def scene() -> None:
        big = node("n1", cpus=100.0, memory_bytes=100 * GIB)
        async with provisioner(fleet(pool(n_lost), nodes=[big])) as first:
            await first.until(first.is_whole)
            before = set(first.running_containers)
            await first.stop()

            again = fleet(pool(n_lost), nodes=[big])
            async with provisioner(again, world=first.world) as second:
                await VirtualClock().sleep(150.0)
                assert before == set(second.running_containers)

                second.controller.loop.delete_orphans()
                await second.until(second.is_whole)

    virtual_run(scene())

    assert 3 == caplog.text.count(f"orphans kept orphans={n_lost}")


def test_an_emptied_store_asks_for_nothing_whatever_the_same_provisioner_did_before() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(3))) as stage:
            await stage.until(stage.is_whole)
            session = stage.backend.session
            assert session
            stage.backend.spec = None
            stage.backend.stored.clear()
            stage.backend.end_term(session)
            await stage.until(lambda: stage.controller.term not in (None, session.term))
            for container in stage.world.containers("n1"):
                stage.world.kill(container.name)  # else they would be orphans, and nothing made
            await VirtualClock().sleep(60.0)

            assert [] == stage.instances

    virtual_run(scene())


def test_however_much_happens_reconciles_keep_their_distance() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(2))) as stage:
            await stage.until(stage.is_whole)
            await VirtualClock().sleep(30.0)
            n_before = stage.counters.n_reconciles

            for _ in range(200):
                stage.controller.loop.wake()
                await VirtualClock().sleep(0.01)

            assert 9 <= stage.counters.n_reconciles - n_before <= 11

    virtual_run(scene())


@pytest.mark.parametrize("drain_s", [0.0, 7.3])
def test_a_drain_is_ended_when_its_time_is_over(drain_s: float) -> None:
    async def scene() -> None:
        chat = pool(1, rotation=Rotation(every_s=0.0, drain_s=drain_s))
        async with provisioner(fleet(chat)) as stage:
            await stage.until(stage.is_whole)
            await VirtualClock().sleep(30.0)

            await stage.put_spec(fleet(chat.replace(workload=CHAT.replace(model="new"))))
            await stage.until(lambda: stage.instances[0].phase is Phase.DRAINING)
            begun_s = stage.instances[0].phase_since_s
            await stage.until(lambda: stage.instances[0].phase is Phase.STOPPING)

            took_s = stage.instances[0].phase_since_s - begun_s
            assert max(drain_s, SHORTEST_GAP_S) == pytest.approx(took_s, abs=2e-3)

    virtual_run(scene())


def test_drains_that_cannot_be_ended_cause_no_reconciles() -> None:
    async def scene() -> None:
        chat = pool(4, rotation=Rotation(every_s=0.0, drain_s=5.0))
        async with provisioner(fleet(chat), behaviour=STUBBORN) as stage:
            await stage.until(stage.is_whole)
            await stage.put_spec(fleet(chat.replace(count=0)))
            await VirtualClock().sleep(30.0)
            assert {Phase.DRAINING, Phase.STOPPING} >= {one.phase for one in stage.instances}
            stage.world.silence("n1")
            await VirtualClock().sleep(10.0)
            n_before = stage.counters.n_reconciles

            await VirtualClock().sleep(50.0)

            assert stage.counters.n_reconciles - n_before <= 12

    virtual_run(scene())


class Refusals(Counters):
    """Counts the changes that the store refused as well."""

    n_refused = 0

    def reconcile_ended(self, report: Report) -> None:
        super().reconcile_ended(report)
        self.n_refused += report.n_refused


def test_what_was_written_without_an_answer_is_read_before_anything_else_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where nobody follows the store."""
    monkeypatch.setattr("tests.provisioning.scene.Counters", Refusals)

    async def scene() -> None:
        async with unfollowed(fleet(pool(2))) as stage:
            assert isinstance(stage.counters, Refusals)
            stage.world.kill(stage.instances[0].container)
            stage.store.forgets_answers = 1

            await stage.until(lambda: stage.instances[0].generation == 2)
            await stage.until(stage.is_whole)

            assert 0 == stage.store.forgets_answers
            assert 1 == stage.counters.n_outages
            assert 0 == stage.counters.n_refused

    virtual_run(scene())


def test_what_somebody_else_has_written_is_read_once_it_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where nobody follows the store."""
    monkeypatch.setattr("tests.provisioning.scene.Counters", Refusals)

    async def scene() -> None:
        async with unfollowed(fleet(pool(2))) as stage:
            assert isinstance(stage.counters, Refusals)
            assert stage.controller.term
            one = stage.instances[0]
            version = stage.backend.stored[one.id].version
            stage.backend.commit(
                [Put(replace(one, developer="ada"), version)], stage.controller.term
            )

            stage.world.kill(one.container)
            await stage.until(lambda: stage.instances[0].generation == 2, within_s=5.0)
            await stage.until(stage.is_whole)

            assert 1 == stage.counters.n_refused

    virtual_run(scene())


@asynccontextmanager
async def unfollowed(wanted: Fleet) -> AsyncIterator[Stage]:
    """Run a provisioner whose fleet is whole, and which is told of no write any more."""
    async with provisioner(wanted) as stage:
        await stage.until(stage.is_whole)
        await VirtualClock().sleep(30.0)
        following = stage.tasks[0]
        following.cancel()
        yield stage


BAD = CHAT.replace(image="bad")
HANGS = Behaviour(start_s=1.0, hang_ratio=1.0)
"""It runs, and never gets healthy."""
PULLS = Behaviour(start_s=1e6)
FAILS = Behaviour(failure_ratio=1.0)
PATIENT = Limits(
    start_timeout_s=3600.0,
    operations=3,
    unavailable_ratio=0.25,
    backoff_base_s=1e6,
    backoff_cap_s=1e6,
)
"""A start that cannot succeed takes hours to fail, and two of them leave no operation to others
that never served."""


@pytest.mark.parametrize("bad", [HANGS, PULLS, FAILS], ids=["hangs", "pulls", "fails"])
@pytest.mark.parametrize("n_answers", [0, 1])
def test_a_rollback_waits_for_no_start(bad: Behaviour, n_answers: int) -> None:
    async def scene() -> None:
        chat = pool(8, rotation=Rotation(every_s=0.0, drain_s=0.0))
        async with provisioner(fleet(chat, limits=PATIENT)) as stage:
            await stage.until(stage.is_whole)
            stage.world.behave(bad, image="bad")
            await stage.put_spec(fleet(chat.replace(workload=BAD), limits=PATIENT))
            await VirtualClock().sleep(300.0)
            assert 2 == stage.controller.loop.n_running

            await stage.put_spec(fleet(chat, limits=PATIENT))
            stage.store.forgets_answers = n_answers
            await stage.until(stage.is_whole, within_s=40.0)
            assert 6 == sum(one.generation == 1 for one in stage.instances)

    virtual_run(scene())


HANGS_LATE = Behaviour(start_s=1.0, stop_s=0.5, warm_up_s=1e6)
"""It is healthy, and its registry never answers."""


@pytest.mark.parametrize(
    ("is_bad_first", "hanging", "hung_for_s"), [(True, HANGS, 60.0), (False, HANGS_LATE, 600.0)]
)
def test_a_pool_that_never_starts_keeps_no_other_from_healing(
    is_bad_first: bool, hanging: Behaviour, hung_for_s: float
) -> None:
    nodes = [node(f"n{n}", cpus=80.0, memory_bytes=80 * GIB) for n in (1, 2, 3)]
    good = pool(10)
    bad = pool(100, name="bad", workload=CHAT.replace(image="bad", warm_up=(WarmUp(path="/load"),)))
    pools = (bad, good) if is_bad_first else (good, bad)

    async def scene() -> None:
        clock = VirtualClock()
        world = World(clock, seed=0, behaviour=QUICK, by_image={"bad": hanging})
        limits = Limits(operations=5)
        async with provisioner(fleet(good, nodes=nodes, limits=limits), world=world) as stage:
            await stage.until(stage.is_whole)
            await stage.put_spec(fleet(*pools, nodes=nodes, limits=limits))
            await clock.sleep(hung_for_s)
            crashed = [one for one in stage.instances if one.pool == "chat"][:5]
            for one in crashed:
                world.kill(one.container)

            await stage.until(
                lambda: all(
                    one.phase is Phase.RUNNING and one.generation > 1
                    for one in stage.instances
                    if one.id in {crash.id for crash in crashed}
                ),
                within_s=60.0,
            )

    virtual_run(scene())


SLOW = Rotation(every_s=0.0, at_once=20, drain_s=60.0)


def test_a_node_that_leaves_gives_up_no_more_than_there_is_room_for() -> None:
    """A third node is lost, so that there is room for one."""
    sizes = {"n1": 21.0, "n2": 20.0, "n3": 20.0}
    nodes = [node(name, cpus=cpus, memory_bytes=int(cpus) * GIB) for name, cpus in sizes.items()]
    limits = Limits(unavailable_ratio=0.25)

    def wanted(cordoned: Node) -> Fleet:
        others = [one for one in nodes if one.name != cordoned.name]
        return fleet(pool(40, rotation=SLOW), nodes=[*others, cordoned], limits=limits)

    async def scene() -> None:
        clock = VirtualClock()
        async with provisioner(wanted(nodes[1])) as stage:
            await stage.until(stage.is_whole)
            stage.world.silence("n3")
            await clock.sleep(600.0)
            assert {Phase.RUNNING: 40} == Counter(one.phase for one in stage.instances)

            leaving = node("n2", cpus=20.0, memory_bytes=20 * GIB, is_cordoned=True)
            await stage.put_spec(wanted(leaving))
            for _ in range(600):
                await clock.sleep(1.0)
                phases = Counter(one.phase for one in stage.instances)
                assert 39 <= phases[Phase.RUNNING]
            assert {"n1": 21, "n2": 19} == Counter(one.node for one in stage.instances)

    virtual_run(scene())


TAKEN = ChangeResult(refusal=ChangeRefusal.PORT_TAKEN)


class Taken:
    """Refuses so many new records, as their port is claimed by what nobody knows."""

    def __init__(self, stage: Stage, *, times: int) -> None:
        self._store = MemoryStore(stage.backend)
        self._left = times
        self.n_refused = 0

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        if self._left and any(isinstance(change, Put) for change in changes):
            self._left -= 1
            self.n_refused += 1
            return (TAKEN,) * len(changes)
        return await self._store.commit(changes, term=term)


def test_what_is_refused_for_good_is_tried_at_the_usual_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each try loads the whole store before."""

    async def scene() -> None:
        async with provisioner(fleet(pool(1))) as stage:
            taken = Taken(stage, times=10_000)
            monkeypatch.setattr(stage.store, "commit", taken.commit)

            await VirtualClock().sleep(100 * INTERVAL_S)

            assert 90 < taken.n_refused <= 102
            assert stage.counters.n_reconciles <= 102

    virtual_run(scene())


def test_what_is_refused_once_is_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(1))) as stage:
            taken = Taken(stage, times=1)
            monkeypatch.setattr(stage.store, "commit", taken.commit)

            await stage.until(lambda: stage.instances, within_s=INTERVAL_S / 2)

            assert 1 == taken.n_refused

    virtual_run(scene())
