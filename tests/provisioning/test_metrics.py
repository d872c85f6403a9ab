"""The provisioner's own series: there from the start, and right."""

from __future__ import annotations

import msgspec
import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import FencedError
from provisioning.lifecycle import Kind, Operation, Outcome, Result
from provisioning.metrics import Metrics, StoreCall, TimedStore
from provisioning.model import Phase, Reason
from provisioning.report import Listener, Report
from provisioning.store.base import Store, Term
from provisioning.store.memory import MemoryBackend, MemoryStore

NAME = "ollama_provisioner_"


class Clock(SystemClock):
    now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(clock)


def samples(metrics: Metrics) -> dict[str, float]:
    lines = (
        line for line in metrics.exposition().decode().splitlines() if not line.startswith("#")
    )
    found = (line.rpartition(" ") for line in lines)
    return {name.removeprefix(NAME): float(value) for name, _, value in found}


def test_series_are_there_from_the_start(metrics: Metrics) -> None:
    found = samples(metrics)

    for name in (
        *(f'instances{{phase="{one}"}}' for one in Phase),
        *(f'replacements_total{{reason="{one}"}}' for one in Reason),
        *(f'store_errors_total{{call="{one}"}}' for one in StoreCall),
        *(f'operations_total{{operation="{one}",result="done"}}' for one in Kind),
        *(f'operations_total{{operation="start",result="{one}"}}' for one in Result),
        *("leader", "running_operations", "store_outages_total"),
    ):
        assert 0.0 == found[name]
    assert [] == [name for name in found if "_created" in name]


def test_operations_are_counted_by_how_they_ended(metrics: Metrics) -> None:
    listener: Listener = metrics
    start, stop = (Operation(kind, "n1", "a-00001.1") for kind in (Kind.START, Kind.STOP))

    listener.operation_ended(start, Outcome(Result.DONE, duration_s=2.0))
    listener.operation_ended(start, Outcome(Result.RESOURCE_EXHAUSTED, duration_s=9.0, n_tries=3))
    listener.operation_ended(stop, Outcome(Result.DONE, duration_s=7.0))

    found = samples(metrics)
    assert 1.0 == found['operations_total{operation="start",result="resource_exhausted"}']
    assert 1.0 == found['operations_total{operation="stop",result="done"}']
    assert 5.0 == found["tries_total"]
    assert (1.0, 2.0) == (
        found["provision_duration_seconds_count"],
        found["provision_duration_seconds_sum"],
    )


def test_a_reconcile_says_what_it_found_and_when(metrics: Metrics) -> None:
    given_up = {Reason.UNHEALTHY: 2, "out_of_memory": 1}
    report = Report(1, 10, 9, {}, n_running=3, n_waiting=4, reasons=given_up, duration_s=0.25)
    metrics.reconcile_ended(msgspec.structs.replace(report, canaries={"ok": 7, "stalled": 2}))

    found = samples(metrics)
    assert (7.0, 2.0, 0.0) == tuple(
        found[f'canaries_total{{outcome="{outcome}"}}']
        for outcome in ("ok", "stalled", "skipped_busy")
    )
    assert 4.0 == found["waiting_operations"]
    assert (2.0, 1.0, 0.0) == tuple(
        found[f'replacements_total{{reason="{reason}"}}']
        for reason in ("unhealthy", "out_of_memory", "exited")
    )
    assert (9.0, 3.0) == (found["ready_instances"], found["running_operations"])
    assert (0.25, 1000.0) == (
        found["reconcile_duration_seconds_sum"],
        found["last_reconcile_timestamp_seconds"],
    )


async def test_calls_of_the_store_are_timed_and_their_errors_counted(
    metrics: Metrics, clock: Clock
) -> None:
    inner = MemoryStore(MemoryBackend())
    store: Store = TimedStore(inner, metrics)

    assert await inner.load() == await store.load()
    with pytest.raises(FencedError):
        await store.commit([], term=Term(7, "x"))
    with metrics.timing(StoreCall.LOAD):
        clock.now_s += 0.3
    await store.close()
    metrics.outage_began()

    found = samples(metrics)
    assert (2.0, 0.0) == (
        found['store_duration_seconds_count{call="load"}'],
        found['store_errors_total{call="load"}'],
    )
    assert (1.0, 1.0) == (
        found['store_duration_seconds_count{call="commit"}'],
        found['store_errors_total{call="commit"}'],
    )
    assert 1.0 == found["store_outages_total"]
    assert pytest.approx(0.3) == found['store_duration_seconds_sum{call="load"}']
