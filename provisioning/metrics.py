"""The provisioner's own series for Prometheus."""

from __future__ import annotations

import platform
from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ollama_fleet.canary_outcome import CanaryOutcome
from ollama_fleet.clock import Clock
from ollama_fleet.version import VERSION, revision
from provisioning.lifecycle import Kind, Operation, Outcome, Result
from provisioning.model import Instance, Phase, Reason
from provisioning.report import Report
from provisioning.store.base import Change, ChangeResult, Store, Term, Update, View


class TimedStore:
    """See `store.base.Store`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    async def load(self) -> View:
        """Return everything, as of one revision."""
        with self._metrics.timing(StoreCall.LOAD):
            return await self._store.load()

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        """Make each change whole or not at all, in order."""
        with self._metrics.timing(StoreCall.COMMIT):
            return await self._store.commit(changes, term=term)

    def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield what is written after a revision."""
        return self._store.watch(after)

    async def close(self) -> None:
        """Close the store inside."""
        await self._store.close()


PREFIX = "ollama_provisioner_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PROVISION_BOUNDARIES_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""The default limits.start_timeout, 30 s, is a boundary."""
STORE_BOUNDARIES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
RECONCILE_BOUNDARIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0)


class StoreCall(StrEnum):
    """A call of the store."""

    LOAD = "load"
    COMMIT = "commit"


