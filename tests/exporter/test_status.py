"""The status of an instance over its life: new, provisioned, healthy, failing, away, back."""

from __future__ import annotations

import ssl
from dataclasses import replace

import msgspec
import pytest

from exporter import status
from exporter.counters import FleetCounters
from exporter.engines.auto import all_engines
from exporter.instance_client import TransportConfig
from exporter.inventory import Change
from exporter.model import (
    CanaryOutcome,
    CanaryState,
    HealthCheck,
    Outcome,
    State,
    Status,
    Target,
)
from exporter.resolver import Resolver
from exporter.scrape_target import PollOptions, ScrapeTarget
from exporter.snapshot import Aggregation
from exporter.status import Departed, StatusHistory, Transient, is_within, polled_status, status_of
from tests.exporter.fleets import NOW_S, reading, row
from tests.exporter.inventory.fakes import HeldClock
from tests.exporter.pollers import target, watching
from tests.exporter.servers import answering, serving
from tests.ports import free_port
from tests.waiting import eventually

STARTING_TIMEOUT_S = 900.0
FLEET = answering({"/health": b"{}", "/api/metrics": b'{"tokens_per_second":42}'})


class Watched:
    """A scrape target whose clock a test moves; its server runs or does not."""

    def __init__(
        self, port: int, state: State = State.RUNNING, *, is_new: bool = False, transient: str = ""
    ) -> None:
        self.clock = HeldClock()
        self.n_restarts = 0
        options = PollOptions(
            health_timeout_s=60.0,
            metrics_timeout_s=60.0,
            identify_interval_s=3600.0,
            loading_timeout_s=600.0,
            starting_timeout_s=STARTING_TIMEOUT_S,
            max_tokens_per_second=1e6,
            engines=all_engines(latency_unit_s=1.0),
            transport=TransportConfig(Resolver(self.clock), ssl.create_default_context()),
            clock=self.clock,
            transient=Transient.parse(transient),
        )
        history = StatusHistory(coming_up_since_s=self.clock.now_s if is_new else None)
        listed = replace(target("a", port, state=state), labels={"kind": "laptop"})
        self.scrape_target = ScrapeTarget(listed, options, history=history)

    @property
    def status(self) -> Status:
        return self.scrape_target.row.status

    @property
    def failing_since_s(self) -> float | None:
        return self.scrape_target.row.failing_since_s

    async def poll(self, after_s: float = 10.0) -> Status:
        self.clock.now_s += after_s
        result = await self.scrape_target.poll(self.scrape_target.start_poll())
        self.n_restarts += result.delta.n_restarts
        return self.status

    def relist(self, state: State, port: int | None = None) -> Status:
        listed = self.scrape_target.target
        changed = replace(listed, state=state, port=port or listed.port)
        self.scrape_target.close()
        self.scrape_target = self.scrape_target.successor(changed)
        return self.status


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.OK, Status.HEALTHY),
        (Outcome.LOADING, Status.LOADING),
        (Outcome.REFUSED, Status.UNREACHABLE),
        (Outcome.CONNECT_TIMEOUT, Status.UNREACHABLE),
        (Outcome.CONNECT_FAILED, Status.UNREACHABLE),
        (Outcome.UNRESOLVED, Status.UNREACHABLE),
        (Outcome.TLS, Status.UNREACHABLE),
        (Outcome.RESET, Status.UNREACHABLE),
        (Outcome.TIMEOUT, Status.UNHEALTHY),
        (Outcome.CLOSED, Status.UNHEALTHY),
        (Outcome.MALFORMED, Status.UNHEALTHY),
        (Outcome.TOO_LARGE, Status.UNHEALTHY),
        (Outcome.FORBIDDEN, Status.UNHEALTHY),
        (Outcome.HTTP_STATUS, Status.UNHEALTHY),
        (Outcome.BAD_BODY, Status.UNHEALTHY),
        (Outcome.UNRECOGNISED, Status.UNHEALTHY),
        (Outcome.NO_DESCRIPTOR, Status.UNKNOWN),
    ],
)
def test_each_outcome_has_its_status(outcome: Outcome, expected: Status) -> None:
    assert expected == polled_status(target("a", 1), reading(outcome), None)


@pytest.mark.parametrize(
    ("health", "n_stalled", "outcome", "expected"),
    [
        (HealthCheck.CANARY, 1, Outcome.OK, Status.HEALTHY),
        (HealthCheck.CANARY, 2, Outcome.OK, Status.UNHEALTHY),
        (HealthCheck.CANARY, 2, Outcome.REFUSED, Status.UNREACHABLE),
        (HealthCheck.POLL, 9, Outcome.OK, Status.HEALTHY),
    ],
)
def test_two_stalled_canaries_in_a_row_are_unhealthy_where_the_inventory_says_so(
    health: HealthCheck, n_stalled: int, outcome: Outcome, expected: Status
) -> None:
    canary = CanaryState(CanaryOutcome.STALLED, "", NOW_S, n_stalled, NOW_S)

    one = replace(target("a", 1), health=health)

    assert expected is polled_status(one, reading(outcome), canary)


