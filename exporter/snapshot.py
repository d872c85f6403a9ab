"""The fleet at one moment: every instance, and the aggregates over all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import chain, product
from typing import TYPE_CHECKING, TypeVar

import msgspec

from exporter.conditions import is_on_cpu
from exporter.counters import (
    MAX_ERROR_PAIRS,
    MAX_MODELS,
    OTHER,
    CounterState,
    TrafficCounters,
    bounded,
    speed_now,
)
from exporter.model import (
    CanaryState,
    Condition,
    LoadedModel,
    Reading,
    Status,
    Target,
)
from exporter.peers import NodeKey, peers_speeds
from exporter.status import is_within

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from exporter.canary_counters import CanaryTotals
    from exporter.counters import FleetCounters
    from exporter.model import Histogram


Key = TypeVar("Key", bound="Hashable")
Amount = TypeVar("Amount", int, float)

HEALTHY = Status.HEALTHY
QUANTILE = 0.99
HIGH_QUANTILES = (0.5, 0.9, 0.99)
"""Of what hurts when it is high."""
LOW_QUANTILES = (0.5, 0.1, 0.01)
"""Of what hurts when it is low."""
FLEET_QUANTILES = (*HIGH_QUANTILES, 0.999)

STARTED_S = 300.0
"""How long an instance counts as just started."""
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
    inventory_labels: str = ""
    """`label_rack="…"`, ready for the exposition; empty if it has no labels."""


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
class Spreads:
    """Quantiles over the healthy instances that report a figure."""

    latency_p99_s: Mapping[str, float]
    """By quantile."""
    model_latency_p99_s: Mapping[tuple[str, str], float]
    """By (model, quantile), like the next two."""
    model_tokens_per_second: Mapping[tuple[str, str], float]
    model_kv_cache_ratio: Mapping[tuple[str, str], float]


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
    node_started_instances: Mapping[tuple[str], int]
    """Instances that started within STARTED_S, by node."""
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
    spreads: Spreads
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


def label_text(target: Target) -> str:
    """Return the labels that every series of an instance carries, escaped, without braces."""
    return f'instance_id="{escape(target.id)}",node="{escape(target.node)}"'


def info_label_text(model: str, engine: str, version: str, developer: str) -> str:
    """Return the further labels of `ollama_instance_info`, escaped, without braces."""
    of_server = f'engine="{engine}",version="{escape(version)}",developer="{escape(developer)}"'
    return f'model="{escape(model)}",{of_server}'


def inventory_label_text(target: Target) -> str:
    """Return the further labels of `ollama_instance_labels`, escaped, without braces."""
    return ",".join([f'label_{name}="{escape(text)}"' for name, text in target.labels.items()])


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


def _quantiles(
    samples: Iterable[tuple[str, Sequence[float]]], qs: Sequence[float]
) -> dict[tuple[str, str], float]:
    """Return quantiles of the samples that have the same name, by name and label value."""
    by_name: dict[str, list[float]] = {}
    for name, some in samples:
        by_name.setdefault(name, []).extend(some)
    ordered = {name: sorted(some) for name, some in by_name.items()}
    return {(name, repr(q)): _interpolated(some, q) for name, some in ordered.items() for q in qs}


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
        self._node_started: Counter[str] = Counter()
        self._kinds: Counter[tuple[str, Status, str, str]] = Counter()
        """Number of instances by model, status, engine and version."""
        self._node_speeds: dict[tuple[str, str, str], list[float]] = {}
        """Speeds of the healthy instances with a known speed, by (node, model, engine)."""
        self._hardware: dict[str, str] = {}
        """By node, as far as the inventory says."""
        self._latencies_s: defaultdict[str, list[float]] = defaultdict(list)
        """p99 of the healthy instances that report it and no histogram, by model."""
        self._histogram_latencies_s: defaultdict[str, list[float]] = defaultdict(list)
        """The same of those that report a histogram as well."""
        self._kv_cache_ratios: defaultdict[str, list[float]] = defaultdict(list)
        """By model, of the healthy instances."""
        self._queued: defaultdict[str, float] = defaultdict(float)
        """By model, of all instances."""
        self._conditions: Counter[Condition] = Counter()
        self._models: dict[str, ModelUse] = {}
        """By name: the models that are loaded, and those that the inventory lists."""
        self._installed: Counter[tuple[str, ...]] = Counter()
        """Number of instances by their list of installed models, which many share."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take in some rows; about 1 µs each."""
        self._node_instances.update([(row.target.node, row.status) for row in rows])
        self._kinds.update(
            [
                (
                    row.counters.model,
                    row.status,
                    row.target.engine if row.reading is None else row.reading.engine,
                    row.counters.version,
                )
                for row in rows
            ]
        )
        self._add_failing([row.failing_since_s for row in rows if row.failing_since_s is not None])
        self._n_transient += sum([row.is_transient for row in rows])
        healthy = [row for row in rows if row.status is HEALTHY]
        self._add_starts(rows)
        self._add_speeds(healthy)
        self._add_values(rows)
        self._conditions.update([condition for row in rows for condition in row.conditions])
        self._add_models([row for row in rows if row.counters.loaded is not None and row.is_up])

    def _add_starts(self, rows: Sequence[Row]) -> None:
        since_s = self._now_s - STARTED_S
        self._node_started.update(
            [
                row.target.node
                for row in rows
                if (row.counters.start_time_s or row.target.started_s or 0.0) > since_s
            ]
        )

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

    def _add_values(self, rows: Sequence[Row]) -> None:
        """Take in what instances report of themselves."""
        latencies, kv_cache, queued = self._latencies_s, self._kv_cache_ratios, self._queued
        for row in rows:
            if (reading := row.reading) is None:
                continue
            values, model = reading.verdict.values, row.counters.model
            if (n_queued := values.requests_queued) is not None:
                queued[model] += n_queued
            if row.status is not HEALTHY:
                continue
            if (latency_s := values.latency_p99_s) is not None:
                has_histogram = values.request_duration is not None
                (self._histogram_latencies_s if has_histogram else latencies)[model].append(
                    latency_s
                )
            if (ratio := values.kv_cache_usage_ratio) is not None:
                kv_cache[model].append(ratio)

    def _add_speeds(self, healthy: Sequence[Row]) -> None:
        now_s, speeds = self._now_s, self._node_speeds
        for row in healthy:
            counters = row.counters
            speed = speed_now(counters, row.canary, now_s=now_s)
            if speed and row.reading is not None:
                key = (row.target.node, counters.model, row.reading.engine)
                if (some := speeds.get(key)) is not None:
                    some.append(speed)
                else:
                    speeds[key] = [speed]
                    self._note_hardware(row.target)

    def _note_hardware(self, target: Target) -> None:
        if hardware := target.labels.get(self._hardware_label):
            self._hardware[target.node] = hardware

    def finish(self, fleet_counters: FleetCounters) -> Fleet:
        """Return the aggregates over the rows, with the fleet's counters as they are now."""
        kinds = self._kinds.items()
        counts = _totals(((model, status), n) for (model, status, _, _), n in kinds).items()
        names = _commonest(_totals((model, n) for (model, _), n in counts))
        nodes = self._speeds_by_node(names)
        speeds = {key: sum(some) for key, some in nodes.items()}
        measured = {key: len(some) for key, some in nodes.items()}
        spreads = self._spreads(names, nodes)
        traffic = fleet_counters.traffic
        if traffic.is_stale:
            traffic = TrafficCounters()
        return Fleet(
            instances=dict.fromkeys(Status, 0) | _totals((status, n) for (_, status), n in counts),
            recently_failed_instances=self._n_recently_failed,
            transient_instances=self._n_transient,
            tokens_per_second=_totals((key.model, speed) for key, speed in speeds.items()),
            measured_instances=dict.fromkeys(names.values(), 0)
            | _totals((key.model, n) for key, n in measured.items()),
            latency_p99_s=quantile([*chain(*self._latencies_s.values())], QUANTILE),
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
            node_started_instances={(node,): n for node, n in self._node_started.items()},
            generated_tokens=dict(traffic.generated_tokens),
            errors=_with_zeros(traffic.errors, names.values()),
            node_errors=dict(traffic.node_errors),
            durations=dict(traffic.durations.by_model),
            time_to_first_token=dict(traffic.time_to_first_token.by_model),
            queue_time=dict(traffic.queue_time.by_model),
            latency_p99_bounds=_named(traffic.latency_bounds(QUANTILE, self._now_s)),
            requests=traffic.requests,
            request_errors=traffic.request_errors,
            requests_queued=_totals((names[model], n) for model, n in self._queued.items()),
            engine_instances=_common_versions(
                _totals(((engine, version), n) for (_, _, engine, version), n in kinds)
            ),
            spreads=spreads,
            conditions=dict.fromkeys(Condition, 0) | self._conditions,
            models=self._model_totals(),
            model_loads=dict(fleet_counters.model_loads),
            model_unloads=dict(fleet_counters.model_unloads),
            restarts=fleet_counters.restarts,
            canary=None if fleet_counters.canary is None else fleet_counters.canary.totals(),
        )

    def _speeds_by_node(self, names: Mapping[str, str]) -> dict[NodeKey, list[float]]:
        nodes: dict[NodeKey, list[float]] = {}
        for (node, model, engine), speeds in self._node_speeds.items():
            key = NodeKey(node, names[model], engine)
            nodes[key] = nodes[key] + speeds if key in nodes else speeds
        return nodes

    def _spreads(self, names: Mapping[str, str], speeds: Mapping[NodeKey, list[float]]) -> Spreads:
        by_model = [*self._latencies_s.items(), *self._histogram_latencies_s.items()]
        for _, some in by_model:
            some.sort()  # what is in order costs the other quantiles nearly nothing
        fleet = (("", some) for _, some in by_model)
        latencies = ((names[model], some) for model, some in by_model)
        ratios = ((names[model], some) for model, some in self._kv_cache_ratios.items())
        return Spreads(
            {q: value for (_, q), value in _quantiles(fleet, FLEET_QUANTILES).items()},
            _quantiles(latencies, HIGH_QUANTILES),
            _quantiles(((key.model, some) for key, some in speeds.items()), LOW_QUANTILES),
            _quantiles(ratios, HIGH_QUANTILES),
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


def _with_zeros(
    errors: Mapping[tuple[str, str], float], models: Iterable[str]
) -> dict[tuple[str, str], float]:
    """Return errors by (model, type), 0 where a model had none: its first must be an increase."""
    zeros = dict.fromkeys(product(models, {kind for _, kind in errors}), 0.0)
    return {**(zeros if len(zeros) <= MAX_ERROR_PAIRS else {}), **errors}


def _common_versions(counts: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Return the counts by (engine, version); if there are too many, the rare ones share one."""
    kept = {pair for pair, _ in Counter(counts).most_common(MAX_VERSIONS)}
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
    unhealthy = [name for name, status in counts if status is not HEALTHY]
    zeros = {(name, HEALTHY): 0 for name in unhealthy}
    return {**zeros, **counts}


def quantile(values: Sequence[float], q: float) -> float | None:
    """Return the q-quantile, interpolated as Prometheus' `quantile` does; None of no values."""
    if not values:
        return None
    return _interpolated(sorted(values), q)


def _interpolated(ordered: Sequence[float], q: float) -> float:
    """Return the q-quantile of one or more values in order."""
    rank = q * (len(ordered) - 1)
    lower = int(rank)
    upper = min(lower + 1, len(ordered) - 1)
    weight = rank - lower
    return ordered[lower] * (1 - weight) + ordered[upper] * weight
