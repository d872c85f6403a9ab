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


def _info(select: Selectors) -> str:
    return select.per_instance(catalogue.INSTANCE_INFO, *THIS_INSTANCE, labels=INFO_LABELS)


def up(select: Selectors) -> str:
    """Return whether the instance is healthy."""
    return value(select, catalogue.INSTANCE_UP)


def known_up(select: Selectors) -> str:
    """Return the same, with everything that is known of the instance as labels."""
    value = (
        f"max {select.by('instance_id')} ({select.series(catalogue.INSTANCE_UP, *THIS_INSTANCE)})"
    )
    return f"0 * {_info(select)}\n+ {select.on('instance_id')} group_left () {value}"


def known_start(select: Selectors) -> str:
    """Return when it started, in milliseconds since 1970, with the same labels."""
    series = select.series(catalogue.INSTANCE_START_TIME, *THIS_INSTANCE)
    value = f"max {select.by('instance_id')} ({series})"
    return f"0 * {_info(select)}\n+ {select.on('instance_id')} group_left () 1000 * {value}"


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


def age(select: Selectors) -> str:
    """Return how long it has been running."""
    return f"time() - {value(select, catalogue.INSTANCE_START_TIME)}"


def restarts(select: Selectors) -> str:
    """Return for how long it has been running, in seconds, while that is not long.

    However long it was away before: counting changes would miss a start after a gap.
    """
    return f"{age(select)} < {RECENT_S}"


def node_speed(select: Selectors) -> str:
    """Return the mean speed of the instances of its node that run the same model."""
    mean = select.series(names.NODE_SPEED, THIS_NODE)
    return f"max {select.by()} ({mean}\nand {select.on('model', 'engine')} {_info(select)})"


def peers_speed(select: Selectors) -> str:
    """Return the median speed of all nodes for its model and engine."""
    peers = select.series(names.PEERS_SPEED)
    return f"max {select.by()} ({peers}\nand {select.on('model', 'engine')} {_info(select)})"


def slow_speed(select: Selectors) -> str:
    """Return the speed below which a node counts as slow."""
    ratio = limits.line(select, limits.NODE_RATIO)
    return f"{peers_speed(select)}\n* on () group_left () {ratio}"


def latency_limit(select: Selectors) -> str:
    """Return what the fleet's p99 must stay below."""
    return limits.line(select, limits.LATENCY)


def neighbours(select: Selectors, series: Series) -> str:
    """Return a value of the instances of the same node; those that are down first."""
    return selectors.worst_value(select, series, MAX_NEIGHBOURS, THIS_NODE)
