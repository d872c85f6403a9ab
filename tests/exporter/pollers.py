"""A poller over loopback servers, with an interval short enough for tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from prometheus_client import Counter, Gauge

from exporter.config import Config
from exporter.counters import FleetCounters
from exporter.engines.auto import all_engines
from exporter.engines.base import MAX_TOKENS_PER_SECOND
from exporter.exposition import Format
from exporter.instance_client import TransportConfig
from exporter.inventory import WHOLE, diff
from exporter.model import Outcome, State, Status, Target
from exporter.poller import Poller
from exporter.publisher import Publisher
from exporter.resolver import Resolver
from exporter.scrape_target import PollOptions
from exporter.selfmetrics import SelfMetrics
from exporter.status import Transient
from ollama_fleet.clock import Clock, SystemClock
from tests.waiting import eventually

INTERVAL_S = 0.4
PATIENCE_S = 60.0
"""So much time no answer takes, however busy the machine is; nor does a test."""


def value_of(metric: Counter | Gauge) -> float:
    """Return the value of one of the exporter's own metrics."""
    (family,) = metric.collect()
    value: float = family.samples[0].value
    return value


@dataclass(frozen=True, slots=True)
class Polled:
    """A running poller and what belongs to it."""

    poller: Poller
    publisher: Publisher
    fleet_counters: FleetCounters
    metrics: SelfMetrics
    options: PollOptions

    async def update(self, *targets: Target) -> None:
        """Take over a new list of targets."""
        before = [scrape_target.target for scrape_target in self.poller.scrape_targets.values()]
        await self.poller.update(diff(before, targets))

    def status(self, instance_id: str) -> Status:
        return self.poller.scrape_targets[instance_id].row.status

    def outcome(self, instance_id: str) -> Outcome | None:
        """Return the outcome of the last poll; None before the first."""
        polled = self.poller.scrape_targets[instance_id].row.reading
        return None if polled is None else polled.verdict.outcome

    def outcomes(self, instance_id: str) -> tuple[Outcome, Outcome] | None:
        """Return how the last poll's request for the health went, and that for the figures."""
        polled = self.poller.scrape_targets[instance_id].row.reading
        return None if polled is None else (polled.verdict.outcome, polled.verdict.metrics_outcome)

    def is_idle(self, instance_id: str) -> bool:
        """Return whether no poll of the instance is under way."""
        return instance_id not in self.poller._polls

    def polled_at_s(self, instance_id: str) -> float:
        """Return when the last poll began; 0 before the first."""
        polled = self.poller.scrape_targets[instance_id].row.reading
        return 0.0 if polled is None else polled.polled_at_s

    async def polled_all(self) -> None:
        """Return once a cycle has ended and every instance that runs has been polled."""
        running = [
            scrape_target
            for scrape_target in self.poller.scrape_targets.values()
            if scrape_target.target.state is not State.PROVISIONING
        ]
        await eventually(self.poller.has_seen_all.is_set)
        # Where a poll may take longer than the interval, the next cycle may end before it does.
        await eventually(
            lambda: all(scrape_target.row.reading is not None for scrape_target in running)
        )

    def be_patient(self) -> None:
        """Give each poll from now on all the time that it takes."""
        patient = replace(self.options, health_timeout_s=PATIENCE_S, metrics_timeout_s=PATIENCE_S)
        for scrape_target in self.poller.scrape_targets.values():
            scrape_target._options = patient

    async def polled_again(self, instance_id: str) -> None:
        """Return once the instance has been polled anew."""
        before_s = self.polled_at_s(instance_id)
        await eventually(lambda: self.polled_at_s(instance_id) > before_s)

    async def page(self) -> str:
        """Publish and return the page."""
        await self.publisher.publish()
        assert self.publisher.rendered_scrape is not None
        return b"".join(self.publisher.rendered_scrape.exposition.parts(Format.TEXT)).decode()


def patient(of: Config) -> Config:
    """Return the configuration with time-outs that no poll reaches, however busy the machine is."""
    return replace(of, poll_health_timeout=PATIENCE_S, poll_metrics_timeout=PATIENCE_S)


def target(
    instance_id: str,
    port: int,
    engine: str = "fleet",
    state: State = State.RUNNING,
    **rest: str,
) -> Target:
    return Target(instance_id, "127.0.0.1", port, engine=engine, state=state, **rest)  # type: ignore[arg-type]


@asynccontextmanager
async def polling(
    *targets: Target,
    interval_s: float = INTERVAL_S,
    health_timeout_s: float | None = None,
    metrics_timeout_s: float | None = None,
    loading_timeout_s: float = 3600.0,
    starting_timeout_s: float = 3600.0,
    transient: str = "",
    clock: Clock | None = None,
) -> AsyncIterator[Polled]:
    """Poll targets until the block ends; a poll may take nearly the whole interval."""
    clock = clock or SystemClock()
    resolver = Resolver(clock)
    options = PollOptions(
        health_timeout_s=health_timeout_s or 0.95 * interval_s,
        metrics_timeout_s=metrics_timeout_s or 0.975 * interval_s,
        identify_interval_s=3600.0,
        loading_timeout_s=loading_timeout_s,
        starting_timeout_s=starting_timeout_s,
        transient=Transient.parse(transient),
        max_tokens_per_second=MAX_TOKENS_PER_SECOND,
        engines=all_engines(latency_unit_s=1.0),
        transport=TransportConfig(resolver, ssl.create_default_context()),
        clock=clock,
    )
    fleet_counters = FleetCounters()
    metrics = SelfMetrics(shard=WHOLE, poll_interval_s=interval_s, clock=clock)
    poller = Poller(interval_s, options, fleet_counters, metrics)
    publisher = Publisher(poller, fleet_counters, metrics, clock, grace_period_s=90.0)
    polled = Polled(poller, publisher, fleet_counters, metrics, options)
    await polled.update(*targets)
    running = asyncio.create_task(poller.run())
    try:
        yield polled
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await poller.close()
        await resolver.close()


watching = partial(polling, health_timeout_s=PATIENCE_S, metrics_timeout_s=PATIENCE_S)
"""Poll targets that all answer some time: none is ever late."""
hastily_polling = partial(polling, health_timeout_s=0.1, metrics_timeout_s=0.2)
"""Poll targets of which some never answer; on a busy machine others may be late too."""
