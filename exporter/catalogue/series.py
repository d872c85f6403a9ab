"""What a series is, and the labels, label values and boundaries that several series share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The metric types of the Prometheus exposition formats."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    """Quantiles only: without a sum and a count."""


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: a counter's name carries its `_total`, as in queries."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Return the name as OpenMetrics' metadata lines write it: a counter without `_total`."""
        return self.name.removesuffix("_total") if self.kind is Kind.COUNTER else self.name


def gauge(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Series:
    """Return a series that goes up and down."""
    return Series(name, Kind.GAUGE, meaning, labels)


def counter(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Series:
    """Return a series that only rises; its name ends in `_total`."""
    return Series(name, Kind.COUNTER, meaning, labels)


def histogram(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Series:
    """Return a series of buckets, with their sum and count."""
    return Series(name, Kind.HISTOGRAM, meaning, labels)


INSTANCE = ("instance_id", "node")
"""What identifies an instance. What may change under a running server is in its `_info`."""
OF_MODEL = (*INSTANCE, "model")
SHARD = ("shard",)
"""The first label of each aggregate: replicas of a shard publish the same series."""


class Condition(StrEnum):
    """What is wrong with an instance that may be healthy all the same; a label value."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and these are counted all the time

    MODEL_NOT_LOADED = "model_not_loaded"
    MODEL_NOT_INSTALLED = "model_not_installed"
    NOTHING_LOADED = "nothing_loaded"
    ON_CPU = "on_cpu"
    STALLED = "stalled"
    FLAPPING = "flapping"
    NOT_SERVING = "not_serving"
    KV_CACHE_FULL = "kv_cache_full"


BOUNDARIES_S = (
    0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper bounds of the request duration histogram, in seconds; +Inf follows.

The alert threshold of 0.15 s must be a boundary: between boundaries a quantile is only a guess."""
