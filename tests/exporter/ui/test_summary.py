"""The summary: indicators, their thresholds, ages and alerts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from exporter.catalogue import (
    FLEET_CANARY_DURATION,
    FLEET_REQUEST_DURATION,
    HEALTHY_THRESHOLD,
    LATENCY_THRESHOLD,
    QUEUED_THRESHOLD,
    SPEED_THRESHOLD,
    Series,
)
from exporter.counters import FleetCounters
from exporter.inventory import Shard, SourceState
from exporter.model import Condition, LoadedModel, Outcome, Status
from exporter.snapshot import Row
from exporter.ui.cells import Totals
from exporter.ui.prometheus import Alert, Answer
from exporter.ui.recent import RecentHistory
from exporter.ui.revisions import ViewBuilder
from exporter.ui.summary import (
    Bound,
    Limits,
    Name,
    Summariser,
    UiConfig,
    is_met,
    latency_p99,
    n_expected,
    thresholds,
    throughput,
)
from ollama_fleet.levels import Level, parse_level
from tests.exporter.ui.building import (
    LIMITS,
    NOW_S,
    FakePoller,
    HeldClock,
    cell,
    metrics,
    ui_config,
)

PHI, TINY = LoadedModel("phi3", 4e9, 3e9), LoadedModel("tiny")
ALL = {
    HEALTHY_THRESHOLD.name: 1.0,
    LATENCY_THRESHOLD.name: 0.4,
    SPEED_THRESHOLD.name: 70.0,
}


class Told:
    """A Prometheus that has answered already."""

    url = "http://p:9090"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def latest(self) -> Answer:
        return self._answer


def source(read_at_s: float) -> SourceState:
    return SourceState(
        "fleet.yml", read_at_s, last_reload_successful=True, n_instances=1, last_error=""
    )


ROWS = (
    cell("a", speed=50.0, p99_s=0.1),
    cell("b", speed=40.0, p99_s=0.1, conditions=(Condition.ON_CPU,), loaded=(PHI, TINY)),
    cell("c", outcome=Outcome.REFUSED),
)


async def summary(
    *,
    of: UiConfig | None = None,
    is_seen: bool = True,
    completed_at_s: float = NOW_S - 3.5,
    read_at_s: tuple[float, ...] = (NOW_S - 4.0,),
    answer: Answer | None = None,
    rows: tuple[Row, ...] = ROWS,
) -> dict[str, Any]:
    """Return the summary of two healthy instances and one that is not, as a browser reads it."""
    poller, clock, own = FakePoller(), HeldClock(), metrics()
    poller.show(*rows)
    if is_seen:
        poller.has_seen_all.set()
    own.cycle_completed_at_s.set(completed_at_s)
    recent = RecentHistory(poller, FleetCounters(), clock)  # type: ignore[arg-type]
    summariser = Summariser(
        of or ui_config(),
        poller,  # type: ignore[arg-type]
        own,
        lambda: [source(at_s) for at_s in read_at_s],
        None if answer is None else Told(answer),  # type: ignore[arg-type]
        clock,
    )
    surveyor = ViewBuilder(
        poller,  # type: ignore[arg-type]
        recent,
        clock,
        poll_interval_s=10.0,
    )
    fleet_view = await surveyor.build(None, frozenset())
    told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(summariser.summary(fleet_view)))
    return told


def indicator(
    name: str, value: float, threshold: float, bound: str, is_met: bool, source: str | None = None
) -> dict[str, Any]:
    return {
        "name": name, "value": value, "threshold": threshold, "bound": bound, "is_met": is_met,
        "source": source, "missing": None, "n_measured": None,
    }  # fmt: skip


async def test_a_summary_has_everything_that_the_page_shows() -> None:
    instances = {
        "healthy": 2, "unhealthy": 0, "unreachable": 1, "loading": 0, "starting": 0,
        "provisioning": 0, "draining": 0, "away": 0, "unknown": 0,
    }  # fmt: skip

    conditions = {**dict.fromkeys(map(str, Condition), 0), "on_cpu": 1}

    assert {
        "taken_at_seconds": NOW_S,
        "last_cycle_age_seconds": 3.5,
        "inventory_age_seconds": 4.0,
        "shard": {"index": 0, "count": 1},
        "instances": instances,
        "conditions": conditions,
        "engines": {"fleet": 3},
        "loaded_models": [
            {"model": "phi3", "instances": 1, "bytes": 4e9, "vram_bytes": 3e9},
            {"model": "tiny", "instances": 1, "bytes": None, "vram_bytes": None},
        ],
        "n_loaded_models": 2,
        "loaded_bytes": 4e9,
        "loaded_vram_bytes": 3e9,
        "times": [
            {"name": name, "requests_p99_seconds": None, "canaries_p99_seconds": None}
            for name in ("request", "time_to_first_token", "waiting")
        ],
        "canary_period_seconds": 0.0,
        "slow_nodes": [],
        "indicators": [
            indicator("healthy_instances", 2, 2, "floor", is_met=True),
            indicator(
                "request_latency_p99_seconds", 0.1, 0.15, "ceiling", is_met=True, source="instances"
            ),
            indicator("tokens_per_second", 90.0, 120.0, "floor", is_met=False),
        ],
        "thresholds_from": "settings",
        "alerts": None,
        "version": "1.2.3",
    } == await summary()


async def test_nothing_is_judged_before_the_first_poll_cycle_ended() -> None:
    told = await summary(is_seen=False, completed_at_s=0.0)

    assert None is told["last_cycle_age_seconds"]
    assert [None, None, None] == [each["is_met"] for each in told["indicators"]]


NOT_MEASURED = (cell("a", engine="ollama"),)


@pytest.mark.parametrize(
    ("rows", "is_seen", "canary_period_s", "expected"),
    [
        (NOT_MEASURED, False, 0.0, "not_polled"),
        (ROWS[2:], True, 0.0, "not_healthy"),
        (NOT_MEASURED, True, 0.0, "needs_canary"),
        (NOT_MEASURED, True, 300.0, "not_answered"),
    ],
)
async def test_what_has_no_value_says_why(
    rows: tuple[Row, ...], is_seen: bool, canary_period_s: float, expected: str
) -> None:
    of = ui_config(canary_period_s=canary_period_s)

    told = await summary(rows=rows, is_seen=is_seen, of=of)

    assert [None, expected, expected] == [each["missing"] for each in told["indicators"]]


@pytest.mark.parametrize(
    ("p99s_s", "own_s", "expected"),
    [
        ({FLEET_REQUEST_DURATION: 1.0, FLEET_CANARY_DURATION: 2.0}, [3.0], (1.0, "requests")),
        ({FLEET_CANARY_DURATION: 2.0}, [3.0], (2.0, "canaries")),
        ({}, [0.1, 0.2], (pytest.approx(0.199), "instances")),
        ({}, [], (None, None)),
    ],
)
def test_latency_is_of_requests_else_of_canaries_else_what_instances_report(
    p99s_s: dict[Series, float], own_s: list[float], expected: tuple[float | None, str | None]
) -> None:
    """As the alerts have it."""
    assert expected == latency_p99(Totals(latencies_p99_s=own_s), p99s_s)


async def test_of_many_models_those_of_the_most_instances_are_named() -> None:
    names = "abcdefgh"
    rows = [
        cell(f"i{n}", loaded=tuple([LoadedModel(name, 1e9) for name in names[n:]]))
        for n in range(len(names))
    ]

    told = await summary(rows=tuple(rows))

    assert ["h", "g", "f", "e", "d"] == [each["model"] for each in told["loaded_models"]]
    assert (8, 36e9, None) == (
        *[told[name] for name in ("n_loaded_models", "loaded_bytes", "loaded_vram_bytes")],
    )


@pytest.mark.parametrize(
    ("read_at_s", "expected_s"),
    [
        ((NOW_S - 1, NOW_S - 9, NOW_S - 2), 9.0),
        ((NOW_S - 1, 0.0), None),
        ((), None),
        ((NOW_S + 5,), 0.0),
    ],
)
async def test_the_inventory_is_as_old_as_its_oldest_source(
    read_at_s: tuple[float, ...], expected_s: float | None
) -> None:
    assert expected_s == (await summary(read_at_s=read_at_s))["inventory_age_seconds"]


async def test_the_thresholds_of_a_prometheus_come_before_the_settings() -> None:
    told = await summary(answer=Answer(thresholds={**ALL, QUEUED_THRESHOLD.name: 2.0}))

    assert [1.0, 0.4, 70.0] == [each["threshold"] for each in told["indicators"]]
    assert "prometheus" == told["thresholds_from"]
    assert told["indicators"][2]["is_met"]


async def test_a_shard_is_not_held_to_what_the_whole_fleet_must_do() -> None:
    of = ui_config(shard=Shard(1, 2))

    told = await summary(of=of, answer=Answer(thresholds={**ALL, HEALTHY_THRESHOLD.name: 9900.0}))

    assert [2, 0.4, 120.0] == [each["threshold"] for each in told["indicators"]]
    assert ({"index": 1, "count": 2}, "settings") == (told["shard"], told["thresholds_from"])


async def test_alerts_are_passed_on_with_what_is_wrong() -> None:
    firing = Alert("OllamaA", "critical", {"node": "n1"}, 17.5)
    pending = Alert("OllamaB", "warning", {}, 18.5, 300.0, "http://g/d/x")

    told = await summary(answer=Answer("Prometheus is away", (firing,), (pending,), 7, 3))

    assert {
        "error": "Prometheus is away",
        "prometheus_url": "http://p:9090",
        "firing": [
            {
                "name": "OllamaA",
                "severity": "critical",
                "labels": {"node": "n1"},
                "since_seconds": 17.5,
                "for_seconds": None,
                "dashboard_url": "",
            }
        ],
        "pending": [
            {
                "name": "OllamaB",
                "severity": "warning",
                "labels": {},
                "since_seconds": 18.5,
                "for_seconds": 300.0,
                "dashboard_url": "http://g/d/x",
            }
        ],
        "n_firing": 7,
        "n_critical": 3,
    } == told["alerts"]


def totals(speed: float = 0.0, n_measured: int = 0, **instances: int) -> Totals:
    counts = Counter({Status(name): n for name, n in instances.items()})
    return Totals(counts, tokens_per_second=speed, n_measured=n_measured)


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (totals(400.0, 10, healthy=10), 400.0),
        (totals(400.0, 8, healthy=10), 500.0),  # the two others are taken to do 50 each
        (totals(250.0, 5, healthy=10), 500.0),  # half of them are just enough
        (totals(200.0, 4, healthy=10), None),
        (totals(0.0, 0, healthy=10), None),
        (totals(0.0, 0, healthy=0), None),
        (totals(0.0, 10, healthy=10), 0.0),
    ],
)
def test_throughput_is_extrapolated_to_instances_of_unknown_speed(
    of: Totals, expected: float | None
) -> None:
    assert expected == throughput(of)


async def test_a_throughput_that_is_extrapolated_says_from_how_many_instances() -> None:
    told = await summary(rows=(cell("a", speed=40.0), cell("b")))

    assert (80.0, 1) == (told["indicators"][2]["value"], told["indicators"][2]["n_measured"])


async def test_slow_nodes_are_named_the_slowest_first() -> None:
    speeds = {"n1": 40.0, "n2": 20.0, "n3": 30.0, "n4": 40.0, "n5": 40.0}
    rows = [
        cell(f"{node}{n}", node=node, speed=speed) for node, speed in speeds.items() for n in "ab"
    ]
    alone = cell("z", node="n9", speed=1.0)

    told = await summary(rows=(*rows, alone))

    expected = [{"node": "n2", "percent": 50}, {"node": "n3", "percent": 75}]
    assert expected == told["slow_nodes"]


def test_what_starts_is_drained_or_is_away_is_not_expected_to_serve() -> None:
    assert (
        6
        == n_expected(totals(healthy=1, unhealthy=1, unreachable=1, loading=2, unknown=1))
        == n_expected(
            totals(
                healthy=1,
                unhealthy=1,
                unreachable=1,
                loading=2,
                unknown=1,
                draining=4,
                provisioning=9,
                starting=3,
                away=2,
            )
        )
    )


@pytest.mark.parametrize(
    ("text", "n_instances", "expected"),
    [
        ("99%", 10_000, 9900),
        ("99%", 50, 49),  # 49.5: rounded down
        ("99%", 1, 0),
        ("9900", 10, 9900.0),
        ("0.5", 10, 0.5),
    ],
)
def test_a_share_of_the_instances_is_rounded_down(
    text: str, n_instances: int, expected: float
) -> None:
    limits = Limits(parse_level(text), 0.15, Level(1.0))

    assert expected == thresholds(limits, n_instances)[Name.HEALTHY_INSTANCES]


def test_the_default_thresholds_of_ten_thousand_are_the_articles() -> None:
    assert {
        Name.HEALTHY_INSTANCES: 9900,
        Name.REQUEST_LATENCY_P99: 0.15,
        Name.TOKENS_PER_SECOND: 400_000.0,
    } == thresholds(LIMITS, 10_000)


@pytest.mark.parametrize(
    ("value", "bound", "expected"),
    [
        (9.9, Bound.FLOOR, False),
        (10.0, Bound.FLOOR, True),
        (10.1, Bound.FLOOR, True),
        (9.9, Bound.CEILING, True),
        (10.0, Bound.CEILING, True),
        (10.1, Bound.CEILING, False),
        (None, Bound.FLOOR, None),
        (None, Bound.CEILING, None),
    ],
)
def test_at_its_threshold_a_figure_is_still_good(
    value: float | None, bound: Bound, expected: bool | None
) -> None:
    assert expected is is_met(value, 10.0, bound)
