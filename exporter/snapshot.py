"""The fleet at one moment: every instance, and the aggregates over all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from exporter.counters import MAX_MODELS, OTHER, CounterState, bounded, speed_now
from exporter.model import (
    MAX_LOADED,
    CanaryState,
    Condition,
    LoadedModel,
    Outcome,
    Reading,
    State,
    Status,
    Target,
)
from exporter.peers import NodeKey, peers_speeds
from exporter.status import is_within

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

    from exporter.canary_counters import CanaryTotals
    from exporter.counters import FleetCounters
    from exporter.model import Histogram


Key = TypeVar("Key", bound="Hashable")
Amount = TypeVar("Amount", int, float)

QUANTILE = 0.99
HIGH_QUANTILES = (0.5, 0.9, 0.99)
"""Of what hurts when it is high."""
LOW_QUANTILES = (0.5, 0.1, 0.01)
"""Of what hurts when it is low."""
FLEET_QUANTILES = (*HIGH_QUANTILES, 0.999)

MAX_VERSIONS = 100
"""Pairs of engine and version that are counted apart; the rare ones beyond count as `other`."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One instance: what the inventory, its last poll and its history say of it."""

    target: Target
    status: Status
    reading: Reading | None
    """None until it has been polled."""
    counters: CounterState
    is_up: bool | None
    """Whether the last poll found it healthy, whatever its state (see `status.is_up`)."""
    labels: str
    """`instance_id="…",node="…"`, ready for the exposition."""
    info_labels: str
    """`model="…",engine="…",version="…",developer="…"`, ready for the exposition."""
    conditions: tuple[Condition, ...] = ()
    canary: CanaryState | None = None
    """None until it was sent one."""
    failing_since_s: float | None = None
    """Since when it should serve and does not, in seconds since 1970 UTC; None if it does."""
    is_transient: bool = False
    """Whether it comes and goes on purpose."""


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """How many instances have each model in memory or on disk, and its memory, by model."""

    loaded_instances: Mapping[str, int]
    """0 for a model that the inventory lists but no instance has loaded."""
    on_cpu_instances: Mapping[str, int]
    expiring_instances: Mapping[str, int]
    loaded_bytes: Mapping[str, float]
    vram_bytes: Mapping[str, float]
    installed_instances: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The aggregates. Speeds are in tokens/s and count healthy instances only."""

    instances: Mapping[Status, int]
    recently_failed_instances: int
    transient_instances: int
    tokens_per_second: Mapping[str, float]
    """By model."""
    measured_instances: Mapping[str, int]
    """Instances in `tokens_per_second`, by model."""
    latency_p99_s: float | None
    model_instances: Mapping[tuple[str, Status], int]
    node_instances: Mapping[tuple[str, Status], int]
    node_tokens_per_second: Mapping[NodeKey, float]
    node_measured_instances: Mapping[NodeKey, int]
    """Instances in `node_tokens_per_second`."""
    node_peers_tokens_per_second: Mapping[NodeKey, float]
    """Median over the peers of a node of their speed per instance."""
    generated_tokens: Mapping[str, float]
    errors: Mapping[tuple[str, str], float]
    """By (model, error type)."""
    node_errors: Mapping[tuple[str, str], float]
    durations: Mapping[str, Histogram]
    """By model, like the next two."""
    time_to_first_token: Mapping[str, Histogram]
    queue_time: Mapping[str, Histogram]
    latency_p99_bounds: Mapping[str, float]
    """`lower` and `upper` bound of the p99 of these durations, as far as they are known."""
    requests: Mapping[str, float]
    """The requests in `durations`, by model."""
    request_errors: Mapping[str, float]
    requests_queued: Mapping[str, float]
    """By model, of those whose instances report it."""
    engine_instances: Mapping[tuple[str, str], int]
    """By (engine, version)."""
    instance_latencies_s: Mapping[str, float]
    """By quantile, over the healthy instances."""
    model_speeds: Mapping[tuple[str, str], float]
    """By (model, quantile), over the healthy instances, like the next two."""
    model_latencies_s: Mapping[tuple[str, str], float]
    model_kv_cache_ratios: Mapping[tuple[str, str], float]
    conditions: Mapping[Condition, int]
    models: ModelTotals
    model_loads: Mapping[str, float]
    model_unloads: Mapping[str, float]
    restarts: int
    canary: CanaryTotals | None
    """None where no canaries are sent."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at `taken_at_s`, in seconds since 1970 UTC."""

    rows: tuple[Row, ...]
    """Sorted by instance id."""
    fleet: Fleet
    taken_at_s: float
    shard: str = "0"
    """The part of the fleet that these instances are."""


