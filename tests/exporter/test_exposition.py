from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from exporter import catalogue
from exporter.canary_counters import CanaryCounters
from exporter.catalogue import BOUNDARIES_S, Kind, Series
from exporter.counters import SPEED_KEPT_S, Delta, FleetCounters
from exporter.exposition import Format, assemble, fleet_chunks, instance_chunks
from exporter.model import (
    CanaryOutcome,
    CanaryState,
    Generation,
    Histogram,
    LoadedModel,
    Outcome,
    State,
    Target,
    Values,
)
from exporter.snapshot import Row, Snapshot
from exporter.status import FAILING
from tests.exporter.fleets import NOW_S, reading, render, row, snapshot, text_of

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Oracle(Collector):
    """The same snapshot, written by prometheus-client from the snapshot's own fields."""

    def __init__(self, of: Snapshot) -> None:
        self._snapshot = of

    def collect(self) -> Iterator[Metric]:
        fleet = self._snapshot.fleet
        yield family(catalogue.FLEET_INSTANCES, fleet.instances)
        rows = self._snapshot.rows
        yield single(catalogue.FLEET_INVENTORY_INSTANCES, len(rows))
        yield single(catalogue.FLEET_TRANSIENT_INSTANCES, sum(row.is_transient for row in rows))
        failed = [row for row in rows if row.status in FAILING]  # all of them at this moment
        yield single(catalogue.FLEET_RECENTLY_FAILED_INSTANCES, len(failed))
        yield family(catalogue.FLEET_TOKENS_PER_SECOND, fleet.tokens_per_second)
        yield family(catalogue.FLEET_MEASURED_INSTANCES, fleet.measured_instances)
        yield single(catalogue.FLEET_REQUEST_LATENCY_P99, fleet.latency_p99_s)
        yield family(catalogue.FLEET_GENERATED_TOKENS, fleet.generated_tokens)
        yield family(catalogue.FLEET_ERRORS, fleet.errors)
        yield family(catalogue.FLEET_REQUESTS, fleet.requests)
        yield family(catalogue.FLEET_REQUEST_ERRORS, fleet.request_errors)
        yield family(catalogue.FLEET_REQUESTS_QUEUED, fleet.requests_queued)
        yield family(catalogue.FLEET_ENGINE_INSTANCES, fleet.engine_instances)
        spreads = fleet.spreads
        yield family(catalogue.FLEET_INSTANCE_REQUEST_LATENCY_P99, spreads.latency_p99_s)
        yield family(
            catalogue.MODEL_INSTANCE_TOKENS_PER_SECOND, fleet.spreads.model_tokens_per_second
        )
        yield family(
            catalogue.MODEL_INSTANCE_REQUEST_LATENCY_P99, fleet.spreads.model_latency_p99_s
        )
        yield family(catalogue.MODEL_INSTANCE_KV_CACHE_USAGE, spreads.model_kv_cache_ratio)
        yield durations(catalogue.FLEET_REQUEST_DURATION, fleet.durations)
        yield durations(catalogue.FLEET_TIME_TO_FIRST_TOKEN, fleet.time_to_first_token)
        yield durations(catalogue.FLEET_QUEUE_TIME, fleet.queue_time)
        yield family(catalogue.FLEET_REQUEST_LATENCY_P99_BOUND, fleet.latency_p99_bounds)
        yield single(catalogue.FLEET_RESTARTS, fleet.restarts)
        yield family(catalogue.FLEET_INSTANCE_CONDITIONS, fleet.conditions)
        yield family(catalogue.FLEET_MODEL_LOADS, fleet.model_loads)
        yield family(catalogue.FLEET_MODEL_UNLOADS, fleet.model_unloads)
        yield family(catalogue.MODEL_INSTANCES, fleet.model_instances)
        yield family(catalogue.MODEL_LOADED_INSTANCES, fleet.models.loaded_instances)
        yield family(catalogue.MODEL_INSTALLED_INSTANCES, fleet.models.installed_instances)
        yield family(catalogue.MODEL_ON_CPU_INSTANCES, fleet.models.on_cpu_instances)
        yield family(catalogue.MODEL_EXPIRING_INSTANCES, fleet.models.expiring_instances)
        yield family(catalogue.MODEL_LOADED_BYTES, fleet.models.loaded_bytes)
        yield family(catalogue.MODEL_VRAM_BYTES, fleet.models.vram_bytes)
        yield family(catalogue.NODE_INSTANCES, fleet.node_instances)
        yield family(catalogue.NODE_TOKENS_PER_SECOND, fleet.node_tokens_per_second)
        yield family(catalogue.NODE_MEASURED_INSTANCES, fleet.node_measured_instances)
        yield family(catalogue.NODE_PEERS_TOKENS_PER_SECOND, fleet.node_peers_tokens_per_second)
        yield family(catalogue.NODE_STARTED_INSTANCES, fleet.node_started_instances)
        yield family(catalogue.NODE_ERRORS, fleet.node_errors)
        yield inventory_labels(rows)
        for series in (
            one for one in catalogue.INSTANCE_SERIES if one != catalogue.INSTANCE_LABELS
        ):
            yield instance_family(series, dict(self._instances(series)))

    def _instances(self, series: Series) -> Iterator[tuple[tuple[str, ...], float]]:
        for one in self._snapshot.rows:
            for further, value in instance_values(series, one):
                if value is not None:
                    yield (one.target.id, one.target.node, *further), value


