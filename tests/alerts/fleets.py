"""Fleets of any size as promtool's input series: what an exporter publishes while things happen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from exporter.catalogue import Condition
from exporter.model import Status

DAY_MIN = 1440
BOUNDARIES_S = (0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0)
SPEED = 'ollama_fleet_tokens_per_second{model="a"}'
MEASURED = 'ollama_fleet_measured_instances{model="a"}'
GENERATED = 'ollama_fleet_generated_tokens_total{model="a"}'
RECENTLY_FAILED = "ollama_fleet_recently_failed_instances"
TRANSIENT = "ollama_fleet_transient_instances"
CONDITION = 'ollama_fleet_instance_conditions{{condition="{}"}}'
RESTARTS = "ollama_fleet_restarts_total"
OWN_P99 = "ollama_fleet_request_latency_p99_seconds"
FLEET_P99 = 'ollama_fleet_instance_request_latency_p99_seconds{{quantile="{}"}}'
MODEL_P99 = 'ollama_model_instance_request_latency_p99_seconds{{model="a",quantile="{}"}}'

Value = float | None
"""None where there is no sample."""
Steps = Sequence[tuple[float, Value]]
"""Minutes and a value each; the last value stays."""
Samples = list[Value]
NONE: Steps = ((1, 0),)
GONE: Steps = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What one exporter publishes of a fleet; exporters of one cluster are replicas or shards."""

    cluster: str = ""
    """Empty for a fleet without that label."""
    listed: Steps
    statuses: Mapping[str, Steps] = field(default_factory=dict)
    """The others are healthy."""
    models: Mapping[str, Mapping[str, Steps]] = field(default_factory=dict)
    """By model and status; where not given, all instances have one model."""
    nodes: Mapping[str, Mapping[str, Steps]] = field(default_factory=dict)
    """By node and status."""
    latency_s: Steps = ((1, 0.1),)
    """The p99 that the instances report of themselves; GONE if they report none."""
    speed: float = 100.0
    """In tokens/s of an instance."""
    gauges: Mapping[str, Steps] = field(default_factory=dict)
    """Further series by selector, or other values of those below; GONE removes one."""
    counters: Mapping[str, Steps] = field(default_factory=dict)
    """The same of counters, by how much they rise a minute."""
    restart: tuple[float, float] = (0, 0)
    """Minutes between which the exporter is down; its counters begin at 0 then."""
    exporter: str = "exporter:11440"
    shard: str = "0"
    shards: int = 1

    def series(self, minutes: int = DAY_MIN, interval_s: float = 60) -> Iterator[dict[str, str]]:
        """Yield what promtool is fed."""
        times = [n * interval_s / 60 for n in range(round(minutes * 60 / interval_s) + 1)]
        gauges = self._counts(times)
        for selector, steps in {**self._others(times), **self.gauges}.items():
            gauges[selector] = samples(steps, times)
        for selector, values in gauges.items():
            seen = self._masked(values, times)
            if selector == "up":
                seen = [value or 0 for value in seen]
            yield from self._written(selector, seen)
        counters = {GENERATED: ((1, 600),), RESTARTS: NONE, **self.counters}
        for selector, steps in counters.items():
            if not steps:
                continue
            rises = [(value or 0) * interval_s / 60 for value in samples(steps, times)]
            yield from self._written(selector, self._added_up(rises, times))

    def _counts(self, times: Sequence[float]) -> dict[str, Samples]:
        """Return the series that count instances, and their speed."""
        listed = samples(self.listed, times)
        by_status = {status: samples(steps, times) for status, steps in self.statuses.items()}
        counts = zip(listed, *by_status.values(), strict=True)
        healthy = [_less(of, others) for of, *others in counts]
        by_status["healthy"] = healthy
        gauges: dict[str, Samples] = {
            SPEED: [up and up * self.speed for up in healthy],
            MEASURED: healthy,
        }
        for status in Status:
            values = by_status.get(status, samples(NONE, times))
            gauges[f'ollama_fleet_instances{{status="{status}"}}'] = values
            if not self.models and status in by_status:
                gauges[f'ollama_model_instances{{model="a",status="{status}"}}'] = values
        return gauges

    def _others(self, times: Sequence[float]) -> dict[str, Steps]:
        ends = [(after - before, 60 * before) for before, after in pairwise(times)]
        now: Steps = [*ends, (1, 60 * times[-1])]
        others: dict[str, Steps] = {
            "up": ((1, 1),),
            f'ollama_exporter_shard_info{{shard="{self.shard}"}}': ((1, 1),),
            "ollama_exporter_shards": ((1, self.shards),),
            "ollama_exporter_poll_interval_seconds": ((1, 10),),
            "ollama_exporter_poll_last_completed_timestamp_seconds": now,
            'ollama_exporter_inventory_last_success_timestamp_seconds{source="file"}': now,
            "ollama_fleet_inventory_instances": self.listed,
            RECENTLY_FAILED: NONE,
            TRANSIENT: NONE,
            OWN_P99: self.latency_s,
        }
        for quantile in ("0.5", "0.9", "0.99"):
            others[FLEET_P99.format(quantile)] = self.latency_s
            others[MODEL_P99.format(quantile)] = self.latency_s
        others[FLEET_P99.format("0.999")] = self.latency_s
        for condition in Condition:
            others[f'ollama_fleet_instance_conditions{{condition="{condition}"}}'] = NONE
        for kind, groups in (("model", self.models), ("node", self.nodes)):
            for name, by_status in groups.items():
                for status, steps in {"healthy": NONE, **by_status}.items():
                    others[f'ollama_{kind}_instances{{{kind}="{name}",status="{status}"}}'] = steps
        return others

    def _masked(self, values: Samples, times: Sequence[float]) -> Samples:
        """Return the values without those of the time in which the exporter is down."""
        start, end = self.restart
        if start == end:
            return values
        return [
            None if start <= at < end else value for at, value in zip(times, values, strict=True)
        ]

    def _added_up(self, rises: Sequence[float], times: Sequence[float]) -> Samples:
        total, start, end = 0.0, *self.restart
        totals: Samples = []
        for at, rise in zip(times, rises, strict=True):
            total = 0.0 if start <= at < end else total + rise
            totals.append(round(total, 6))
        return self._masked(totals, times)

    def _written(self, selector: str, values: Samples) -> Iterator[dict[str, str]]:
        name, _, labels = selector.rstrip("}").partition("{")
        own = [f'job="ollama-fleet-exporter",instance="{self.exporter}"']
        if name.startswith("ollama_provisioner_"):
            own = ['job="ollama-fleet-provisioner",instance="provisioner:8080"']
        if self.cluster:
            own.append(f'cluster="{self.cluster}"')
        if name.startswith(("ollama_fleet_", "ollama_model_", "ollama_node_")):
            own.append(f'shard="{self.shard}"')
        if labels:
            own.append(labels)
        if any(value is not None for value in values):
            yield {"series": f"{name}{{{','.join(own)}}}", "values": _text(values)}