FLAPS = 4
FLAPPING_S = 900.0
"""An instance is flapping if its polls change between good and bad more than FLAPS times in this
time, whatever its status."""
KV_CACHE_FULL_RATIO = 0.95
NOT_SERVING_S = 600.0
"""How long an instance may have a queue and generate no token."""


def conditions_of(
    target: Target,
    reading: Reading | None,
    counters: CounterState,
    canary: CanaryState | None = None,
    *,
    models_on_gpu: Collection[str] = (),
    turns_s: Sequence[float] = (),
) -> tuple[Condition, ...]:
    """Return the conditions of an instance: flapping, others if it runs and its last poll was good.

    A model that is not among `models_on_gpu` is meant to run on the CPU. `turns_s` are the times
    at which its polls changed between good and bad, in seconds since 1970 UTC.
    """
    if reading is None:
        return ()
    flapping: tuple[Condition, ...] = ()
    if turns_s and _is_flapping(turns_s, reading.polled_at_s):
        flapping = (Condition.FLAPPING,)
    if target.state is not State.RUNNING or reading.verdict.outcome is not Outcome.OK:
        return flapping
    conditions = _conditions_of_healthy(target, reading, counters, models_on_gpu)
    if canary and canary.n_stalled:
        conditions = (*conditions, Condition.STALLED)
    return (*conditions, *flapping) if flapping else conditions


def _is_flapping(turns_s: Sequence[float], now_s: float) -> bool:
    return len(turns_s) > FLAPS and now_s - turns_s[-FLAPS - 1] <= FLAPPING_S


def _conditions_of_healthy(
    target: Target, reading: Reading, counters: CounterState, models_on_gpu: Collection[str]
) -> tuple[Condition, ...]:
    values = reading.verdict.values
    conditions: tuple[Condition, ...] = ()
    if values.loaded is not None:
        loaded = [model.name for model in values.loaded]
        conditions = _missing(target.model, loaded, counters.installed)
        if any(_has_left_gpu(model, models_on_gpu) for model in values.loaded):
            conditions = (*conditions, Condition.ON_CPU)
    # Its queue is asked first: few have one.
    if values.requests_queued and reading.polled_at_s - counters.served_at_s >= NOT_SERVING_S:
        conditions = (*conditions, Condition.NOT_SERVING)
    if (values.kv_cache_usage_ratio or 0.0) >= KV_CACHE_FULL_RATIO:
        conditions = (*conditions, Condition.KV_CACHE_FULL)
    return conditions


def _has_left_gpu(model: LoadedModel, models_on_gpu: Collection[str]) -> bool:
    return is_on_cpu(model) and (bool(model.vram_bytes) or model.name in models_on_gpu)


def _missing(
    listed: str, loaded: Collection[str], installed: Collection[str] | None
) -> tuple[Condition, ...]:
    if not listed:
        return () if loaded else (Condition.NOTHING_LOADED,)
    if listed in loaded or len(loaded) >= MAX_LOADED:  # then it may be among those cut off
        return ()
    if installed is None or listed in installed:
        return (Condition.MODEL_NOT_LOADED,)
    return (Condition.MODEL_NOT_LOADED, Condition.MODEL_NOT_INSTALLED)


def is_on_cpu(model: LoadedModel) -> bool:
    """Return whether a model is known to be partly or wholly outside GPU memory."""
    size_bytes, vram_bytes = model.size_bytes, model.vram_bytes
    return size_bytes is not None and vram_bytes is not None and vram_bytes < size_bytes


def label_text(target: Target) -> str:
    """Return the labels that every series of an instance carries, escaped, without braces."""
    return f'instance_id="{escape(target.id)}",node="{escape(target.node)}"'


def info_label_text(model: str, engine: str, version: str, developer: str) -> str:
    """Return the further labels of `ollama_instance_info`, escaped, without braces."""
    of_server = f'engine="{engine}",version="{escape(version)}",developer="{escape(developer)}"'
    return f'model="{escape(model)}",{of_server}'


