"""Write a snapshot as a Prometheus exposition, text 0.0.4 or OpenMetrics 1.0.

prometheus-client's renderer costs ten times as much; in the tests it is the oracle. The chunks are
never joined: that would stall the event loop and double the memory.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from exporter import catalogue
from exporter.catalogue import Series
from exporter.counters import is_stale, speed_now
from exporter.snapshot import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from exporter.canary_counters import CanaryTotals
    from exporter.model import Histogram
    from exporter.snapshot import Fleet, Row, Snapshot

    Column = Callable[[Sequence[Row]], list[float | None]]


Key = TypeVar("Key", bound="str | tuple[str, ...]")

EXPOSED_SERIES = catalogue.FLEET_SERIES + catalogue.INSTANCE_SERIES

CHUNK_ROWS = 500
"""Instances per chunk: a fraction of a millisecond of rendering for one series."""

CHUNK_SAMPLES = 1000
"""Samples of nodes per chunk: about 2 ms of rendering."""


class Format(StrEnum):
    """The exposition formats."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some samples of one series, as lines that both formats share."""

    series: Series
    lines: bytes
    n_samples: int


@dataclass(frozen=True, slots=True)
class Exposition:
    """All samples of a snapshot, in catalogue order; a series without samples is left out."""

    families: tuple[tuple[Series, tuple[bytes, ...]], ...]
    n_samples: int
    rendered_at_s: float
    """Seconds since 1970 UTC."""

    def parts(self, format_: Format) -> tuple[bytes, ...]:
        """Return the exposition in a format, OpenMetrics without the closing `# EOF`."""
        parts: list[bytes] = []
        for series, lines in self.families:
            name = series.name if format_ is Format.TEXT else series.family
            parts += (_head(series, name), *lines)
        return tuple(parts)


def assemble(rendered: Iterable[Chunk], rendered_at_s: float) -> Exposition:
    """Put chunks together in catalogue order; those of a series stay in the order given."""
    lines_by_series: dict[Series, list[bytes]] = {series: [] for series in EXPOSED_SERIES}
    n_samples = 0
    for chunk in rendered:
        if chunk.n_samples:
            lines_by_series[chunk.series].append(chunk.lines)
            n_samples += chunk.n_samples
    families = [(series, tuple(lines)) for series, lines in lines_by_series.items() if lines]
    return Exposition(tuple(families), n_samples, rendered_at_s)


def instance_chunks(rows: Sequence[Row], *, now_s: float) -> Iterator[Chunk]:
    """Yield the samples of some instances, a chunk per series.

    Best called with CHUNK_ROWS of them: what is known of an instance is spread over the memory,
    and is then still in the processor's cache when its next series is written.
    """
    for series, lines_of in _instance_lines(now_s):
        yield _chunk(series, lines_of(rows))
    yield from _model_chunks(rows)
    asked = [row for row in rows if row.canary is not None and _has_canary(row, now_s)]
    if asked:
        for series, column in CANARY_COLUMNS:
            yield _chunk(series, _lines(series.name, column, asked))


def _chunk(series: Series, lines: Sequence[str]) -> Chunk:
    return Chunk(series, "".join(lines).encode(), len(lines))


def _head(series: Series, name: str) -> bytes:
    help_text = series.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {help_text}\n# TYPE {name} {series.kind}\n".encode()


# The fleet, its models and its nodes: few lines each


def fleet_chunks(snapshot: Snapshot) -> Iterator[Chunk]:
    """Yield the samples of the fleet, its models and its nodes, a chunk per series."""
    fleet, shard = snapshot.fleet, snapshot.shard
    for series, value in _totals(snapshot):
        yield _labelled(series, {} if value is None else {(): value}, shard)
    for series, values in _few(fleet):
        yield _labelled(series, values, shard)
    for series, histograms in _histograms(fleet):
        yield _histogram(series, histograms, shard)
    if fleet.canary is not None:
        yield from _canary_chunks(fleet.canary, shard)
    for group in _many(fleet):
        yield from _many_labelled(group, shard)


def _histograms(fleet: Fleet) -> tuple[tuple[Series, Mapping[str, Histogram]], ...]:
    """Return the histograms by model."""
    return (
        (catalogue.FLEET_REQUEST_DURATION, fleet.durations),
        (catalogue.FLEET_TIME_TO_FIRST_TOKEN, fleet.time_to_first_token),
        (catalogue.FLEET_QUEUE_TIME, fleet.queue_time),
    )


