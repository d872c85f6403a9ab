"""Roll one hour of a fleet up: what is asked of Prometheus, and the rows that follow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from exporter import catalogue
from exporter.catalogue import Series
from ollama_fleet.prometheus import Series as Sample

HOUR_S = 3600
MINUTES = 60
OWN = "label_"
"""What the names of inventory labels begin with in ollama_instance_labels."""

Row = dict[str, Any]
InstanceKey = tuple[str, str, str]
Answers = Mapping[str, Sequence[Sample]]
"""Series by the name of the question."""


@dataclass(frozen=True, slots=True)
class Question:
    """One query for one hour, evaluated at its end; its answer is one column."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Naming:
    """Which labels of the operator mean what."""

    cluster_label: str = "cluster"
    hardware_label: str = "hardware"


def questions(naming: Naming) -> tuple[Question, ...]:
    """Return what to ask for one hour: each answer has at most a few series for each instance.

    Replicas of the exporter publish the same series, hence the maximum.
    """
    return (*_of_instances(naming.cluster_label), *_of_models(naming.cluster_label))


def _of_instances(cluster: str) -> Iterator[Question]:
    def ask(name: str, inner: str, series: Series, *labels: str) -> Question:
        by = ", ".join((cluster, "instance_id", "node", *labels))
        return Question(name, f"max by ({by}) ({inner.format(f'{series.name}[1h]')})")

    speed, p99 = catalogue.INSTANCE_TOKENS_PER_SECOND, catalogue.INSTANCE_LATENCY_P99
    up = catalogue.INSTANCE_UP.name
    by = f"{cluster}, instance_id, node"
    yield ask("uptime_ratio", "avg_over_time({})", catalogue.INSTANCE_UP)
    yield Question("observed_minutes", f"count_over_time((max by ({by}) ({up}))[1h:1m])")
    yield ask("generated_tokens", "increase({})", catalogue.INSTANCE_GENERATED_TOKENS)
    yield ask("prompt_tokens", "increase({})", catalogue.INSTANCE_PROMPT_TOKENS)
    yield ask("tokens_per_second_mean", "avg_over_time({})", speed)
    yield ask("tokens_per_second_median", "quantile_over_time(0.5, {})", speed)
    yield ask("request_latency_p99_seconds_mean", "avg_over_time({})", p99)
    yield ask("request_latency_p99_seconds_max", "max_over_time({})", p99)
    yield ask("restarts", "changes({})", catalogue.INSTANCE_START_TIME)
    yield ask("started_at", "last_over_time({})", catalogue.INSTANCE_START_TIME)
    yield ask("errors", "increase({})", catalogue.INSTANCE_ERRORS, "error_type")
    yield ask("loaded", "present_over_time({})", catalogue.INSTANCE_MODEL_LOADED, "model")
    identity = ("model", "engine", "version")
    yield ask("identity", "count_over_time({})", catalogue.INSTANCE_INFO, *identity)
    # Its labels are the operator's, so that no `by` can name them.
    yield Question("labels", f"count_over_time({catalogue.INSTANCE_LABELS.name}[1h])")


def _of_models(cluster: str) -> Iterator[Question]:
    def increase(name: str, *labels: str) -> str:
        by = ", ".join((cluster, "model", *labels))
        return f"sum by ({by}) (max by ({by}, shard) (increase({name}[1h])))"

    def p99(series: Series) -> str:
        return f"histogram_quantile(0.99, {increase(f'{series.name}_bucket', 'le')})"

    yield Question("requests", increase(catalogue.FLEET_REQUESTS.name))
    yield Question("request_errors", increase(catalogue.FLEET_REQUEST_ERRORS.name))
    yield Question("request_duration_p99_seconds", p99(catalogue.FLEET_REQUEST_DURATION))
    yield Question("time_to_first_token_p99_seconds", p99(catalogue.FLEET_TIME_TO_FIRST_TOKEN))


PLAIN = (
    "uptime_ratio",
    "generated_tokens",
    "prompt_tokens",
    "tokens_per_second_mean",
    "tokens_per_second_median",
    "request_latency_p99_seconds_mean",
    "request_latency_p99_seconds_max",
)
"""Columns that are one number for each instance, as Prometheus gives it."""
OF_HISTOGRAMS = (
    "requests",
    "request_errors",
    "request_duration_p99_seconds",
    "time_to_first_token_p99_seconds",
)


def instance_rows(hour: datetime, answers: Answers, naming: Naming) -> list[Row]:
    """Return a row for each instance that Prometheus has in the hour."""
    key_of = _key_of(naming.cluster_label)
    numbers = {name: _numbers(answers[name], key_of) for name in PLAIN}
    minutes, restarts, started = (
        _numbers(answers[name], key_of) for name in ("observed_minutes", "restarts", "started_at")
    )
    errors, loaded = _errors(answers["errors"], key_of), _models(answers["loaded"], key_of)
    identities, labels = (_longest(answers[name], key_of) for name in ("identity", "labels"))
    rows = []
    for key in sorted(numbers["uptime_ratio"]):
        identity, own = identities.get(key, {}), _inventory_labels(labels.get(key, {}))
        rows.append(
            {
                "hour": hour,
                **dict(zip(("cluster", "instance_id", "node"), key, strict=True)),
                **{name: identity.get(name, "") for name in ("model", "engine", "version")},
                "hardware": own.get(naming.hardware_label, ""),
                "labels": sorted(own.items()),
                **{name: found.get(key) for name, found in numbers.items()},
                "observed_ratio": min(1.0, minutes.get(key, 0.0) / MINUTES),
                "errors": sorted(errors.get(key, {}).items()),
                "restarts": int(restarts.get(key, 0)),
                "started_at": _moment(started.get(key)),
                "loaded_models": sorted(loaded.get(key, ())),
            }
        )
    return rows