def instance_values(series: Series, one: Row) -> Iterator[tuple[tuple[str, ...], float | None]]:
    """Yield the samples of an instance, by the label values that follow those of an instance."""
    if series is catalogue.INSTANCE_INFO:
        engine = one.target.engine if one.reading is None else one.reading.engine
        yield (one.counters.model, engine, one.counters.version, one.target.developer), 1
    elif series is catalogue.INSTANCE_ERRORS:
        yield from [((kind,), counter.total) for kind, counter in one.counters.errors or ()]
    elif series is catalogue.INSTANCE_CONDITION:
        yield from [((condition,), 1) for condition in one.conditions]
    elif series in FIELDS_OF_MODELS:
        for model in (one.reading and one.reading.verdict.values.loaded) or ():
            yield (model.name,), getattr(model, FIELDS_OF_MODELS[series], 1)
    else:
        yield (), instance_value(series, one)


FIELDS_OF_MODELS = {
    catalogue.INSTANCE_MODEL_LOADED: "",
    catalogue.INSTANCE_MODEL_BYTES: "size_bytes",
    catalogue.INSTANCE_MODEL_VRAM_BYTES: "vram_bytes",
    catalogue.INSTANCE_MODEL_CONTEXT_LENGTH: "context_length",
    catalogue.INSTANCE_MODEL_EXPIRES: "expires_at_s",
}


def instance_value(series: Series, one: Row) -> float | None:
    counters, polled = one.counters, one.reading
    if series is catalogue.INSTANCE_GENERATED_TOKENS:
        return counters.generated.total if counters.generated else None
    if series is catalogue.INSTANCE_PROMPT_TOKENS:
        return counters.prompt.total if counters.prompt else None
    if polled is None:
        return one.target.started_s if series is catalogue.INSTANCE_START_TIME else None
    values = polled.verdict.values
    is_up = polled.verdict.outcome is Outcome.OK
    is_unknown = polled.verdict.outcome is Outcome.NO_DESCRIPTOR
    by_series = {
        catalogue.INSTANCE_UP: None if is_unknown else float(is_up),
        catalogue.INSTANCE_TOKENS_PER_SECOND: counters.speed_tokens_per_second if is_up else None,
        catalogue.INSTANCE_LATENCY_P99: values.latency_p99_s,
        catalogue.INSTANCE_REQUESTS_RUNNING: values.requests_running,
        catalogue.INSTANCE_REQUESTS_QUEUED: values.requests_queued,
        catalogue.INSTANCE_KV_CACHE_USAGE: values.kv_cache_usage_ratio,
        catalogue.INSTANCE_START_TIME: (
            one.target.started_s if values.start_time_s is None else values.start_time_s
        ),
    }
    return by_series.get(series)


def family(series: Series, values: Any) -> Metric:
    """Write the samples of one shard, by the label values that follow it."""
    return instance_family(series, {("0", *parts(key)): value for key, value in values.items()})