def _canary_chunks(canary: CanaryTotals, shard: str) -> Iterator[Chunk]:
    for series, by_model in canary.times.items():
        yield _histogram(series, by_model, shard)
    yield _labelled(catalogue.FLEET_CANARY_RESULTS, canary.results, shard)
    yield _labelled(catalogue.FLEET_CANARY_REQUESTS, {(): canary.requests}, shard)
    yield _labelled(catalogue.FLEET_CANARY_TOKENS, {(): canary.tokens}, shard)
    yield _labelled(catalogue.FLEET_CANARY_SECONDS, {(): canary.seconds}, shard)


def _totals(snapshot: Snapshot) -> tuple[tuple[Series, float | None], ...]:
    """Return the series with one sample per shard; None where there is no value."""
    fleet = snapshot.fleet
    return (
        (catalogue.FLEET_INVENTORY_INSTANCES, len(snapshot.rows)),
        (catalogue.FLEET_TRANSIENT_INSTANCES, fleet.transient_instances),
        (catalogue.FLEET_RECENTLY_FAILED_INSTANCES, fleet.recently_failed_instances),
        (catalogue.FLEET_REQUEST_LATENCY_P99, fleet.latency_p99_s),
        (catalogue.FLEET_RESTARTS, fleet.restarts),
    )


def _few(fleet: Fleet) -> tuple[tuple[Series, Mapping[Any, float]], ...]:
    """Return the series with few samples, by the label values that follow the shard."""
    return (
        (catalogue.FLEET_INSTANCES, fleet.instances),
        (catalogue.FLEET_REQUEST_LATENCY_P99_BOUND, fleet.latency_p99_bounds),
        (catalogue.FLEET_TOKENS_PER_SECOND, fleet.tokens_per_second),
        (catalogue.FLEET_MEASURED_INSTANCES, fleet.measured_instances),
        (catalogue.FLEET_GENERATED_TOKENS, fleet.generated_tokens),
        (catalogue.FLEET_ERRORS, fleet.errors),
        (catalogue.FLEET_REQUESTS, fleet.requests),
        (catalogue.FLEET_REQUEST_ERRORS, fleet.request_errors),
        (catalogue.FLEET_REQUESTS_QUEUED, fleet.requests_queued),
        (catalogue.FLEET_ENGINE_INSTANCES, fleet.engine_instances),
        (catalogue.FLEET_INSTANCE_REQUEST_LATENCY_P99, fleet.spreads.latency_p99_s),
        (catalogue.FLEET_INSTANCE_CONDITIONS, fleet.conditions),
        (catalogue.FLEET_MODEL_LOADS, fleet.model_loads),
        (catalogue.FLEET_MODEL_UNLOADS, fleet.model_unloads),
        (catalogue.MODEL_INSTANCES, fleet.model_instances),
        (catalogue.MODEL_LOADED_INSTANCES, fleet.models.loaded_instances),
        (catalogue.MODEL_INSTALLED_INSTANCES, fleet.models.installed_instances),
        (catalogue.MODEL_ON_CPU_INSTANCES, fleet.models.on_cpu_instances),
        (catalogue.MODEL_EXPIRING_INSTANCES, fleet.models.expiring_instances),
        (catalogue.MODEL_LOADED_BYTES, fleet.models.loaded_bytes),
        (catalogue.MODEL_VRAM_BYTES, fleet.models.vram_bytes),
        (catalogue.MODEL_INSTANCE_TOKENS_PER_SECOND, fleet.spreads.model_tokens_per_second),
        (catalogue.MODEL_INSTANCE_REQUEST_LATENCY_P99, fleet.spreads.model_latency_p99_s),
        (catalogue.MODEL_INSTANCE_KV_CACHE_USAGE, fleet.spreads.model_kv_cache_ratio),
    )


def _many(fleet: Fleet) -> tuple[tuple[tuple[Series, Mapping[Any, float]], ...], ...]:
    """Return the series with samples per node, those with the same labels together."""
    return (
        ((catalogue.NODE_INSTANCES, fleet.node_instances),),
        (
            (catalogue.NODE_TOKENS_PER_SECOND, fleet.node_tokens_per_second),
            (catalogue.NODE_MEASURED_INSTANCES, fleet.node_measured_instances),
            (catalogue.NODE_PEERS_TOKENS_PER_SECOND, fleet.node_peers_tokens_per_second),
        ),
        ((catalogue.NODE_STARTED_INSTANCES, fleet.node_started_instances),),
        ((catalogue.NODE_ERRORS, fleet.node_errors),),
    )


