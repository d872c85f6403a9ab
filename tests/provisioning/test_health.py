"""Who is asked when, and when an instance is unhealthy."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from ollama_fleet.canary_outcome import CanaryOutcome
from provisioning import health
from provisioning.errors import NotAskedError
from provisioning.health import LOOK_S, NOTICE_S, DrainMonitor, HealthMonitor, ProbeTarget
from provisioning.model import Canary, Phase, Probe, Reason, RequestsPage, Rotation, WarmUp
from provisioning.runtime.base import CanaryResult
from provisioning.spec.defaults import ENGINES
from provisioning.store.base import StoredInstance
from tests.provisioning.making import CHAT, fleet, instance, pool
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import EPOCH_S, VirtualClock, virtual_run
from tests.provisioning.world import SimulatedProber, World

PROBE = Probe(interval_s=10.0, n_failures=3)
CANARY = Canary(period_s=60.0, n_failures=2)


class Answering:
    """A prober that answers as told; keeps when it was asked."""

    def __init__(self) -> None:
        self.fault_by_port: dict[int, str] = {}
        self.asked_s: dict[int, list[float]] = defaultdict(list)
        self.takes_s = 0.0
        self.canary = CanaryResult(CanaryOutcome.OK)
        self.canaries_s: dict[int, list[float]] = defaultdict(list)
        self.canary_takes_s = 0.0

    async def is_idle(self, host: str, port: int, page: RequestsPage) -> bool:
        raise NotImplementedError

    async def generate(
        self, host: str, port: int, canary: Canary, *, engine: str, model: str
    ) -> CanaryResult:
        assert (CANARY, "ollama", "tiny") == (canary, engine, model)
        self.canaries_s[port].append(VirtualClock().unix_s() - EPOCH_S)
        await VirtualClock().sleep(self.canary_takes_s)
        return self.canary

    async def probe(self, host: str, port: int, probe: Probe) -> str:
        self.asked_s[port].append(VirtualClock().unix_s() - EPOCH_S)
        await VirtualClock().sleep(self.takes_s)
        fault = self.fault_by_port.get(port, "")
        if fault == "raise":
            raise ZeroDivisionError
        if fault == "shortage":
            raise NotAskedError("too many open files")
        return fault

    async def warm_up(
        self, host: str, port: int, requests: Sequence[WarmUp], *, store: str = ""
    ) -> None:
        raise NotImplementedError


def target(port: int = 1, *, container: str = "a.1", node: str = "n1") -> ProbeTarget:
    return ProbeTarget(container, node, "127.0.0.1", port, PROBE)


def canary_target(port: int = 1) -> ProbeTarget:
    return ProbeTarget("a.1", "n1", "127.0.0.1", port, PROBE, CANARY, "ollama", "tiny")


class Scene:
    """A monitor that runs for a while."""

    def __init__(self) -> None:
        self.prober = Answering()
        self.n_changes = 0
        self.monitor = HealthMonitor(lambda _: self.prober, VirtualClock(), on_change=self.count)

    def count(self) -> None:
        self.n_changes += 1

    async def run(self, duration_s: float) -> None:
        task = asyncio.create_task(self.monitor.run())
        await VirtualClock().sleep(duration_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_each_is_asked_once_per_interval_at_a_phase_of_its_own() -> None:
    async def scene() -> Scene:
        made = Scene()
        for port in range(200):
            made.monitor.watch(f"chat-{port:05}", target(port))
        await made.run(30.0)
        return made

    asked_s = virtual_run(scene()).prober.asked_s

    assert {3} == {len(times) for times in asked_s.values()}
    assert all(
        10.0 == pytest.approx(after - before, abs=0.2)
        for times in asked_s.values()
        for before, after in itertools.pairwise(times)
    )
    by_second = [sum(int(times[0]) == second for times in asked_s.values()) for second in range(10)]
    assert max(by_second) < 40


def test_so_many_failures_in_a_row_make_it_unhealthy_since_the_first() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target())
        made.prober.fault_by_port[1] = "status 503"
        await made.run(20.0)
        assert {} == made.monitor.unhealthy
        await made.run(10.0)
        return made

    made = virtual_run(scene())

    unhealthy = made.monitor.unhealthy["a"]
    assert unhealthy.since_s == pytest.approx(made.prober.asked_s[1][0], abs=0.1)
    assert "failed 3 health checks in a row, last: status 503" == unhealthy.fault
    assert 1 == made.n_changes


def test_a_good_answer_in_between_restarts_the_count() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target())
        for fault in ("bad", "bad", "", "bad", "bad"):
            made.prober.fault_by_port[1] = fault
            await made.run(10.0)
        return made

    assert {} == virtual_run(scene()).monitor.unhealthy


def test_what_was_not_asked_is_no_failure_and_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> Scene:
        made = Scene()
        for port in range(20):
            made.monitor.watch(f"a{port}", target(port))
            made.prober.fault_by_port[port] = "shortage"
        await made.run(65.0)
        return made

    made = virtual_run(scene())

    assert {} == made.monitor.unhealthy
    assert len(made.prober.asked_s[1]) >= 6
    first, second = caplog.messages
    assert "too many open files" in first
    assert "held_back=" not in first
    assert "held_back=" in second


def test_no_more_are_asked_at_once_than_may_be_and_to_wait_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is one that waits asked twice."""
    monkeypatch.setattr(health, "MAX_AT_ONCE", 2)

    async def scene() -> Scene:
        made = Scene()
        made.prober.takes_s = 2.0
        for port in range(20):
            made.monitor.watch(f"a{port}", target(port))
        await made.run(40.0)
        return made

    made = virtual_run(scene())

    begun_s = sorted(at_s for times in made.prober.asked_s.values() for at_s in times)
    assert all(third >= first + 2.0 for first, third in itertools.pairwise(begun_s[::2]))
    assert {1, 2} == {len(times) for times in made.prober.asked_s.values()}
    assert {} == made.monitor.unhealthy


