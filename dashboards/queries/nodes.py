"""Nodes against their peers, and what of a node fails.

Tables take the worst only; charts the series of those that are worst at the end of the time range,
so that a line does not begin and end as others overtake it.
"""

from __future__ import annotations

from alerts import names
from dashboards.queries import limits, worst
from dashboards.queries.select import FAILING, MODEL, NODE, Ask
from exporter import catalogue

LINES = 10
"""So many lines can be told apart."""
GROUP = ("node", "model", "engine")


def _slowest(ask: Ask) -> str:
    return f"bottomk($limit, {ask.series(names.NODE_SPEED_RATIO, MODEL)})"


def slowest_ratio(ask: Ask) -> str:
    """Return the speed of the slowest nodes, as a share of their peers' median."""
    return _slowest(ask)


def slowest_is_slow(ask: Ask) -> str:
    """Return 1 for those of the slowest that are below the alert's limit, 0 for the others.

    Absent where there is no limit: nobody has said then that they are as they should be.
    """
    return f"{_slowest(ask)}\n< bool on () group_left () {ratio_limit(ask)}"


def slowest_speed(ask: Ask) -> str:
    """Return the slowest nodes' tokens per second per instance."""
    return f"{ask.series(names.NODE_SPEED, MODEL)}\nand {ask.on(*GROUP)} {_slowest(ask)}"


def slowest_peers(ask: Ask) -> str:
    """Return, for each of the slowest nodes, its peers' median."""
    peers = ask.series(names.PEERS_SPEED, MODEL)
    return f"0 * {_slowest(ask)}\n+ {ask.on('model', 'engine')} group_left () {peers}"


def slowest_healthy(ask: Ask) -> str:
    """Return, for each of the slowest nodes, how many of its instances are healthy."""
    healthy = ask.series(names.NODE_INSTANCES, 'status="healthy"')
    return f"0 * {_slowest(ask)}\n+ {ask.on('node')} group_left () sum {ask.by('node')} ({healthy})"


def ratio_over_time(ask: Ask) -> str:
    """Return the speed against peers of the chosen nodes that are slowest at the end."""
    ratio = ask.series(names.NODE_SPEED_RATIO, MODEL, NODE)
    return f"{ratio}\nand {ask.on(*GROUP)} bottomk({LINES}, {ratio} @ end())"


def ratio_limit(ask: Ask) -> str:
    """Return the share of the peers' median below which the alert fires."""
    return limits.line(ask, limits.NODE_RATIO)


def slow_count(ask: Ask) -> str:
    """Return how many nodes are below that."""
    ratio, limit = ask.series(names.NODE_SPEED_RATIO, MODEL), ratio_limit(ask)
    slow = f"count {ask.by('node')} ({ratio} < on () group_left () {limit})"
    return f"count({slow})\nor 0 * count({ratio}) * {limit}"


def compared_count(ask: Ask) -> str:
    """Return how many nodes have peers to be compared with."""
    return f"count(count {ask.by('node')} ({ask.series(names.NODE_SPEED_RATIO, MODEL)}))"


def all_count(ask: Ask) -> str:
    """Return how many nodes there are."""
    return f"count(count {ask.by('node')} ({ask.series(names.NODE_INSTANCES)}))"


def _failing(ask: Ask, *matchers: str, at: str = "") -> str:
    statuses = f'status=~"{"|".join(FAILING)}"'
    told = ask.series(names.NODE_INSTANCES, statuses, *matchers)
    return f"sum {ask.by('node')} ({told}{at})"


def dark_count(ask: Ask) -> str:
    """Return how many nodes have failing instances and not one that is healthy."""
    healthy = ask.series(names.NODE_INSTANCES, 'status="healthy"')
    dark = f"count({_failing(ask)} > 0 unless {ask.on('node')} {healthy} > 0)"
    return f"{dark} or 0 * {all_count(ask)}"


def failing_most(ask: Ask) -> str:
    """Return the nodes with the most failing instances, and how many fail."""
    return f"topk($limit, {_failing(ask)} > 0)"


def failing_status(ask: Ask, status: str) -> str:
    """Return of those nodes the instances of one status."""
    told = ask.series(names.NODE_INSTANCES, f'status="{status}"')
    return f"sum {ask.by('node')} ({told})\nand {ask.on('node')} {failing_most(ask)}"


def failing_over_time(ask: Ask) -> str:
    """Return failing instances of the chosen nodes that have most of them at the end."""
    at_end = f"topk({LINES}, {_failing(ask, NODE, at=' @ end()')} > 0)"
    return f"{_failing(ask, NODE)}\nand {ask.on('node')} {at_end}"


def errors_most(ask: Ask, limit: str = "$limit") -> str:
    """Return the nodes with the most failed requests per second."""
    return f"topk({limit}, sum {ask.by('node')} ({ask.series(names.NODE_ERRORS)}) > 0)"


def errors_share(ask: Ask, limit: str = "$limit") -> str:
    """Return, for the same nodes, their share of the errors of the fleet."""
    total = f"scalar(sum({ask.series(names.NODE_ERRORS)}))"
    return f"{errors_most(ask, limit)} / {total}"


def errors_over_time(ask: Ask) -> str:
    """Return failed requests per second of the chosen nodes that have most of them at the end."""
    errors = ask.series(names.NODE_ERRORS, NODE)
    return f"{errors}\nand {ask.on('node')} topk({LINES}, {errors} @ end() > 0)"


def started_over_time(ask: Ask) -> str:
    """Return starting instances of the chosen nodes on which most started at once."""
    started = ask.series(names.NODE_STARTED, NODE)
    most = f"topk({LINES}, max_over_time({started}[$__range] @ end()))"
    return f"{started}\nand {ask.on('node')} {most}"


# The instances of the chosen nodes


def instance_value(ask: Ask, series: catalogue.Series) -> str:
    """Return a value of each of the instances to show."""
    return worst.value(ask, series, "$limit", NODE, MODEL)


def instance_age(ask: Ask) -> str:
    """Return how long each of the instances to show has been running, in seconds."""
    return f"time() - {instance_value(ask, catalogue.INSTANCE_START_TIME)}"