def parts(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def instance_family(series: Series, values: Any) -> Metric:
    if series.kind is Kind.SUMMARY:
        return quantiles(series, values)
    kinds = {Kind.GAUGE: GaugeMetricFamily, Kind.COUNTER: CounterMetricFamily}
    metric: Any = kinds[series.kind](series.name, series.help, labels=series.labels)
    for key, value in values.items():
        metric.add_metric([str(part) for part in key], value)
    return cast("Metric", metric)


def inventory_labels(rows: Sequence[Row]) -> Metric:
    """Write each instance's labels, whose names are the operator's."""
    series = catalogue.INSTANCE_LABELS
    metric = Metric(series.name, series.help, "gauge")
    for target in [one.target for one in rows if one.target.labels]:
        labels = {f"label_{name}": value for name, value in target.labels.items()}
        metric.add_sample(series.name, {"instance_id": target.id, "node": target.node, **labels}, 1)
    return metric


def quantiles(series: Series, values: Any) -> Metric:
    metric = Metric(series.name, series.help, "summary")
    for key, value in values.items():
        metric.add_sample(series.name, dict(zip(series.labels, key, strict=True)), value)
    return metric


def single(series: Series, value: float | None) -> Metric:
    return family(series, {} if value is None else {(): value})


def durations(series: Series, by_model: Any) -> Metric:
    metric = HistogramMetricFamily(series.name, series.help, labels=series.labels)
    for model, histogram in by_model.items():
        les = [*map(repr, histogram.boundaries_s), "+Inf"]
        buckets = list(zip(les, histogram.cumulative, strict=True))
        metric.add_metric(["0", model], buckets, histogram.sum_s)
    return metric


def samples(families: Any) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in families
        for sample in metric.samples
    }


hostile = ['"', "\\", "\n", "\r", '\\"', "\\n", "a b", "{}", "=", ",", "é", "🦙", "\u2028"]
text = st.text(max_size=12) | st.sampled_from(hostile)
amounts = st.floats(0, 1e15, allow_nan=False)
maybe = st.none() | amounts