def test_a_good_answer_makes_it_well() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target())
        made.prober.fault_by_port[1] = "bad"
        await made.run(40.0)
        assert ["a"] == list(made.monitor.unhealthy)
        made.prober.fault_by_port[1] = ""
        await made.run(10.0)
        return made

    made = virtual_run(scene())

    assert {} == made.monitor.unhealthy
    assert 2 == made.n_changes


def test_another_generation_begins_without_blame_and_the_same_one_is_not_disturbed() -> None:
    async def scene() -> tuple[int, int]:
        made = Scene()
        made.monitor.watch("a", target())
        made.prober.fault_by_port[1] = "bad"
        await made.run(40.0)
        made.monitor.watch("a", target())
        n_before = len(made.monitor.unhealthy)
        made.monitor.watch("a", target(container="a.2"))
        return n_before, len(made.monitor.unhealthy)

    assert (1, 0) == virtual_run(scene())


def test_who_is_not_watched_is_not_asked() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target())
        made.prober.fault_by_port[1] = "bad"
        await made.run(40.0)
        made.monitor.unwatch("a")
        made.prober.asked_s.clear()
        await made.run(40.0)
        return made

    made = virtual_run(scene())

    assert {} == made.prober.asked_s
    assert {} == made.monitor.unhealthy


def test_an_answer_that_comes_after_the_end_is_not_counted() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.prober.takes_s = 5.0
        made.prober.fault_by_port[1] = "bad"
        made.monitor.watch(
            "a", ProbeTarget("a.1", "n1", "h", 1, Probe(interval_s=10.0, n_failures=1))
        )
        task = asyncio.create_task(made.monitor.run())
        while not made.prober.asked_s:
            await VirtualClock().sleep(0.1)
        made.monitor.unwatch("a")
        await VirtualClock().sleep(20.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return made

    assert {} == virtual_run(scene()).monitor.unhealthy


def test_one_that_hangs_is_not_asked_again_meanwhile_and_delays_nobody() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.prober.takes_s = 35.0
        made.monitor.watch("a", target(1))
        made.monitor.watch("b", target(2))
        await made.run(30.0)
        return made

    assert {1: 1, 2: 1} == {
        port: len(times) for port, times in virtual_run(scene()).prober.asked_s.items()
    }


def test_when_it_ends_no_question_goes_on() -> None:
    async def scene() -> None:
        made = Scene()
        made.prober.takes_s = 35.0
        made.monitor.watch("a", target())
        await made.run(15.0)

        assert made.prober.asked_s
        assert {asyncio.current_task()} == asyncio.all_tasks()

    virtual_run(scene())


def test_a_node_that_was_silent_gets_a_fresh_start() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target(1, node="n1"))
        made.monitor.watch("b", target(2, node="n2"))
        made.prober.fault_by_port = {1: "bad", 2: "bad"}
        await made.run(40.0)
        made.monitor.reset_failures("n1")
        await made.run(20.0)
        return made

    assert ["b"] == list(virtual_run(scene()).monitor.unhealthy)


