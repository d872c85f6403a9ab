"""Nodes against their peers, and what of a node fails.

Tables take the worst only; charts the series of those that are worst at the end of the time range,
so that a line does not begin and end as others overtake it.
"""

from __future__ import annotations

from alerts import names
from dashboards.queries import limits, selectors
from dashboards.queries.selectors import FAILING, MODEL, NODE, Selectors
from exporter import catalogue

LINES = 10
"""More lines in one chart cannot be distinguished."""
GROUP = ("node", "model", "engine")


def _slowest(select: Selectors) -> str:
    return f"bottomk($limit, {select.series(names.NODE_SPEED_RATIO, MODEL)})"


def slowest_ratio(select: Selectors) -> str:
    """Return the speed of the slowest nodes, as a share of their peers' median."""
    return _slowest(select)


def slowest_is_slow(select: Selectors) -> str:
    """Return 1 for those of the slowest that are below the alert's limit, 0 for the others.

    Absent where there is no limit: nobody has said then that they are as they should be.
    """
    limit = select.series(limits.NODE_RATIO)
    return f"{_slowest(select)}\n< bool {select.on()} group_left () {limit}"


def slowest_speed(select: Selectors) -> str:
    """Return the slowest nodes' tokens per second per instance."""
    return f"{select.series(names.NODE_SPEED, MODEL)}\nand {select.on(*GROUP)} {_slowest(select)}"


def slowest_peers(select: Selectors) -> str:
    """Return, for each of the slowest nodes, its peers' median."""
    speed = select.series(names.NODE_SPEED, MODEL)
    return f"{speed}\n/ {select.on(*GROUP)} {_slowest(select)}"


def slowest_healthy(select: Selectors) -> str:
    """Return, for each of the slowest nodes, how many of its instances are healthy."""
    healthy = select.series(names.NODE_INSTANCES, 'status="healthy"')
    total = f"sum {select.by('node')} ({healthy})"
    return f"0 * {_slowest(select)}\n+ {select.on('node')} group_left () {total}"


def ratio_over_time(select: Selectors) -> str:
    """Return the speed against peers of the chosen nodes that are slowest at the end."""
    ratio = select.series(names.NODE_SPEED_RATIO, MODEL, NODE)
    return f"{ratio}\nand {select.on(*GROUP)} bottomk({LINES}, {ratio} @ end())"


def ratio_limit(select: Selectors) -> str:
    """Return the share of the peers' median below which the alert fires."""
    ratio = select.series(names.NODE_SPEED_RATIO, MODEL, NODE)
    return limits.line(f"max({select.series(limits.NODE_RATIO)})", ratio)


def slow_count(select: Selectors) -> str:
    """Return how many nodes are below that; absent where there is no limit."""
    ratio, limit = select.series(names.NODE_SPEED_RATIO, MODEL), select.series(limits.NODE_RATIO)
    is_slow = f"{ratio} < bool {select.on()} group_left () {limit}"
    return f"sum(max {select.by('node')} ({is_slow}))"


def compared_count(select: Selectors) -> str:
    """Return how many nodes have peers to be compared with."""
    return f"count(count {select.by('node')} ({select.series(names.NODE_SPEED_RATIO, MODEL)}))"


def all_count(select: Selectors) -> str:
    """Return how many nodes there are."""
    return f"count(count {select.by('node')} ({select.series(names.NODE_INSTANCES)}))"


def _failing(select: Selectors, *matchers: str, at: str = "") -> str:
    statuses = f'status=~"{"|".join(FAILING)}"'
    counts = select.series(names.NODE_INSTANCES, statuses, *matchers)
    return f"sum {select.by('node')} ({counts}{at})"


def dark_count(select: Selectors) -> str:
    """Return how many nodes have failing instances and not one that is healthy."""
    healthy = select.series(names.NODE_INSTANCES, 'status="healthy"')
    dark = f"count({_failing(select)} > 0 unless {select.on('node')} {healthy} > 0)"
    return f"{dark} or 0 * {all_count(select)}"


def failing_most(select: Selectors) -> str:
    """Return the nodes with the most failing instances, and how many fail."""
    return f"topk($limit, {_failing(select)} > 0)"


def failing_status(select: Selectors, status: str) -> str:
    """Return of those nodes the instances of one status."""
    counts = select.series(names.NODE_INSTANCES, f'status="{status}"')
    return f"sum {select.by('node')} ({counts})\nand {select.on('node')} {failing_most(select)}"


def failing_over_time(select: Selectors) -> str:
    """Return failing instances of the chosen nodes that have most of them at the end."""
    at_end = f"topk({LINES}, {_failing(select, NODE, at=' @ end()')} > 0)"
    return f"{_failing(select, NODE)}\nand {select.on('node')} {at_end}"


def errors_most(select: Selectors, limit: str = "$limit") -> str:
    """Return the nodes with the most failed requests per second."""
    return f"topk({limit}, sum {select.by('node')} ({select.series(names.NODE_ERRORS)}) > 0)"


def errors_share(select: Selectors, limit: str = "$limit") -> str:
    """Return, for the same nodes, their share of the errors of the fleet."""
    total = f"scalar(sum({select.series(names.NODE_ERRORS)}))"
    return f"{errors_most(select, limit)} / {total}"


def errors_over_time(select: Selectors) -> str:
    """Return failed requests per second of the chosen nodes that have most of them at the end."""
    errors = select.series(names.NODE_ERRORS, NODE)
    return f"{errors}\nand {select.on('node')} topk({LINES}, {errors} @ end() > 0)"


def started_over_time(select: Selectors) -> str:
    """Return starting instances of the chosen nodes on which most started at once."""
    started = select.series(names.NODE_STARTED, NODE)
    most = f"topk({LINES}, max_over_time({started}[$__range] @ end()))"
    return f"{started}\nand {select.on('node')} {most}"


# The instances of the chosen nodes


def instance_value(select: Selectors, series: catalogue.Series) -> str:
    """Return a value of each of the instances to show."""
    return selectors.worst_value(select, series, "$limit", NODE)


def instance_info(select: Selectors) -> str:
    """Return their models and engines as labels."""
    return selectors.worst_info(select, "$limit", NODE)


def instance_conditions(select: Selectors) -> str:
    """Return how many conditions each of them has."""
    return selectors.worst_conditions(select, "$limit", NODE)


def instance_age(select: Selectors) -> str:
    """Return how long each of the instances to show has been running, in seconds."""
    return f"time() - {instance_value(select, catalogue.INSTANCE_START_TIME)}"