def requests(
    per_minute: Steps, took_s: float, *, failing: Steps = NONE, model: str = "a"
) -> dict[str, Steps]:
    """Return the counters of requests that all take this long; `failing` of them fail a minute."""
    of = f'model="{model}"'
    duration = "ollama_fleet_request_duration_seconds"
    counters = {
        f"ollama_fleet_requests_total{{{of}}}": per_minute,
        f"ollama_fleet_request_errors_total{{{of}}}": failing,
        f"{duration}_count{{{of}}}": per_minute,
        f'{duration}_bucket{{{of},le="+Inf"}}': per_minute,
    }
    for bound_s in BOUNDARIES_S:
        counters[f'{duration}_bucket{{{of},le="{bound_s:g}"}}'] = (
            per_minute if took_s <= bound_s else NONE
        )
    return counters


def samples(steps: Steps, times: Sequence[float]) -> Samples:
    """Return the value at each time, in minutes."""
    if len(steps) == 1:
        return [steps[0][1]] * len(times)
    values: Samples = []
    left = iter(steps)
    until, value = 0.0, None
    is_last = False
    for at in times:
        while at >= until and not is_last:
            minutes, value = next(left, (0.0, value))
            is_last = not minutes
            until += minutes
        values.append(value)
    return values


def _less(of: Value, others: Sequence[Value]) -> Value:
    return None if of is None else of - sum(other or 0 for other in others)


def _text(values: Samples) -> str:
    """Return the values as promtool reads them, each even rise in one."""
    if values.count(values[0]) == len(values):
        return f"{values[0]:.12g}x{len(values) - 1}"
    parts: list[str] = []
    n = 0
    while n < len(values):
        first = values[n]
        if first is None:
            parts.append("stale" if n and values[n - 1] is not None else "_")
            n += 1
            continue
        last = _run(values, n)
        after = values[n + 1] if last > n else None
        rise = f"{after - first:+.12g}" if after is not None else "+0"
        parts.append(f"{first:.12g}{rise}x{last - n}" if last > n else f"{first:.12g}")
        n = last + 1
    return " ".join(parts)


def _run(values: Samples, start: int) -> int:
    """Return the last index up to which values rise evenly from this one on."""
    last = start
    rise: float | None = None
    for n in range(start + 1, len(values)):
        before, value = values[n - 1], values[n]
        if before is None or value is None:
            break
        if rise is not None and abs(value - before - rise) > 1e-9:
            break
        rise, last = value - before, n
    return last