def _labelled(series: Series, values: Mapping[Key, float], shard: str) -> Chunk:
    """Write a sample per key: the label values after the shard, in the order of the series."""
    head, labels = f'{series.name}{{shard="{shard}"', series.labels[1:]
    samples = sorted((_label_values(key), value) for key, value in values.items())
    pairs = _pairs(labels)
    lines = [
        f"{head}{pairs % tuple(map(escape, label_values))}}} {value!r}\n"
        for label_values, value in samples
    ]
    return _chunk(series, lines)


def _many_labelled(
    group: Sequence[tuple[Series, Mapping[Any, float]]], shard: str
) -> Iterator[Chunk]:
    """Write many samples in chunks; an empty one after each step of sorting.

    The first of the series has all keys. There may be tens of thousands, whose labels are as much
    work as their samples.
    """
    first_series, values = group[0]
    pairs = _pairs(first_series.labels[1:])
    keys, runs = list(values), []
    for first in range(0, len(keys), CHUNK_SAMPLES):
        runs.append(sorted(keys[first : first + CHUNK_SAMPLES]))
        yield _chunk(first_series, ())
    ordered = heapq.merge(*runs)
    while some := list(islice(ordered, CHUNK_SAMPLES)):
        labelled = [(key, f'shard="{shard}"{pairs % tuple(map(escape, key))}') for key in some]
        for series, values in group:
            lines = [
                f"{series.name}{{{text}}} {values[key]!r}\n"
                for key, text in labelled
                if key in values
            ]
            yield _chunk(series, lines)


