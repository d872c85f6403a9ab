from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from prometheus_client.metrics_core import Metric

from exporter import catalogue
from exporter.catalogue import EXPORTER_SERIES, Series
from exporter.inventory import WHOLE, Shard, SourceState
from exporter.model import Outcome
from exporter.selfmetrics import Request, SelfMetrics
from ollama_fleet.clock import SystemClock

NOT_OURS = re.compile(r"(process|python_gc)_\w+")


@pytest.fixture
def metrics() -> SelfMetrics:
    return SelfMetrics(shard=WHOLE, poll_interval_s=10.0, clock=SystemClock())


def state(source: str, *, is_good: bool = True) -> SourceState:
    return SourceState(source, 1_800_000_000.5, is_good, 12, "" if is_good else "no such file")


def families(metrics: SelfMetrics) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics.registry.collect()}


def samples(metrics: SelfMetrics, series: Series) -> dict[tuple[str, ...], float]:
    """Return a series' samples by label values, in the catalogue's order."""
    found: Iterable[Metric] = metrics.registry.collect()
    return {
        tuple(sample.labels[label] for label in series.labels): sample.value
        for metric in found
        for sample in metric.samples
        if sample.name == series.name
    }


def test_the_registry_holds_the_catalogues_series_and_no_others(metrics: SelfMetrics) -> None:
    ours = {name for name in families(metrics) if not NOT_OURS.fullmatch(name)}

    assert {series.family for series in EXPORTER_SERIES} == ours


@pytest.mark.parametrize("series", EXPORTER_SERIES, ids=lambda series: series.name)
def test_a_series_is_what_the_catalogue_says(series: Series, metrics: SelfMetrics) -> None:
    metrics.set_sources([state("fleet.yml")])
    metrics.gateway("http://127.0.0.1:11431")
    metric = families(metrics)[series.family]

    assert (series.kind, series.help) == (metric.type, metric.documentation)
    assert {(series.name, frozenset(series.labels))} == {
        (sample.name, frozenset(sample.labels)) for sample in metric.samples
    }


def test_every_poll_error_begins_at_zero(metrics: SelfMetrics) -> None:
    """So the first error is an increase that a rate sees."""
    not_errors = {Outcome.OK, Outcome.LOADING}

    assert {
        (str(request), str(outcome)): 0.0
        for request in Request
        for outcome in Outcome
        if outcome not in not_errors
    } == samples(metrics, catalogue.EXPORTER_POLL_ERRORS)


@pytest.mark.parametrize(
    ("shard", "index", "count"),
    [(WHOLE, "0", 1.0), (Shard(0, 4), "0", 4.0), (Shard(3, 4), "3", 4.0)],
)
def test_it_says_which_part_of_the_fleet_it_polls(shard: Shard, index: str, count: float) -> None:
    metrics = SelfMetrics(shard=shard, poll_interval_s=10.0, clock=SystemClock())

    assert {(index,): 1.0} == samples(metrics, catalogue.EXPORTER_SHARD_INFO)
    assert {(): count} == samples(metrics, catalogue.EXPORTER_SHARDS)


def test_sources_are_published_with_their_last_good_list(metrics: SelfMetrics) -> None:
    metrics.set_sources([state("a.yml"), state("b.yml", is_good=False)])

    assert {("a.yml",): 1.0, ("b.yml",): 0.0} == samples(
        metrics, catalogue.EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL
    )
    assert {("a.yml",): 12.0, ("b.yml",): 12.0} == samples(
        metrics, catalogue.EXPORTER_INVENTORY_INSTANCES
    )
    assert 1_800_000_000.5 == samples(metrics, catalogue.EXPORTER_INVENTORY_LAST_SUCCESS)["a.yml",]