@pytest.mark.parametrize(
    ("state", "polled", "is_coming_up", "was_healthy", "is_transient", "expected"),
    [
        (State.DRAINING, Status.HEALTHY, True, False, True, Status.DRAINING),
        (State.PROVISIONING, Status.HEALTHY, True, False, False, Status.PROVISIONING),
        (State.PROVISIONING, Status.UNKNOWN, True, True, True, Status.PROVISIONING),
        (State.PROVISIONING, Status.UNREACHABLE, False, False, False, Status.UNREACHABLE),
        (State.RUNNING, Status.HEALTHY, True, False, True, Status.HEALTHY),
        (State.RUNNING, Status.UNKNOWN, True, False, False, Status.STARTING),
        (State.RUNNING, Status.LOADING, True, False, True, Status.STARTING),
        (State.RUNNING, Status.UNREACHABLE, True, False, True, Status.STARTING),
        (State.RUNNING, Status.LOADING, True, True, False, Status.LOADING),
        (State.RUNNING, Status.UNREACHABLE, False, True, True, Status.AWAY),
        (State.RUNNING, Status.UNREACHABLE, False, False, False, Status.UNREACHABLE),
        (State.RUNNING, Status.UNHEALTHY, False, True, True, Status.UNHEALTHY),
    ],
)
def test_the_inventory_comes_first_then_health_then_the_start(
    state: State,
    polled: Status,
    is_coming_up: bool,
    was_healthy: bool,
    is_transient: bool,
    expected: Status,
) -> None:
    assert expected is status_of(
        state,
        polled,
        is_coming_up=is_coming_up,
        was_healthy=was_healthy,
        is_transient=is_transient,
    )


async def test_a_new_instance_is_starting_until_it_is_healthy_and_never_again() -> None:
    port = free_port()
    new, known = Watched(port, is_new=True), Watched(port)
    seen = [(new.status, known.status)]
    seen.append((await new.poll(), await known.poll()))
    async with serving(FLEET, port):
        seen.append((await new.poll(), await known.poll()))
    seen.append((await new.poll(), await known.poll()))

    gone = (Status.UNREACHABLE, Status.UNREACHABLE)
    assert [
        (Status.STARTING, Status.UNKNOWN),
        (Status.STARTING, Status.UNREACHABLE),
        (Status.HEALTHY, Status.HEALTHY),
        gone,
    ] == seen


async def test_what_does_not_start_in_its_time_fails_from_then_on() -> None:
    new = Watched(free_port(), is_new=True)

    assert Status.STARTING is await new.poll(STARTING_TIMEOUT_S - 0.1)
    assert new.failing_since_s is None
    assert Status.UNREACHABLE is await new.poll(0.1)
    assert new.clock.now_s == new.failing_since_s


async def test_provisioning_ends_with_its_time_which_begins_again_only_after_health() -> None:
    port = free_port()
    one = Watched(port, State.PROVISIONING)
    one.clock.now_s += STARTING_TIMEOUT_S - 0.1
    assert (Status.PROVISIONING, False) == (one.status, one.scrape_target.is_due)
    one.clock.now_s += 0.1
    assert one.scrape_target.is_due
    assert Status.UNREACHABLE is await one.poll(0.0)

    assert Status.UNKNOWN is one.relist(State.RUNNING)
    one.relist(State.PROVISIONING)
    assert one.scrape_target.is_due

    async with serving(FLEET, port):
        assert Status.HEALTHY is await one.poll()
        one.relist(State.RUNNING)
        assert Status.HEALTHY is await one.poll()
    assert (Status.PROVISIONING, False) == (
        one.relist(State.PROVISIONING),
        one.scrape_target.is_due,
    )


async def test_an_instance_that_was_provisioned_is_starting_when_it_runs() -> None:
    one = Watched(free_port(), State.PROVISIONING)

    assert Status.STARTING is one.relist(State.RUNNING)
    assert Status.STARTING is await one.poll(STARTING_TIMEOUT_S - 1.0)
    assert Status.UNREACHABLE is await one.poll(1.0)


@pytest.mark.parametrize(
    ("transient", "expected"),
    [
        ("all", Status.AWAY),
        (" kind=laptop ", Status.AWAY),
        ("kind=server", Status.UNREACHABLE),
        ("laptop=kind", Status.UNREACHABLE),
        ("", Status.UNREACHABLE),
    ],
)
async def test_a_transient_instance_that_is_gone_is_away(transient: str, expected: Status) -> None:
    one = Watched(free_port(), transient=transient)

    assert expected is await one.poll()
    assert (expected is Status.AWAY) is one.scrape_target.row.is_transient
    assert (expected is Status.AWAY) is (one.failing_since_s is None)


async def test_it_fails_since_the_first_poll_of_those_in_a_row_that_failed() -> None:
    port = free_port()
    one = Watched(port)
    assert one.clock.now_s == one.failing_since_s  # as far as the exporter knows
    async with serving(FLEET, port):
        await one.poll()
        assert one.failing_since_s is None
    await one.poll()
    failed_at_s = one.clock.now_s
    await one.poll()

    assert failed_at_s == one.failing_since_s
    one.relist(State.DRAINING)
    assert one.failing_since_s is None  # it need not serve
    one.relist(State.RUNNING)
    assert one.clock.now_s == one.failing_since_s