def escape(value: str) -> str:
    r"""Return a label value as the exposition formats want it: `\`, `"` and line feed escaped."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return value


class ModelUse:
    """How many instances have one model in memory, and how much of it."""

    __slots__ = ("bytes", "n_expiring", "n_instances", "n_on_cpu", "vram_bytes")

    def __init__(self) -> None:
        self.n_instances = 0
        self.n_on_cpu = 0
        self.n_expiring = 0
        self.bytes: float | None = None
        """None while no instance says."""
        self.vram_bytes: float | None = None

    def add(self, model: LoadedModel) -> None:
        """Count one instance that has it loaded."""
        self.n_instances += 1
        self.n_expiring += model.expires_at_s is not None
        if model.size_bytes is not None:
            self.bytes = (self.bytes or 0.0) + model.size_bytes
        if model.vram_bytes is not None:
            self.vram_bytes = (self.vram_bytes or 0.0) + model.vram_bytes
            self.n_on_cpu += is_on_cpu(model)


class Samples:
    """One figure of many instances, by model."""

    __slots__ = ("_by_model",)

    def __init__(self) -> None:
        self._by_model: dict[str, list[float]] = {}

    def add(self, model: str, value: float) -> None:
        """Take in an instance's figure."""
        known = self._by_model.get(model)
        if known is None:
            self._by_model[model] = [value]
        else:
            known.append(value)

    def quantiles(self, qs: Sequence[float]) -> dict[str, float]:
        """Return quantiles over all instances, by their label values."""
        values = sorted(value for some in self._by_model.values() for value in some)
        return {repr(q): _interpolated(values, q) for q in qs} if values else {}

    def quantiles_by_model(
        self, qs: Sequence[float], names: Mapping[str, str]
    ) -> dict[tuple[str, str], float]:
        """Return quantiles by the names that models are counted under, and label values."""
        return _quantiles(((names[model], some) for model, some in self._by_model.items()), qs)


def _quantiles(
    samples: Iterable[tuple[str, Sequence[float]]], qs: Sequence[float]
) -> dict[tuple[str, str], float]:
    """Return quantiles of the samples that have the same name, by name and label value."""
    merged: dict[str, list[float]] = {}
    for name, some in samples:
        merged.setdefault(name, []).extend(some)
    ordered = {name: sorted(values) for name, values in merged.items()}
    return {
        (name, repr(q)): _interpolated(values, q) for name, values in ordered.items() for q in qs
    }


