"""One instance: how it is, and how it does against its node and its peers.

Every selector names the node and the instance: what is asked for is one series per replica of the
exporter, or those of one node. While All clusters are chosen there may be an instance of that name
in several of them: each has a value of its own.
"""

from __future__ import annotations

from alerts import names
from dashboards.queries import limits, worst
from dashboards.queries.select import THIS_INSTANCE, THIS_NODE, Ask
from exporter import catalogue
from exporter.catalogue import Series

INFO_LABELS = ("engine", "version", "developer")
MAX_NEIGHBOURS = "50"
RECENT_S = 300
"""So long an instance counts as just started; as the rules have it for nodes."""


def _info(ask: Ask) -> str:
    return ask.per_instance(catalogue.INSTANCE_INFO, *THIS_INSTANCE, labels=INFO_LABELS)


def up(ask: Ask) -> str:
    """Return whether the instance is healthy."""
    return value(ask, catalogue.INSTANCE_UP)


def known_up(ask: Ask) -> str:
    """Return the same, with everything that is known of the instance as labels."""
    value = f"max {ask.by('instance_id')} ({ask.series(catalogue.INSTANCE_UP, *THIS_INSTANCE)})"
    return f"0 * {_info(ask)}\n+ {ask.on('instance_id')} group_left () {value}"


def known_start(ask: Ask) -> str:
    """Return when it started, in milliseconds since 1970, with the same labels."""
    series = ask.series(catalogue.INSTANCE_START_TIME, *THIS_INSTANCE)
    value = f"max {ask.by('instance_id')} ({series})"
    return f"0 * {_info(ask)}\n+ {ask.on('instance_id')} group_left () 1000 * {value}"


def value(ask: Ask, series: Series) -> str:
    """Return one of the instance's gauges."""
    return f"max {ask.by()} ({ask.series(series, *THIS_INSTANCE)})"


def rate(ask: Ask, series: Series) -> str:
    """Return how fast one of its counters grows."""
    return f"max {ask.by()} ({ask.rate(series, *THIS_INSTANCE)})"


def errors(ask: Ask) -> str:
    """Return its failed requests per second by type."""
    rates = ask.rate(catalogue.INSTANCE_ERRORS, *THIS_INSTANCE)
    return f"max {ask.by('error_type')} ({rates})"


def age(ask: Ask) -> str:
    """Return how long it has been running."""
    return f"time() - {value(ask, catalogue.INSTANCE_START_TIME)}"


def restarts(ask: Ask) -> str:
    """Return for how long it has been running, in seconds, while that is not long.

    However long it was away before: counting changes would miss a start after a gap.
    """
    return f"{age(ask)} < {RECENT_S}"


def node_speed(ask: Ask) -> str:
    """Return the mean speed of the instances of its node that run the same model."""
    mean = ask.series(names.NODE_SPEED, THIS_NODE)
    return f"max {ask.by()} ({mean}\nand {ask.on('model', 'engine')} {_info(ask)})"


def peers_speed(ask: Ask) -> str:
    """Return the median speed of all nodes for its model and engine."""
    peers = ask.series(names.PEERS_SPEED)
    return f"max {ask.by()} ({peers}\nand {ask.on('model', 'engine')} {_info(ask)})"


def slow_speed(ask: Ask) -> str:
    """Return the speed below which a node counts as slow."""
    ratio = limits.line(ask, limits.NODE_RATIO)
    return f"{peers_speed(ask)}\n* on () group_left () {ratio}"


def latency_limit(ask: Ask) -> str:
    """Return what the fleet's p99 must stay below."""
    return limits.line(ask, limits.LATENCY)


def neighbours(ask: Ask, series: Series) -> str:
    """Return a value of the instances of the same node; those that are down first."""
    return worst.value(ask, series, MAX_NEIGHBOURS, THIS_NODE)