class Metrics:
    """The provisioner's series; one object per process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # A `_created` beside each counter would double their number for nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = self._gauge(
            "build_info",
            "Always 1; version and revision in labels.",
            "version",
            "revision",
            "python",
        )
        build.labels(VERSION, revision(), platform.python_version()).set(1)
        self._make_fleet_series()
        self._make_work_series()
        self._make_store_series()
        self._make_api_series()
        self._make_reload_series()

    def _make_fleet_series(self) -> None:
        self.is_leader = self._gauge("leader", "1 while this provisioner leads, otherwise 0.")
        self.wanted_instances = self._gauge(
            "wanted_instances", "Instances that the specification asks for."
        )
        self._instances = self._gauge(
            "instances",
            "Instances by phase, as the store has them; every phase is present.",
            "phase",
        )
        self.view_timestamp_s = self._gauge(
            "view_timestamp_seconds",
            "When the cached view last matched the store, in seconds since 1970.",
        )
        self.unreachable_nodes = self._gauge(
            "unreachable_nodes", "Nodes whose runtime does not answer."
        )
        self.orphans = self._gauge(
            "orphans",
            "Containers and processes of the fleet without a record in the store; "
            "see: ollama-fleet provisioner orphans list.",
        )
        self.upstreams_left_out = self._gauge(
            "upstreams_left_out",
            "Running instances that are not in the upstream list, because the address of their "
            "node is a name.",
        )
        self.set_instances(())

    def _make_work_series(self) -> None:
        self._provision_duration_s = self._histogram(
            "provision_duration_seconds",
            "Time from creating an instance to its first healthy answer, all tries included.",
            PROVISION_BOUNDARIES_S,
        )
        self._operations = self._counter(
            "operations_total",
            "Finished operations on containers, by operation and result.",
            "operation",
            "result",
        )
        for kind in Kind:
            for result in Result:
                self._operations.labels(kind, result)
        self._tries = self._counter("tries_total", "Attempts at operations, retries included.")
        self._running_operations = self._gauge("running_operations", "Operations in progress.")
        self._waiting_operations = self._gauge(
            "waiting_operations",
            "Instances to create, start or stop that wait for an operation, capacity or a node.",
        )
        self._replacements = self._counter(
            "replacements_total",
            "Containers replaced or removed, by reason; failed starts are in operations_total.",
            "reason",
        )
        for reason in Reason:
            self._replacements.labels(reason)
        self._canaries = self._counter(
            "canaries_total",
            "Canaries of pools with health.canary, by outcome. ok: the tokens came. stalled: no "
            "answer before the timeout. error: a bad answer or no connection. skipped_busy: the "
            "instance has other requests. skipped_not_loaded: the model is not in memory, is about "
            "to be unloaded, could be loaded again by the canary, or does not generate.",
            "outcome",
        )
        for outcome in CanaryOutcome:
            self._canaries.labels(outcome)
        self._ready = self._gauge(
            "ready_instances", "Instances that run, are healthy, and are up to date."
        )
        self._reconcile_duration_s = self._histogram(
            "reconcile_duration_seconds",
            "Duration of one reconcile of the whole fleet.",
            RECONCILE_BOUNDARIES_S,
        )
        self._last_reconcile_timestamp_s = self._gauge(
            "last_reconcile_timestamp_seconds",
            "When the last reconcile ended, in seconds since 1970; 0: none yet.",
        )

    def _make_store_series(self) -> None:
        duration = self._histogram(
            "store_duration_seconds",
            "Duration of calls of the store, failed ones included.",
            STORE_BOUNDARIES_S,
            "call",
        )
        errors = self._counter("store_errors_total", "Failed calls of the store.", "call")
        self._store_outages = self._counter(
            "store_outages_total",
            "Store outages. The provisioner changes nothing during an outage.",
        )
        self.store_duration_s = {call: duration.labels(call) for call in StoreCall}
        self.store_errors = {call: errors.labels(call) for call in StoreCall}

    def _make_api_series(self) -> None:
        self.api_requests = self._counter(
            "api_requests_total",
            "Answered requests, by operation and status.",
            "operation",
            "status",
        )
        self.api_closed_connections = self._counter(
            "api_closed_connections_total",
            "Connections closed because web.max-connections were open.",
        )

    def _make_reload_series(self) -> None:
        self._reload_is_good = self._gauge(
            "config_last_reload_successful",
            "1 if the last reload of the files succeeded, or none was asked for; 0 while those "
            "read before stay in force.",
        )
        self._loaded_at_s = self._gauge(
            "config_last_reload_success_timestamp_seconds",
            "Time of the last successful reload of the files, or of the start, in seconds since "
            "1970.",
        )
        self._files_loaded()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Publish how a reload of the files ends; an error goes on."""
        try:
            yield
        except Exception:
            self._reload_is_good.set(0)
            raise
        self._files_loaded()

    def _files_loaded(self) -> None:
        self._reload_is_good.set(1)
        self._loaded_at_s.set(self._clock.unix_s())

    def set_instances(self, instances: Iterable[Instance]) -> None:
        """Publish how many instances are in each phase."""
        tally = Tally(instance.phase for instance in instances)
        for phase in Phase:
            self._instances.labels(phase).set(tally[phase])

    def operation_ended(self, operation: Operation, outcome: Outcome) -> None:
        """Count and time an operation on a container."""
        self._operations.labels(operation.kind, outcome.result).inc()
        self._tries.inc(outcome.n_tries)
        if operation.kind is Kind.START and outcome.result is Result.DONE:
            self._provision_duration_s.observe(outcome.duration_s)

    def reconcile_ended(self, report: Report) -> None:
        """Publish what a reconcile has found."""
        self._reconcile_duration_s.observe(report.duration_s)
        self._last_reconcile_timestamp_s.set(self._clock.unix_s())
        self._running_operations.set(report.n_running)
        self._waiting_operations.set(report.n_waiting)
        self._ready.set(report.n_ready)
        for reason, n in report.reasons.items():
            self._replacements.labels(reason).inc(n)
        for outcome, n in report.canaries.items():
            self._canaries.labels(outcome).inc(n)

    def outage_began(self) -> None:
        """Count an outage of the store."""
        self._store_outages.inc()

    @contextmanager
    def timing(self, call: StoreCall) -> Iterator[None]:
        """Time a call of the store; an error goes on, and is counted."""
        begun_s = self._clock.monotonic_s()
        try:
            yield
        except Exception:
            self.store_errors[call].inc()
            raise
        finally:
            self.store_duration_s[call].observe(self._clock.monotonic_s() - begun_s)

    def exposition(self) -> bytes:
        """Return all series as Prometheus text, version 0.0.4."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, help_, labels, registry=self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, help_, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_: str, boundaries_s: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(PREFIX + name, help_, labels, registry=self.registry, buckets=boundaries_s)