class Aggregation:
    """Adds up rows, chunk by chunk."""

    def __init__(
        self, *, now_s: float, grace_period_s: float = 90.0, hardware_label: str = "hardware"
    ) -> None:
        self._now_s = now_s
        self._hardware_label = hardware_label
        self._grace_period_s = grace_period_s
        self._n_recently_failed = 0
        self._n_transient = 0
        self._node_instances: Counter[tuple[str, Status]] = Counter()
        self._model_instances: Counter[tuple[str, Status]] = Counter()
        self._node_speeds: dict[tuple[str, str, str], list[float]] = {}
        """Speeds of the healthy instances with a known speed, by (node, model, engine)."""
        self._hardware: dict[str, str] = {}
        """By node, as far as the inventory says."""
        self._latencies_s: list[float] = []
        """Of instances that do not report a histogram."""
        self._all_latencies_s = Samples()
        self._kv_cache_ratios = Samples()
        self._queued: dict[str, float] = {}
        self._versions: Counter[tuple[str, str]] = Counter()
        """By (engine, version)."""
        self._conditions: Counter[Condition] = Counter()
        self._models: dict[str, ModelUse] = {}
        """By name: the models that are loaded, and those that the inventory lists."""
        self._installed: Counter[tuple[str, ...]] = Counter()
        """Number of instances by their list of installed models, which many share."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take in some rows; about 1 µs each."""
        self._node_instances.update([(row.target.node, row.status) for row in rows])
        self._model_instances.update([(row.counters.model, row.status) for row in rows])
        self._add_failing([row.failing_since_s for row in rows if row.failing_since_s is not None])
        self._n_transient += sum([row.is_transient for row in rows])
        healthy = [row for row in rows if row.status is Status.HEALTHY]
        self._add_speeds(healthy)
        self._add_values(healthy)
        self._add_queues(rows)
        self._versions.update([(_engine(row), row.counters.version) for row in rows])
        self._conditions.update([condition for row in rows for condition in row.conditions])
        self._add_models([row for row in rows if row.counters.loaded is not None and row.is_up])

    def _add_failing(self, since_s: Sequence[float]) -> None:
        now_s, grace_s = self._now_s, self._grace_period_s
        self._n_recently_failed += sum([is_within(each_s, now_s, grace_s) for each_s in since_s])

    def _add_models(self, rows: Sequence[Row]) -> None:
        """Take in what the instances have in memory and on disk."""
        models = self._models
        for row in rows:
            if row.target.model and row.target.model not in models:
                models[row.target.model] = ModelUse()
            for model in _loaded(row):
                if (use := models.get(model.name)) is None:
                    use = models[model.name] = ModelUse()
                use.add(model)
        self._installed.update([row.counters.installed or () for row in rows])

    def _add_values(self, healthy: Sequence[Row]) -> None:
        """Take in what healthy instances report of themselves."""
        latencies, kv_cache = self._all_latencies_s, self._kv_cache_ratios
        for row in healthy:
            if row.reading is None:
                continue
            values = row.reading.verdict.values
            if values.latency_p99_s is not None:
                latencies.add(row.counters.model, values.latency_p99_s)
                if values.request_duration is None:
                    self._latencies_s.append(values.latency_p99_s)
            if values.kv_cache_usage_ratio is not None:
                kv_cache.add(row.counters.model, values.kv_cache_usage_ratio)

    def _add_queues(self, rows: Sequence[Row]) -> None:
        totals = self._queued
        for row in rows:
            if row.reading is None:
                continue
            queued = row.reading.verdict.values.requests_queued
            if queued is not None:
                model = row.counters.model
                totals[model] = totals.get(model, 0.0) + queued

    def _add_speeds(self, healthy: Sequence[Row]) -> None:
        speeds = self._node_speeds
        for row in healthy:
            counters = row.counters
            speed = speed_now(counters, row.canary, now_s=self._now_s)
            if speed and row.reading is not None:
                key = (row.target.node, counters.model, row.reading.engine)
                if key in speeds:
                    speeds[key].append(speed)
                else:
                    speeds[key] = [speed]
                    self._note_hardware(row.target)

    def _note_hardware(self, target: Target) -> None:
        if hardware := target.labels.get(self._hardware_label):
            self._hardware[target.node] = hardware

    def finish(self, fleet_counters: FleetCounters) -> Fleet:
        """Return the aggregates over the rows, with the fleet's counters as they are now."""
        counts = self._model_instances.items()
        names = _commonest(_totals((model, n) for (model, _), n in counts))
        nodes = [
            (NodeKey(node, names[model], engine), speeds)
            for (node, model, engine), speeds in self._node_speeds.items()
        ]
        speeds = _totals((key, sum(speeds)) for key, speeds in nodes)
        measured = _totals((key, len(speeds)) for key, speeds in nodes)
        return Fleet(
            instances=dict.fromkeys(Status, 0) | _totals((status, n) for (_, status), n in counts),
            recently_failed_instances=self._n_recently_failed,
            transient_instances=self._n_transient,
            tokens_per_second=_totals((key.model, speed) for key, speed in speeds.items()),
            measured_instances=dict.fromkeys(names.values(), 0)
            | _totals((key.model, n) for key, n in measured.items()),
            latency_p99_s=quantile(self._latencies_s, QUANTILE),
            model_instances=_with_healthy(
                _totals(((names[model], status), n) for (model, status), n in counts)
            ),
            node_instances=_with_healthy(self._node_instances),
            node_tokens_per_second=speeds,
            node_measured_instances=measured,
            node_peers_tokens_per_second=peers_speeds(
                {key: speed / measured[key] for key, speed in speeds.items() if key.model != OTHER},
                self._hardware,
            ),
            generated_tokens=dict(fleet_counters.generated_tokens),
            errors=dict(fleet_counters.errors),
            node_errors=dict(fleet_counters.node_errors),
            durations=dict(fleet_counters.durations.by_model),
            time_to_first_token=dict(fleet_counters.time_to_first_token.by_model),
            queue_time=dict(fleet_counters.queue_time.by_model),
            latency_p99_bounds=_named(fleet_counters.latency_bounds(QUANTILE, self._now_s)),
            requests=fleet_counters.requests,
            request_errors=fleet_counters.request_errors,
            requests_queued=_totals((names[model], n) for model, n in self._queued.items()),
            engine_instances=_common_versions(self._versions),
            instance_latencies_s=self._all_latencies_s.quantiles(FLEET_QUANTILES),
            model_speeds=_quantiles(((key.model, some) for key, some in nodes), LOW_QUANTILES),
            model_latencies_s=self._all_latencies_s.quantiles_by_model(HIGH_QUANTILES, names),
            model_kv_cache_ratios=self._kv_cache_ratios.quantiles_by_model(HIGH_QUANTILES, names),
            conditions=dict.fromkeys(Condition, 0) | self._conditions,
            models=self._model_totals(),
            model_loads=dict(fleet_counters.model_loads),
            model_unloads=dict(fleet_counters.model_unloads),
            restarts=fleet_counters.restarts,
            canary=None if fleet_counters.canary is None else fleet_counters.canary.totals(),
        )

    def _model_totals(self) -> ModelTotals:
        installed = _totals((model, n) for some, n in self._installed.items() for model in some)
        on_disk = _commonest(installed)
        names = _commonest({model: use.n_instances for model, use in self._models.items()})
        uses = [(names[model], use) for model, use in self._models.items()]
        in_vram = [(name, use) for name, use in uses if use.vram_bytes is not None]
        return ModelTotals(
            loaded_instances=_totals((name, use.n_instances) for name, use in uses),
            on_cpu_instances=_totals((name, use.n_on_cpu) for name, use in in_vram),
            expiring_instances=_totals((name, use.n_expiring) for name, use in uses),
            loaded_bytes=_totals((name, use.bytes) for name, use in uses if use.bytes is not None),
            vram_bytes=_totals((name, use.vram_bytes or 0.0) for name, use in in_vram),
            installed_instances=_totals((on_disk[model], n) for model, n in installed.items()),
        )