value_sets = st.builds(
    Values,
    models=st.lists(text, max_size=2).map(tuple),
    version=st.none() | text,
    tokens_per_second=maybe,
    latency_p99_s=maybe,
    requests_running=maybe,
    requests_queued=maybe,
    start_time_s=maybe,
    generated_tokens_total=maybe,
    prompt_tokens_total=maybe,
    errors_total=st.dictionaries(text, amounts, max_size=3).map(lambda d: tuple(sorted(d.items()))),
    kv_cache_usage_ratio=maybe,
    loaded=st.none()
    | st.lists(
        st.builds(LoadedModel, text, maybe, maybe, maybe, maybe),
        max_size=3,
        unique_by=lambda model: model.name,
    ).map(tuple),
    installed=st.none() | st.lists(text, max_size=3, unique=True).map(tuple),
)
readings = st.none() | st.builds(
    lambda outcome, values: reading(outcome, values if outcome is Outcome.OK else Values()),
    st.sampled_from(Outcome),
    value_sets,
)
targets = st.builds(
    Target,
    id=text,
    host=st.just("127.0.0.1"),
    port=st.just(1),
    node=text,
    model=text,
    state=st.sampled_from(State),
    developer=text,
    started_s=maybe,
    labels=st.dictionaries(st.sampled_from(["rack", "bios"]), text),
)
ledgers = st.lists(
    st.tuples(
        text,
        text,
        st.builds(
            Delta,
            amounts,
            st.tuples(st.tuples(text, amounts)),
            model_changes=st.tuples(st.tuples(text, st.integers(-1, 1))),
            n_restarts=st.integers(0, 1),
        ),
    ),
    max_size=4,
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    chosen = draw(st.lists(targets, max_size=6, unique_by=lambda target: target.id))
    fleet_counters = FleetCounters()
    for node, model, delta in draw(ledgers):
        fleet_counters.record(node, model, delta)
        fleet_counters.latency_bounds(0.99, NOW_S)
        edges = sorted(draw(st.sets(st.sampled_from(BOUNDARIES_S), min_size=1)))
        histogram = Histogram(tuple(map(float, range(len(edges) + 1))), 1.5, tuple(edges))
        durations = Delta(
            durations=histogram,
            failed_requests=draw(amounts),
            time_to_first_token=histogram,
            queue_time=histogram,
        )
        fleet_counters.record(node, model, durations)
    rows = [row(target, draw(readings)) for target in sorted(chosen, key=lambda t: t.id)]
    return snapshot(*rows, fleet_counters=fleet_counters)


@settings(max_examples=150)
@given(snapshots())
def test_prometheus_clients_renderer_gives_the_same_samples(of: Snapshot) -> None:
    registry = CollectorRegistry()
    registry.register(Oracle(of))

    page = render(of)

    expected = samples(parse_text(generate_latest(registry).decode()))
    assert expected == samples(parse_text(text_of(page).decode()))
    assert len(expected) == page.n_samples


@settings(max_examples=100)
@given(snapshots())
def test_prometheus_clients_openmetrics_gives_the_same_samples(of: Snapshot) -> None:
    registry = CollectorRegistry()
    registry.register(Oracle(of))

    page = text_of(render(of), Format.OPENMETRICS).decode() + "# EOF\n"

    oracle = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    expected = samples(parse_openmetrics(oracle))  # type: ignore[no-untyped-call]
    assert expected == samples(parse_openmetrics(page))  # type: ignore[no-untyped-call]


FULL = Values(
    models=("m",),
    version="1",
    tokens_per_second=1.0,
    latency_p99_s=1.0,
    requests_running=1.0,
    requests_queued=1.0,
    start_time_s=NOW_S,
    generated_tokens_total=1.0,
    prompt_tokens_total=1.0,
    errors_total=(("oom", 1.0),),
    kv_cache_usage_ratio=0.5,
    loaded=(LoadedModel("m", 2.0, 1.0, 3.0, 4096.0),),
    installed=("m",),
)
GENERATION = Generation(8.0, 40.0, 0.1, waiting_s=0.5, load_s=0.2, duration_s=1.0)


def canary(asked_at_s: float = NOW_S, generation: Generation | None = GENERATION) -> CanaryState:
    """Return what is known of an instance that was then asked."""
    outcome = CanaryOutcome.STALLED if generation is None else CanaryOutcome.OK
    return CanaryState(outcome, "", asked_at_s, 0, asked_at_s, generation)


def counting(fleet_counters: FleetCounters) -> CanaryCounters:
    fleet_counters.canary = CanaryCounters()
    return fleet_counters.canary


def full_snapshot(n: int = 3) -> Snapshot:
    fleet_counters = FleetCounters()
    histogram = Histogram((1.0,) * (len(BOUNDARIES_S) + 1), 1.0)
    fleet_counters.latency_bounds(0.99, NOW_S)
    done = Delta(1.0, (("oom", 1.0),), histogram, 1.0, (("m", 0),))
    fleet_counters.record("n1", "m", done)
    first = Delta(time_to_first_token=histogram, queue_time=histogram)
    fleet_counters.record("n1", "m", first)
    counting(fleet_counters).record("m", CanaryOutcome.OK, GENERATION, 1.0)
    rows = [
        row(
            Target(f"i{k:05d}", "127.0.0.1", 1, node=f"n{k}", labels={"rack": "r1"}),
            reading(values=FULL),
            canary(),
        )
        for k in range(n)
    ]
    return snapshot(*rows, fleet_counters=fleet_counters)


def test_every_fleet_and_instance_series_of_the_catalogue_is_on_a_full_page() -> None:
    names = [series.name for series, _ in render(full_snapshot()).families]

    expected = catalogue.FLEET_SERIES + catalogue.INSTANCE_SERIES
    assert [s.name for s in expected] == names


def test_a_page_put_together_from_portions_of_instances_is_the_same() -> None:
    of = full_snapshot(7)
    rendered = [
        *instance_chunks(of.rows[:3], now_s=of.taken_at_s),
        *instance_chunks(of.rows[3:], now_s=of.taken_at_s),
        *fleet_chunks(of),
    ]

    assert text_of(render(of)) == text_of(assemble(rendered, of.taken_at_s))


def test_without_per_instance_series_the_aggregates_stay() -> None:
    page = text_of(render(full_snapshot(), per_instance=False))

    assert b"ollama_instance_" not in page
    assert b'ollama_fleet_instances{shard="0",status="healthy"} 3\n' in page
    assert b'ollama_model_instances{shard="0",model="m",status="healthy"} 3\n' in page


def test_requests_are_not_counted_before_an_instance_tells_their_durations() -> None:
    of = snapshot(row(Target("a", "127.0.0.1", 1), reading(values=FULL)))
    published = {series for series, _ in render(of).families}

    assert not published & {catalogue.FLEET_REQUESTS, catalogue.FLEET_REQUEST_ERRORS}


def test_a_target_never_polled_is_listed_and_says_nothing_of_itself() -> None:
    page = text_of(render(snapshot(row(Target("a", "127.0.0.1", 1)))))

    assert b'ollama_fleet_instances{shard="0",status="unknown"} 1\n' in page
    assert b"ollama_instance_info{" in page
    assert b"ollama_instance_up" not in page


@pytest.mark.parametrize("per_instance", [True, False])
def test_promtool_finds_nothing_to_lint(promtool_binary: Path, per_instance: bool) -> None:
    page = text_of(render(full_snapshot(), per_instance=per_instance))

    linted = subprocess.run(
        [promtool_binary, "check", "metrics"], input=page, capture_output=True, check=False
    )

    assert (0, b"", b"") == (linted.returncode, linted.stdout, linted.stderr)


def test_an_instance_that_is_down_has_no_speed() -> None:
    """Its counters keep the speed for when it is back."""
    target = Target("a", "127.0.0.1", 1)
    down = msgspec.structs.replace(
        row(target, reading(values=Values(tokens_per_second=42.0))), is_up=False
    )

    assert b"ollama_instance_tokens_per_second" not in text_of(render(snapshot(down)))


def test_every_outcome_of_canaries_is_counted_from_the_start() -> None:
    fleet_counters = FleetCounters()
    assert b"_canary_" not in text_of(render(snapshot(fleet_counters=fleet_counters)))

    counting(fleet_counters)
    page = text_of(render(snapshot(fleet_counters=fleet_counters))).decode()

    for outcome in CanaryOutcome:
        assert f'_canary_results_total{{shard="0",outcome="{outcome}"}} 0\n' in page
    assert 'ollama_fleet_canary_requests_total{shard="0"} 0\n' in page


def test_the_cost_of_canaries_is_that_of_those_that_were_sent() -> None:
    fleet_counters = FleetCounters()
    counters = counting(fleet_counters)
    counters.record("m", CanaryOutcome.OK, GENERATION, 1.0)
    counters.record("m", CanaryOutcome.STALLED, None, 30.0)
    counters.record("m", CanaryOutcome.ERROR, None, 0.5)
    counters.record("m", CanaryOutcome.SKIPPED_BUSY, None, None)

    of = snapshot(fleet_counters=fleet_counters)
    page = text_of(render(of)).decode()

    counters.record("m", CanaryOutcome.OK, GENERATION, 1.0)  # a snapshot stays as it is
    assert page == text_of(render(of)).decode()
    cost = ("requests_total", 3), ("tokens_total", 8.0), ("seconds_total", 31.5)
    for name, value in cost:
        assert f'ollama_fleet_canary_{name}{{shard="0"}} {value!r}\n' in page
    durations = 'ollama_fleet_canary_duration_seconds_bucket{shard="0",model="m",le='
    assert f'{durations}"0.5"}} 0.0\n' in page
    assert f'{durations}"1.0"}} 1.0\n' in page
    assert f'{durations}"+Inf"}} 1.0\n' in page, "a stalled canary has no duration"
    assert 'ollama_fleet_canary_waiting_seconds_count{shard="0",model="m"} 1.0\n' in page


@pytest.mark.parametrize(
    ("known", "outcome", "expected"),
    [
        (canary(), Outcome.OK, {"success": 1, "tokens_per_second": 40.0, "load_seconds": 0.2}),
        (canary(generation=None), Outcome.OK, {"success": 0}),
        (canary(NOW_S - SPEED_KEPT_S - 1), Outcome.OK, {}),
        (canary(), Outcome.REFUSED, {}),
        (CanaryState(CanaryOutcome.SKIPPED_BUSY, "", NOW_S), Outcome.OK, {}),
    ],
)
def test_an_instance_shows_its_last_canary_while_it_is_up_and_that_is_recent(
    known: CanaryState, outcome: Outcome, expected: Mapping[str, float]
) -> None:
    page = text_of(render(snapshot(row(Target("a", "h", 1), reading(outcome), known)))).decode()

    shown = dict(re.findall(r"^ollama_instance_canary_(\w+){.*} (\S+)$", page, re.MULTILINE))
    assert expected.items() <= {name: float(value) for name, value in shown.items()}.items()
    assert ("success" in shown) == bool(expected)
