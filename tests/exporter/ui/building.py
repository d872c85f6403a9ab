"""Fleets and the page's parts for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.counters import Counter, CounterState, FleetCounters
from exporter.inventory import WHOLE, Shard, SourceState
from exporter.model import (
    CanaryState,
    Condition,
    LoadedModel,
    Outcome,
    Reading,
    State,
    Target,
    Values,
    Verdict,
)
from exporter.poller import Poller
from exporter.responses import ResponseSender
from exporter.scrape_target import LastFailure
from exporter.selfmetrics import SelfMetrics
from exporter.snapshot import Row
from exporter.status import is_up
from exporter.ui.handlers import File, FleetUi
from exporter.ui.prometheus import Prometheus
from exporter.ui.recent import RecentHistory
from exporter.ui.revisions import Revisions, ViewBuilder
from exporter.ui.summary import Limits, Summariser, UiConfig
from ollama_fleet.clock import Clock, SystemClock
from ollama_fleet.levels import Level
from tests.exporter.fleets import listed_status

NOW_S = 1_800_000_000.0
LIMITS = Limits(Level(0.99, is_per_instance=True), 0.15, Level(40.0, is_per_instance=True))


class HeldClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s
        self._moved = asyncio.Event()

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        while self.now_s < end_s:
            await self._moved.wait()

    def move(self, by_s: float) -> None:
        self.now_s += by_s
        self._moved.set()
        self._moved = asyncio.Event()


def cell(
    instance_id: str,
    *,
    node: str = "n1",
    model: str = "m",
    developer: str = "",
    engine: str = "fleet",
    state: State = State.RUNNING,
    outcome: Outcome | None = Outcome.OK,
    speed: float | None = None,
    p99_s: float | None = None,
    errors: float | None = None,
    age_s: float | None = None,
    port: int = 1,
    listed_age_s: float | None = None,
    conditions: tuple[Condition, ...] = (),
    loaded: tuple[LoadedModel, ...] | None = None,
    canary: CanaryState | None = None,
) -> Row:
    """Return the row of an instance; an outcome of None is one that was never polled."""
    started_s = None if listed_age_s is None else NOW_S - listed_age_s
    target = Target(
        instance_id, "127.0.0.1", port, node=node, engine=engine, state=state, developer=developer,
        started_s=started_s,
    )  # fmt: skip
    counters = CounterState(
        model=model,
        speed_tokens_per_second=speed,
        speed_at_s=NOW_S,
        start_time_s=None if age_s is None else NOW_S - age_s,
        errors=None if errors is None else (("any", Counter(errors, errors)),),
    )
    reading = None
    if outcome is not None:
        verdict = Verdict(outcome, values=Values(latency_p99_s=p99_s, loaded=loaded))
        reading = Reading(verdict, engine, NOW_S, 0.002)
    status = listed_status(target, reading)
    return Row(target, status, reading, counters, is_up(reading), "", "", conditions, canary)


@dataclass(slots=True)
class StandIn:
    """What the page knows of a watch."""

    row: Row
    last_failure: LastFailure | None = None


@dataclass(slots=True)
class FakePoller:
    """Has the rows that a test gives it, in the order of their ids."""

    scrape_targets: Mapping[str, StandIn] = field(default_factory=dict)
    has_seen_all: asyncio.Event = field(default_factory=asyncio.Event)

    def rows(self) -> Generator[None, None, list[Row]]:
        yield
        return [scrape_target.row for scrape_target in self.scrape_targets.values()]

    def show(self, *rows: Row) -> None:
        self.scrape_targets = {row.target.id: StandIn(row) for row in sorted(rows, key=_id)}


def _id(row: Row) -> str:
    return row.target.id


def ui_config(
    *,
    limits: Limits = LIMITS,
    shard: Shard = WHOLE,
    poll_interval_s: float = 10.0,
    canary_period_s: float = 0.0,
) -> UiConfig:
    refresh_s = max(1.0, poll_interval_s / 5)
    return UiConfig(limits, shard, "1.2.3", poll_interval_s, refresh_s, 30.0, canary_period_s)


def metrics() -> SelfMetrics:
    return SelfMetrics(shard=WHOLE, poll_interval_s=10.0, clock=SystemClock())


def no_sources() -> Sequence[SourceState]:
    return ()


def fleet_ui(
    poller: Poller,
    fleet_counters: FleetCounters,
    own: SelfMetrics,
    *,
    clock: Clock | None = None,
    recent: RecentHistory | None = None,
    of: UiConfig | None = None,
    prometheus: Prometheus | None = None,
    sources: Callable[[], Sequence[SourceState]] = no_sources,
    files: Mapping[str, File] | None = None,
) -> FleetUi:
    """Return the page as the exporter builds it."""
    clock, of = clock or SystemClock(), of or ui_config()
    surveyor = ViewBuilder(
        poller,
        recent or RecentHistory(poller, fleet_counters, clock),
        clock,
        poll_interval_s=of.poll_interval_s,
    )
    revisions = Revisions(surveyor.build, clock, refresh_s=of.refresh_s)
    summariser = Summariser(of, poller, own, sources, prometheus, clock)
    sender = ResponseSender(own, timeout_s=30.0)
    return FleetUi(files or FILES, revisions, summariser, poller, of, clock, sender)


def file(text: str, content_type: str = "text/html; charset=utf-8") -> File:
    return File(content_type, text.encode(), text.encode() * 2, f"tag-{len(text)}")


FILES = {"index.html": file("<!doctype html><title>fleet</title>")}


def written(folder: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def run(steps: Any) -> Any:
    """Return what steps give, without a loop in between."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def ids(rows: Iterable[Row]) -> list[str]:
    return [row.target.id for row in rows]