def test_failures_are_recent_within_the_grace_period() -> None:
    failed = row(Target("a", "h", 1), reading(Outcome.REFUSED))
    ages_s = (0.0, 89.0, 90.0, 500.0, -1.0, None)
    rows = [
        msgspec.structs.replace(failed, failing_since_s=None if age_s is None else NOW_S - age_s)
        for age_s in ages_s
    ]
    aggregation = Aggregation(now_s=NOW_S, grace_period_s=90.0)
    aggregation.add([*rows, msgspec.structs.replace(failed, is_transient=True)])
    fleet = aggregation.finish(FleetCounters())

    assert 3 == fleet.recently_failed_instances
    assert 1 == fleet.transient_instances


def test_a_clock_that_is_set_back_makes_nothing_recent() -> None:
    seen = [is_within(since_s, 100.0, 10.0) for since_s in (100.0, 90.1, 90.0, 100.1, None)]

    assert [True, True, False, False, False] == seen


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("laptops", "neither LABEL=VALUE nor all"),
        ("kind=", "neither LABEL=VALUE nor all"),
        ("=laptop", "not a label name"),
        ("2=laptop", "not a label name"),
        ("__kind=laptop", "Prometheus's own"),
        ("node=n1", "node is a key of the instance"),
        ("kind=a\x07", "control characters"),
        (f"kind={'x' * 257}", "at most 256 characters"),
    ],
)
def test_a_transient_label_that_no_instance_can_have_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Transient.parse(text)


def test_what_left_while_it_failed_is_as_it_was_when_it_is_back_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "MAX_DEPARTED", 2)
    departed = Departed(900.0)
    failing, coming = StatusHistory(failing_since_s=5.0), StatusHistory(coming_up_since_s=5.0)
    departed.note("early", failing, 0.0)
    departed.note("failing", failing, 10.0)
    departed.note("healthy", StatusHistory(), 10.0)
    departed.note("coming", coming, 20.0)  # one too many: the first one is forgotten

    back = [departed.recall(id_, 899.0) for id_ in ("early", "failing", "healthy", "failing")]
    assert [None, failing, None, None] == back
    assert departed.recall("coming", 920.0) is None


async def test_what_appears_after_the_first_list_is_starting_and_what_returns_is_not() -> None:
    port = free_port()
    a, b = target("a", port), target("b", port)
    async with watching(a) as polled:
        await polled.poller.update(Change(added=(b,), appeared=frozenset({"b"})))
        await eventually(lambda: polled.outcome("b") is polled.outcome("a") is Outcome.REFUSED)
        seen = [polled.status("a"), polled.status("b")]
        await polled.poller.update(Change(removed=(a,)))
        await polled.poller.update(Change(added=(a,), appeared=frozenset({"a"})))
        seen.append(polled.status("a"))

    assert [Status.UNREACHABLE, Status.STARTING, Status.UNKNOWN] == seen


async def test_an_instance_that_is_provisioned_for_too_long_is_polled() -> None:
    async with serving(FLEET) as port:
        one = target("a", port, state=State.PROVISIONING)
        async with watching(one, starting_timeout_s=1.0) as polled:
            assert Status.PROVISIONING is polled.status("a")
            await eventually(lambda: polled.status("a") is Status.HEALTHY)
            page = await polled.page()

    assert 'ollama_fleet_instances{shard="0",status="healthy"} 1\n' in page
    assert 'ollama_fleet_instances{shard="0",status="provisioning"} 0\n' in page


async def test_a_refused_connection_between_two_healthy_polls_is_a_restart() -> None:
    port = free_port()
    async with watching(target("a", port)) as polled:
        await eventually(lambda: polled.outcome("a") is Outcome.REFUSED)
        async with serving(FLEET, port):
            await eventually(lambda: polled.outcome("a") is Outcome.OK)
        first = polled.fleet_counters.restarts
        await eventually(lambda: polled.outcome("a") is Outcome.REFUSED)
        async with serving(FLEET, port):
            await eventually(lambda: polled.outcome("a") is Outcome.OK)
            await polled.polled_again("a")

    assert (0, 1) == (first, polled.fleet_counters.restarts)


@pytest.mark.parametrize(
    ("states", "is_moved", "expected"),
    [
        ((State.RUNNING, State.RUNNING), False, 1),
        ((State.RUNNING, State.RUNNING), True, 0),
        ((State.DRAINING, State.RUNNING), False, 0),
    ],
)
async def test_another_server_and_a_drained_one_have_not_restarted(
    states: tuple[State, State], is_moved: bool, expected: int
) -> None:
    port, other_port = free_port(), free_port()
    one = Watched(port)
    async with serving(FLEET, port):
        await one.poll()
    one.relist(states[0])
    await one.poll()
    now_at = other_port if is_moved else port
    one.relist(states[1], port=now_at)
    async with serving(FLEET, now_at):
        await one.poll()

    assert expected == one.n_restarts