def _key_of(cluster_label: str) -> Callable[[Mapping[str, str]], InstanceKey]:
    return lambda labels: (
        labels.get(cluster_label, ""),
        labels.get("instance_id", ""),
        labels.get("node", ""),
    )


KeyOf = Callable[[Mapping[str, str]], InstanceKey]


def _numbers(samples: Iterable[Sample], key_of: KeyOf) -> dict[InstanceKey, float]:
    return {key_of(one.metric): one.number for one in samples if math.isfinite(one.number)}


def _errors(samples: Iterable[Sample], key_of: KeyOf) -> dict[InstanceKey, dict[str, float]]:
    found = defaultdict[InstanceKey, dict[str, float]](dict)
    for one in samples:
        if one.number > 0:
            found[key_of(one.metric)][one.metric.get("error_type", "")] = one.number
    return found


def _models(samples: Iterable[Sample], key_of: KeyOf) -> dict[InstanceKey, set[str]]:
    found = defaultdict[InstanceKey, set[str]](set)
    for one in samples:
        found[key_of(one.metric)].add(one.metric.get("model", ""))
    return found


def _longest(samples: Iterable[Sample], key_of: KeyOf) -> dict[InstanceKey, Mapping[str, str]]:
    """Return the labels that each instance had for most of the hour."""
    best: dict[InstanceKey, tuple[float, list[tuple[str, str]]]] = {}
    for one in samples:
        key, found = key_of(one.metric), (one.number, sorted(one.metric.items()))
        best[key] = max(best.get(key, found), found)
    return {key: dict(labels) for key, (_, labels) in best.items()}


def _inventory_labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(OWN): text for name, text in labels.items() if name.startswith(OWN)}


def _moment(unix_s: float | None) -> datetime | None:
    try:
        return None if unix_s is None else datetime.fromtimestamp(round(unix_s), UTC)
    except (ValueError, OverflowError):  # a server may report any number
        return None


# Nodes and models, from the rows of instances


def node_rows(instances: Sequence[Row]) -> list[Row]:
    """Return a row for each node."""
    rows = []
    for (cluster, node), group in _grouped(instances, "node"):
        rows.append(
            {
                "hour": group[0]["hour"],
                "cluster": cluster,
                "node": node,
                "hardware": max((row["hardware"] for row in group), default=""),
                "labels": sorted(_in_common([row["labels"] for row in group])),
                **_rolled_up(group),
                "models": sorted({row["model"] for row in group} - {""}),
                "loaded_models": sorted({name for row in group for name in row["loaded_models"]}),
            }
        )
    return rows


def model_rows(instances: Sequence[Row], answers: Answers, naming: Naming) -> list[Row]:
    """Return a row for each model that an instance has for most of the hour."""
    of_histograms = {name: _by_model(answers[name], naming) for name in OF_HISTOGRAMS}
    loaded = defaultdict[tuple[str, str], int](int)
    for row in instances:
        for model in row["loaded_models"]:
            loaded[row["cluster"], model] += 1
    return [
        {
            "hour": group[0]["hour"],
            "cluster": key[0],
            "model": key[1],
            "loaded_instances": loaded[key],
            **_rolled_up(group),
            **{name: found.get(key) for name, found in of_histograms.items()},
        }
        for key, group in _grouped(instances, "model")
    ]


def _by_model(samples: Iterable[Sample], naming: Naming) -> dict[tuple[str, str], float]:
    return {
        (one.metric.get(naming.cluster_label, ""), one.metric.get("model", "")): one.number
        for one in samples
        if math.isfinite(one.number)
    }


def _grouped(instances: Iterable[Row], by: str) -> list[tuple[tuple[str, str], list[Row]]]:
    groups = defaultdict[tuple[str, str], list[Row]](list)
    for row in instances:
        groups[row["cluster"], row[by]].append(row)
    return sorted(groups.items())


def _in_common(labels: Sequence[Sequence[tuple[str, str]]]) -> set[tuple[str, str]]:
    return set[tuple[str, str]](labels[0]).intersection(*labels[1:])


def _rolled_up(group: Sequence[Row]) -> Row:
    """Return the columns that nodes and models have in common; null where no instance reports."""
    errors = defaultdict[str, float](float)
    for row in group:
        for kind, count in row["errors"]:
            errors[kind] += count
    return {
        "instances": len(group),
        "uptime_ratio": _over(_mean, group, "uptime_ratio"),
        "generated_tokens": _over(math.fsum, group, "generated_tokens"),
        "prompt_tokens": _over(math.fsum, group, "prompt_tokens"),
        "tokens_per_second": _over(math.fsum, group, "tokens_per_second_mean"),
        "tokens_per_second_median": _over(median, group, "tokens_per_second_median"),
        "request_latency_p99_seconds_median": _over(
            median, group, "request_latency_p99_seconds_mean"
        ),
        "request_latency_p99_seconds_max": _over(max, group, "request_latency_p99_seconds_max"),
        "errors": sorted(errors.items()),
        "restarts": sum(row["restarts"] for row in group),
    }


def _over(fold: Callable[[list[float]], float], group: Iterable[Row], column: str) -> float | None:
    known = [row[column] for row in group if row[column] is not None]
    return fold(known) if known else None


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)