def _label_values(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _pairs(names: Sequence[str]) -> str:
    """Return further labels, to follow the first one, as a format of their escaped values."""
    return "".join([f',{name}="%s"' for name in names])


def _histogram(series: Series, by_model: Mapping[str, Histogram], shard: str) -> Chunk:
    lines = []
    for model in sorted(by_model):
        histogram = by_model[model]
        label = f'shard="{shard}",model="{escape(model)}"'
        les = (*map(repr, histogram.boundaries_s), "+Inf")
        for boundary, count in zip(les, histogram.cumulative, strict=True):
            lines.append(f'{series.name}_bucket{{{label},le="{boundary}"}} {count!r}\n')
        lines.append(f"{series.name}_count{{{label}}} {histogram.cumulative[-1]!r}\n")
        lines.append(f"{series.name}_sum{{{label}}} {histogram.sum_s!r}\n")
    return _chunk(series, lines)


# Instances: many lines of few series


def _instance_lines(
    now_s: float,
) -> Iterator[tuple[Series, Callable[[Sequence[Row]], list[str]]]]:
    """Yield each series of an instance with the function that writes rows of it."""
    for series, column in _columns(now_s):
        yield series, partial(_lines, series.name, column)
    yield catalogue.INSTANCE_CONDITION, _condition_lines
    yield catalogue.INSTANCE_ERRORS, _error_lines
    yield catalogue.INSTANCE_INFO, _info_lines
    yield catalogue.INSTANCE_LABELS, _inventory_label_lines


def _columns(now_s: float) -> tuple[tuple[Series, Column], ...]:
    """Return the series with one value per instance, as columns: a call per value would be slow."""
    return (
        (catalogue.INSTANCE_UP, _up),
        (catalogue.INSTANCE_TOKENS_PER_SECOND, partial(_speed, now_s=now_s)),
        (catalogue.INSTANCE_LATENCY_P99, _reported("latency_p99_s")),
        (catalogue.INSTANCE_REQUESTS_RUNNING, _reported("requests_running")),
        (catalogue.INSTANCE_REQUESTS_QUEUED, _reported("requests_queued")),
        (catalogue.INSTANCE_KV_CACHE_USAGE, _reported("kv_cache_usage_ratio")),
        (catalogue.INSTANCE_START_TIME, _start_time),
        (catalogue.INSTANCE_GENERATED_TOKENS, _counted("generated")),
        (catalogue.INSTANCE_PROMPT_TOKENS, _counted("prompt")),
    )


def _lines(name: str, column: Column, rows: Sequence[Row]) -> list[str]:
    return [
        f"{name}{{{row.labels}}} {value!r}\n"
        for row, value in zip(rows, column(rows), strict=True)
        if value is not None
    ]


def _up(rows: Sequence[Row]) -> list[float | None]:
    return [None if row.is_up is None else int(row.is_up) for row in rows]


def _speed(rows: Sequence[Row], *, now_s: float) -> list[float | None]:
    return [speed_now(row.counters, row.canary, now_s=now_s) if row.is_up else None for row in rows]


def _reported(field: str) -> Column:
    """Return the column of a field of Values."""
    of = attrgetter(field)
    return lambda rows: [
        None if row.reading is None else of(row.reading.verdict.values) for row in rows
    ]


def _start_time(rows: Sequence[Row]) -> list[float | None]:
    """Return when instances started: as they report it, else as the inventory has it."""
    return [
        row.target.started_s if reported is None else reported
        for row, reported in zip(rows, _reported("start_time_s")(rows), strict=True)
    ]


def _counted(field: str) -> Column:
    """Return the column of a counter of CounterState."""
    of = attrgetter(field)
    return lambda rows: [
        None if (counter := of(row.counters)) is None else counter.total for row in rows
    ]


def _condition_lines(rows: Sequence[Row]) -> list[str]:
    name = catalogue.INSTANCE_CONDITION.name
    return [
        f'{name}{{{row.labels},condition="{condition}"}} 1\n'
        for row in rows
        for condition in row.conditions
    ]


def _has_canary(row: Row, now_s: float) -> bool:
    """Return whether an instance is up and was sent a canary within the last hour."""
    return row.is_up is True and row.canary is not None and not is_stale(row.canary, now_s=now_s)


def _canary_success(rows: Sequence[Row]) -> list[float | None]:
    return [int(row.canary is not None and row.canary.generation is not None) for row in rows]


def _generation(field: str) -> Column:
    """Return the column of a field of the last canary's Generation."""
    of = attrgetter(field)
    return lambda rows: [
        None if row.canary is None or row.canary.generation is None else of(row.canary.generation)
        for row in rows
    ]


CANARY_COLUMNS: tuple[tuple[Series, Column], ...] = (
    (catalogue.INSTANCE_CANARY_SUCCESS, _canary_success),
    (catalogue.INSTANCE_CANARY_TOKENS_PER_SECOND, _generation("tokens_per_second")),
    (catalogue.INSTANCE_CANARY_TIME_TO_FIRST_TOKEN, _generation("time_to_first_token_s")),
    (catalogue.INSTANCE_CANARY_DURATION, _generation("duration_s")),
    (catalogue.INSTANCE_CANARY_WAITING, _generation("waiting_s")),
    (catalogue.INSTANCE_CANARY_LOAD, _generation("load_s")),
)


def _error_lines(rows: Sequence[Row]) -> list[str]:
    name = catalogue.INSTANCE_ERRORS.name
    return [
        f'{name}{{{row.labels},error_type="{escape(kind)}"}} {counter.total!r}\n'
        for row in rows
        for kind, counter in row.counters.errors or ()
    ]


def _info_lines(rows: Sequence[Row]) -> list[str]:
    name = catalogue.INSTANCE_INFO.name
    return [f"{name}{{{row.labels},{row.info_labels}}} 1\n" for row in rows]


def _inventory_label_lines(rows: Sequence[Row]) -> list[str]:
    name = catalogue.INSTANCE_LABELS.name
    return [
        f"{name}{{{row.labels},{row.inventory_labels}}} 1\n" for row in rows if row.inventory_labels
    ]


# Loaded models: mostly one per instance

MODEL_COLUMNS = (
    (catalogue.INSTANCE_MODEL_BYTES, attrgetter("size_bytes")),
    (catalogue.INSTANCE_MODEL_VRAM_BYTES, attrgetter("vram_bytes")),
    (catalogue.INSTANCE_MODEL_CONTEXT_LENGTH, attrgetter("context_length")),
    (catalogue.INSTANCE_MODEL_EXPIRES, attrgetter("expires_at_s")),
)


def _model_chunks(rows: Sequence[Row]) -> Iterator[Chunk]:
    """Yield the samples of the models that instances have in memory."""
    loaded = [
        (f'{row.labels},model="{escape(model.name)}"', model)
        for row in rows
        if row.reading is not None
        for model in row.reading.verdict.values.loaded or ()
    ]
    name = catalogue.INSTANCE_MODEL_LOADED.name
    lines = [f"{name}{{{labels}}} 1\n" for labels, _ in loaded]
    yield _chunk(catalogue.INSTANCE_MODEL_LOADED, lines)
    for series, value_of in MODEL_COLUMNS:
        lines = [
            f"{series.name}{{{labels}}} {value!r}\n"
            for labels, model in loaded
            if (value := value_of(model)) is not None
        ]
        yield _chunk(series, lines)