@pytest.mark.parametrize(("later_fault", "is_unhealthy"), [("bad", True), ("", False)])
def test_failures_are_reset_once_until_it_answers_well(
    later_fault: str, is_unhealthy: bool
) -> None:
    """Whose node misses every second look was always silent just now."""

    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target())
        made.prober.fault_by_port[1] = "bad"
        await made.run(20.0)
        made.monitor.reset_failures("n1")
        made.prober.fault_by_port[1] = later_fault
        await made.run(10.0)
        made.prober.fault_by_port[1] = "bad"
        await made.run(20.0)
        made.monitor.reset_failures("n1")
        await made.run(10.0)
        return made

    assert is_unhealthy == bool(virtual_run(scene()).monitor.unhealthy)


def test_a_prober_that_breaks_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        made = Scene()
        made.monitor.watch("a", target())
        made.prober.fault_by_port[1] = "raise"
        await made.run(20.0)
        assert 2 == len(made.prober.asked_s[1])

    virtual_run(scene())

    assert "bug in a health check" in caplog.text


def test_what_is_cleared_is_forgotten() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target())
        made.prober.fault_by_port[1] = "bad"
        await made.run(40.0)
        made.monitor.clear()
        made.prober.asked_s.clear()
        await made.run(40.0)
        return made

    made = virtual_run(scene())

    assert {} == made.monitor.unhealthy
    assert {} == made.prober.asked_s
    assert "<HealthMonitor of 0 instances, 0 unhealthy>" == repr(made.monitor)


def test_after_a_stall_each_is_asked_once() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", target())
        await VirtualClock().sleep(100.0)
        await made.run(5.0)
        return made

    assert len(virtual_run(scene()).prober.asked_s[1]) <= 2


STALLED = CanaryResult(CanaryOutcome.STALLED, "canary stalled: it does not answer within 30 s")
BUSY = CanaryResult(CanaryOutcome.SKIPPED_BUSY)
NOT_LOADED = CanaryResult(CanaryOutcome.SKIPPED_NOT_LOADED)


def test_what_answers_its_health_check_and_does_not_generate_is_unhealthy_until_it_does() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", canary_target())
        made.prober.canary = STALLED
        await made.run(60.0)
        assert {} == made.monitor.unhealthy
        await made.run(60.0)
        expected = f"failed 2 canaries in a row, last: {STALLED.fault}"
        assert expected == made.monitor.unhealthy["a"].fault
        made.prober.canary = CanaryResult(CanaryOutcome.OK)
        await made.run(60.0)
        return made

    made = virtual_run(scene())

    assert {} == made.monitor.unhealthy
    assert 2 == made.n_changes
    assert (3, 18) == (len(made.prober.canaries_s[1]), len(made.prober.asked_s[1]))


def test_a_canary_that_was_not_sent_is_no_news() -> None:
    """Neither does it end a row of failures, nor is it one."""

    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", canary_target())
        for result in (BUSY, STALLED, NOT_LOADED, BUSY):
            made.prober.canary = result
            await made.run(60.0)
        assert {} == made.monitor.unhealthy
        for result in (STALLED, NOT_LOADED):
            made.prober.canary = result
            await made.run(60.0)
        return made

    made = virtual_run(scene())

    assert ["a"] == list(made.monitor.unhealthy)
    expected = {"stalled": 2, "skipped_busy": 2, "skipped_not_loaded": 2}
    assert expected == made.monitor.take_canaries()
    assert {} == made.monitor.take_canaries()


def test_canaries_that_stall_hold_up_no_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_AT_ONCE", 1)
    monkeypatch.setattr(health, "MAX_CANARIES_AT_ONCE", 2)

    async def scene() -> Scene:
        made = Scene()
        made.prober.canary_takes_s = 30.0
        for port in range(9):
            made.monitor.watch(f"a{port}", canary_target(port))
        await made.run(60.0)
        return made

    made = virtual_run(scene())

    assert {6} == {len(times) for times in made.prober.asked_s.values()}
    begun_s = sorted(at_s for times in made.prober.canaries_s.values() for at_s in times)
    assert all(third >= first + 30.0 for first, third in itertools.pairwise(begun_s[::2]))