def _engine(row: Row) -> str:
    return row.target.engine if row.reading is None else row.reading.engine


def _common_versions(counts: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the counts by (engine, version); if there are too many, the rare ones share one."""
    kept = {pair for pair, _ in counts.most_common(MAX_VERSIONS)}
    return _totals((pair if pair in kept else (pair[0], OTHER), n) for pair, n in counts.items())


def _loaded(row: Row) -> tuple[LoadedModel, ...]:
    return () if row.reading is None else row.reading.verdict.values.loaded or ()


def _named(bounds: tuple[float, float | None] | None) -> dict[str, float]:
    if bounds is None:
        return {}
    lower_s, upper_s = bounds
    return {"lower": lower_s} if upper_s is None else {"lower": lower_s, "upper": upper_s}


def _totals(amounts: Iterable[tuple[Key, Amount]]) -> dict[Key, Amount]:
    """Add up amounts that have the same key."""
    totals: dict[Key, Amount] = {}
    for key, amount in amounts:
        totals[key] = totals[key] + amount if key in totals else amount
    return totals


def _commonest(n_by_model: Mapping[str, int]) -> dict[str, str]:
    """Return the name to count each model under: if there are too many, the rare ones share one."""
    names: dict[str, str] = {}
    for model, _ in Counter(n_by_model).most_common():
        names[model] = bounded(model, names, MAX_MODELS)
    return names


def _with_healthy(counts: Mapping[tuple[str, Status], int]) -> dict[tuple[str, Status], int]:
    """Return the counts with `healthy` present for each name: an alert must be able to see a 0."""
    zeros = {(name, Status.HEALTHY): 0 for name, _ in counts}
    return {**zeros, **counts}


def quantile(values: Sequence[float], q: float) -> float | None:
    """Return the q-quantile, interpolated as Prometheus' `quantile` does; None of no values."""
    if not values:
        return None
    return _interpolated(sorted(values), q)


def _interpolated(ordered: Sequence[float], q: float) -> float:
    """Return the q-quantile of values in order, of which there is at least one."""
    rank = q * (len(ordered) - 1)
    lower = int(rank)
    upper = min(lower + 1, len(ordered) - 1)
    weight = rank - lower
    return ordered[lower] * (1 - weight) + ordered[upper] * weight
