"""The exporter's own metrics, in an own registry; all label sets exist from the start."""

from __future__ import annotations

import platform
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
)

from exporter import catalogue
from exporter.model import Outcome
from ollama_fleet.version import VERSION, revision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from exporter.catalogue import Series
    from exporter.inventory import SourceState
    from exporter.inventory.merge import Shard
    from ollama_fleet.clock import Clock


class Request(StrEnum):
    """Which of a poll's requests failed."""

    HEALTH = "health"
    METRICS = "metrics"


class Refusal(StrEnum):
    """Why an HTTP request was refused."""

    RESPONSES = "responses"
    PASSWORDS = "passwords"
    HOST = "host"


class LeftOut(StrEnum):
    """Why a healthy instance is not in the upstream list."""

    HTTPS = "https"
    PATH = "path"
    UNRESOLVED = "unresolved"


class SelfMetrics:
    """What the exporter says of itself; one object per process."""

    def __init__(self, *, shard: Shard, poll_interval_s: float, clock: Clock) -> None:
        self._clock = clock
        # A `_created` beside each counter would double their number for nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = self._gauge(catalogue.EXPORTER_BUILD_INFO)
        build.labels(VERSION, revision(), platform.python_version()).set(1)
        self._gauge(catalogue.EXPORTER_SHARD_INFO).labels(shard.index).set(1)
        self._gauge(catalogue.EXPORTER_SHARDS).set(shard.count)
        self.poll_interval_s = self._gauge(catalogue.EXPORTER_POLL_INTERVAL)
        self.poll_interval_s.set(poll_interval_s)
        self.polls = self._counter(catalogue.EXPORTER_POLLS)
        errors = self._counter(catalogue.EXPORTER_POLL_ERRORS)
        self.poll_errors: dict[tuple[Request, Outcome], Counter] = {
            (request, outcome): errors.labels(request, outcome)
            for request in Request
            for outcome in Outcome
            if outcome not in (Outcome.OK, Outcome.LOADING)
        }
        self.cycles = self._counter(catalogue.EXPORTER_POLL_CYCLES)
        self.cycle_duration_s = self._gauge(catalogue.EXPORTER_POLL_CYCLE_DURATION)
        self.cycle_completed_at_s = self._gauge(catalogue.EXPORTER_POLL_LAST_COMPLETED)
        self.poll_lateness_s = self._gauge(catalogue.EXPORTER_POLL_LATENESS)
        self.open_connections = self._gauge(catalogue.EXPORTER_OPEN_CONNECTIONS)
        self.exposition_duration_s = self._gauge(catalogue.EXPORTER_EXPOSITION_DURATION)
        self.exposition_samples = self._gauge(catalogue.EXPORTER_EXPOSITION_SAMPLES)
        self.exposition_rendered_at_s = self._gauge(catalogue.EXPORTER_EXPOSITION_TIMESTAMP)
        refused = self._counter(catalogue.EXPORTER_WEB_REQUESTS_REFUSED)
        self.requests_refused = {reason: refused.labels(reason) for reason in Refusal}
        self.responses_aborted = self._counter(catalogue.EXPORTER_WEB_RESPONSES_ABORTED)
        self.connections_closed = self._counter(catalogue.EXPORTER_WEB_CONNECTIONS_CLOSED)
        self._gateway_up = self._gauge(catalogue.EXPORTER_GATEWAY_UP)
        self._gateway_success = self._gauge(catalogue.EXPORTER_GATEWAY_LAST_SUCCESS)
        self._upstreams = self._gauge(catalogue.EXPORTER_UPSTREAMS)
        left_out = self._gauge(catalogue.EXPORTER_UPSTREAMS_LEFT_OUT)
        self._left_out = {reason: left_out.labels(reason) for reason in LeftOut}
        self._reload_is_good = self._gauge(catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESSFUL)
        self._loaded_at_s = self._gauge(catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESS)
        self._config_loaded()
        self._source_instances = self._gauge(catalogue.EXPORTER_INVENTORY_INSTANCES)
        self._source_success = self._gauge(catalogue.EXPORTER_INVENTORY_LAST_SUCCESS)
        self._source_is_good = self._gauge(catalogue.EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL)

    def gateway(self, url: str) -> tuple[Gauge, Gauge]:
        """Return whether a gateway was read last time, and when it was last."""
        return self._gateway_up.labels(url), self._gateway_success.labels(url)

    def set_upstreams(self, n_listed: int, left_out: Mapping[LeftOut, int]) -> None:
        """Publish how many instances the upstream list has, and how many it has not, by reason."""
        self._upstreams.set(n_listed)
        for reason, n in left_out.items():
            self._left_out[reason].set(n)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Publish how a reload of the configuration ends; an error goes on."""
        try:
            yield
        except Exception:
            self._reload_is_good.set(0)
            raise
        self._config_loaded()

    def _config_loaded(self) -> None:
        self._reload_is_good.set(1)
        self._loaded_at_s.set(self._clock.unix_s())

    def set_sources(self, states: Iterable[SourceState]) -> None:
        """Publish how reading each inventory source went; forget other sources."""
        for gauge in (self._source_instances, self._source_success, self._source_is_good):
            gauge.clear()
        for state in states:
            self._source_instances.labels(state.source).set(state.n_instances)
            self._source_success.labels(state.source).set(state.last_success_s)
            self._source_is_good.labels(state.source).set(state.last_reload_successful)

    def _gauge(self, series: Series) -> Gauge:
        return Gauge(series.name, series.help, series.labels, registry=self.registry)

    def _counter(self, series: Series) -> Counter:
        return Counter(series.name, series.help, series.labels, registry=self.registry)