def test_the_silence_of_a_node_excuses_canaries_too() -> None:
    async def scene() -> Scene:
        made = Scene()
        made.monitor.watch("a", canary_target())
        made.prober.canary = STALLED
        await made.run(60.0)
        made.monitor.reset_failures("n1")
        await made.run(60.0)
        return made

    assert {} == virtual_run(scene()).monitor.unhealthy


def test_a_frozen_instance_is_replaced_and_one_that_drains_gets_no_canary() -> None:
    async def scene() -> None:
        probe = CHAT.probe.replace(canary=CANARY)
        chat = pool(1, workload=CHAT.replace(engine="ollama", probe=probe, warm_up=()))
        async with provisioner(fleet(chat)) as stage:
            await stage.until(stage.is_whole)
            stage.world.held("chat-00001.1").is_frozen = True
            await stage.until(lambda: stage.instances[0].generation == 2 and stage.is_whole())

            (event,) = [one for one in stage.instances[0].history if one.what == Reason.UNHEALTHY]
            assert "failed 2 canaries in a row, last: canary stalled" in event.detail

            drain_s = 10 * CANARY.period_s
            slow = chat.replace(rotation=Rotation(every_s=0.0, drain_s=drain_s))
            new = slow.workload.replace(model="new")
            await stage.put_spec(fleet(slow.replace(workload=new)))
            await stage.until(lambda: stage.instances[0].phase is Phase.DRAINING)
            assert {"stalled": 2} == stage.counters.canaries
            n_before = stage.world.n_canaries
            await VirtualClock().sleep(drain_s - 60.0)
            assert stage.instances[0].phase is Phase.DRAINING
            assert n_before == stage.world.n_canaries > 0

    virtual_run(scene())


DRAIN_S = 300.0


@pytest.mark.parametrize(
    ("engine", "busy_s", "least_s", "most_s"),
    [
        ("fleet", 0.0, NOTICE_S, NOTICE_S + LOOK_S + 1.0),
        ("llamacpp", 100.0, 100.0, 100.0 + LOOK_S + 1.0),
        ("fleet", 1e6, DRAIN_S, DRAIN_S + 1.0),
        ("ollama", 0.0, DRAIN_S, DRAIN_S + 1.0),
    ],
)
def test_a_drain_ends_once_nothing_is_under_way(
    monkeypatch: pytest.MonkeyPatch, engine: str, busy_s: float, least_s: float, most_s: float
) -> None:
    """At the earliest when clients know of it; at the latest when its time is over."""
    idle_from_s = [0.0]

    async def is_idle(_: SimulatedProber, __: str, ___: int, page: RequestsPage) -> bool:
        assert ENGINES[engine].requests == page
        return VirtualClock().unix_s() >= idle_from_s[-1]

    async def scene() -> None:
        chat = pool(1, workload=CHAT.replace(engine=engine))
        chat = chat.replace(rotation=Rotation(every_s=0.0, drain_s=DRAIN_S))
        async with provisioner(fleet(chat)) as stage:
            await stage.until(stage.is_whole)
            await stage.put_spec(fleet(chat.replace(workload=CHAT.replace(model="new"))))
            await stage.until(lambda: stage.instances[0].phase is Phase.DRAINING)
            begun_s = stage.instances[0].phase_since_s
            idle_from_s.append(begun_s + busy_s)
            await stage.until(lambda: stage.instances[0].phase is Phase.STOPPING)

            assert least_s <= stage.instances[0].phase_since_s - begun_s <= most_s

    monkeypatch.setattr(SimulatedProber, "is_idle", is_idle)
    virtual_run(scene())


def test_what_drains_no_more_is_asked_no_more_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    async def is_idle(_: SimulatedProber, __: str, port: int, ___: RequestsPage) -> bool:
        asked.append(port)
        return len(asked) > 1

    async def scene() -> None:
        clock = VirtualClock()
        prober = SimulatedProber(World(clock))
        monitor = DrainMonitor(lambda _: prober, clock, on_idle=lambda: None)
        entry = replace(instance().inventory_entry, engine="fleet")
        draining = instance(
            phase=Phase.DRAINING, phase_since_s=clock.unix_s() - 60.0, inventory_entry=entry
        )
        monitor.follow({draining.id: StoredInstance(draining, 1)})
        running = asyncio.create_task(monitor.run())
        await clock.sleep(5 * LOOK_S)
        assert frozenset({draining.container}) == monitor.idle
        assert 2 == len(asked)

        monitor.follow({})

        assert not monitor.idle
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    monkeypatch.setattr(SimulatedProber, "is_idle", is_idle)
    virtual_run(scene())
