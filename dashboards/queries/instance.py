"""One instance: how it is, and how it compares with its node and its peers."""

from __future__ import annotations

from alerts import names
from dashboards.queries import limits, selectors
from dashboards.queries.selectors import THIS_INSTANCE, THIS_NODE, Selectors
from exporter import catalogue
from exporter.catalogue import Series

INFO_LABELS = ("model", "engine", "version", "developer")
MAX_NEIGHBOURS = "50"
RECENT_S = 300
"""So long an instance counts as just started; as the rules have it for nodes."""


def info(select: Selectors) -> str:
    """Return what is known of the instance as labels."""
    return select.per_instance(catalogue.INSTANCE_INFO, *THIS_INSTANCE, labels=INFO_LABELS)


def up(select: Selectors) -> str:
    """Return whether the instance is healthy."""
    return value(select, catalogue.INSTANCE_UP)


def now(select: Selectors, series: Series) -> str:
    """Return one of its gauges with its node as a label."""
    return select.per_instance(series, *THIS_INSTANCE)


def start_ms(select: Selectors) -> str:
    """Return when it started, in milliseconds since 1970, with its node as a label."""
    return f"1000 * {now(select, catalogue.INSTANCE_START_TIME)}"


def value(select: Selectors, series: Series) -> str:
    """Return one of the instance's gauges."""
    return f"max {select.by()} ({select.series(series, *THIS_INSTANCE)})"


def rate(select: Selectors, series: Series) -> str:
    """Return how fast one of its counters grows."""
    return f"max {select.by()} ({select.rate(series, *THIS_INSTANCE)})"


def errors(select: Selectors) -> str:
    """Return its failed requests per second by type."""
    rates = select.rate(catalogue.INSTANCE_ERRORS, *THIS_INSTANCE)
    return f"max {select.by('error_type')} ({rates})"


def conditions(select: Selectors) -> str:
    """Return 2 for each condition that it has: beside its health, where 1 is healthy."""
    has = select.series(catalogue.INSTANCE_CONDITION, *THIS_INSTANCE)
    return f"2 * max {select.by('condition')} ({has})"


def models(select: Selectors, series: Series) -> str:
    """Return a value of each model that it has in memory."""
    return f"max {select.by('model')} ({select.series(series, *THIS_INSTANCE)})"


def models_expire_ms(select: Selectors) -> str:
    """Return when each of them is unloaded without a request, in milliseconds since 1970."""
    return f"1000 * {models(select, catalogue.INSTANCE_MODEL_EXPIRES)}"


def age(select: Selectors) -> str:
    """Return how long it has been running."""
    return f"time() - {value(select, catalogue.INSTANCE_START_TIME)}"


def restarts(select: Selectors) -> str:
    """Return for how long it has been running, in seconds, while that is not long.

    However long it was away before: counting changes would miss a start after a gap.
    """
    return f"{age(select)} < {RECENT_S}"


def _as_its_own(select: Selectors, series: str) -> str:
    """Return of what there is by model and engine that of this instance."""
    info = select.series(catalogue.INSTANCE_INFO, *THIS_INSTANCE)
    return f"max {select.by()} ({series}\nand {select.on('model', 'engine')} {info})"


def node_speed(select: Selectors) -> str:
    """Return the mean speed of the instances of its node that run the same model."""
    return _as_its_own(select, select.series(names.NODE_SPEED, THIS_NODE))


def peers_speed(select: Selectors) -> str:
    """Return the median speed of the peers of its node."""
    speed, ratio = (
        select.series(name, THIS_NODE) for name in (names.NODE_SPEED, names.NODE_SPEED_RATIO)
    )
    return _as_its_own(select, f"{speed} / {ratio}")


def slow_speed(select: Selectors) -> str:
    """Return the speed below which a node counts as slow."""
    return f"{peers_speed(select)}\n* {select.on()} {select.series(limits.NODE_RATIO)}"


def latency_limit(select: Selectors) -> str:
    """Return what the fleet's p99 must stay below."""
    own = value(select, catalogue.INSTANCE_LATENCY_P99)
    return limits.line(f"max({select.series(limits.LATENCY)})", own)


def neighbours(select: Selectors, series: Series) -> str:
    """Return a value of the instances of the same node; those that are down first."""
    return selectors.worst_value(select, series, MAX_NEIGHBOURS, THIS_NODE)


def neighbours_info(select: Selectors) -> str:
    """Return their models as labels."""
    return selectors.worst_info(select, MAX_NEIGHBOURS, THIS_NODE)
