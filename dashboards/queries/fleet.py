"""The fleet as a whole: how many are healthy, how fast they are, what fails, what changed."""

from __future__ import annotations

from alerts import names
from dashboards.queries import limits
from dashboards.queries.limits import ThresholdStat
from dashboards.queries.selectors import CANARIES, FAILING, Selectors
from exporter import catalogue
from exporter.catalogue import Series

ALERTNAME = 'alertname=~"Ollama.+"'
FIRING = 'alertstate="firing"'
MAX_ALERTS = 50
"""Of each severity."""
MANY_STARTS_RATIO = 0.02
"""Of the inventory, within five minutes: more than a rotation that minds its limits."""


def instances(select: Selectors, status: str) -> str:
    """Return the instances of a status."""
    matcher = f'status="{status}"'
    return f"sum({select.series(names.INSTANCES, matcher)})"


def by_status(select: Selectors) -> str:
    """Return the instances by status."""
    return f"sum by (status) ({select.series(names.INSTANCES)})"


def failing_by_status(select: Selectors) -> str:
    """Return by status the instances that should serve and do not."""
    statuses = f'status=~"{"|".join(FAILING)}"'
    return f"sum by (status) ({select.series(names.INSTANCES, statuses)})"


def _healthy_each(select: Selectors) -> str:
    return select.series(names.INSTANCES, 'status="healthy"')


def healthy(select: Selectors) -> ThresholdStat:
    """Return the healthy instances, as enough or as too few."""
    each, limit = _healthy_each(select), select.series(limits.HEALTHY)
    return limits.threshold_stat(select, f"sum({each})", each, limit, is_floor=True)


def healthy_floor(select: Selectors) -> str:
    """Return how many must be healthy."""
    return f"sum({select.series(limits.HEALTHY)})"


def may_fail(select: Selectors) -> str:
    """Return how many may fail before the floor is reached."""
    return f"sum({select.series(names.EXPECTED)}) - {healthy_floor(select)}"


def conditions(select: Selectors) -> str:
    """Return the instances that have a condition, by condition."""
    return select.fleet_sum(catalogue.FLEET_INSTANCE_CONDITIONS, "condition")


def speed(select: Selectors) -> ThresholdStat:
    """Return the tokens per second that the fleet can generate, as enough or as too few."""
    each, limit = select.series(names.CAPACITY), select.series(limits.SPEED)
    return limits.threshold_stat(select, f"sum({each})", each, limit, is_floor=True)


def speed_floor(select: Selectors) -> str:
    """Return the tokens per second that the fleet must be able to generate."""
    return limits.line(f"sum({select.series(limits.SPEED)})", select.series(names.CAPACITY))


def speed_by_model(select: Selectors) -> str:
    """Return the tokens per second that healthy instances can generate, by model."""
    return f"sum by (model) ({select.series(names.MODEL_SPEED)})"


def generated(select: Selectors) -> str:
    """Return the tokens per second that are generated: what is asked of the fleet."""
    return f"sum({select.series(names.GENERATED)})"


def latency(select: Selectors) -> ThresholdStat:
    """Return the fleet's p99, the worst of the clusters', as good or as too slow."""
    each, limit = select.series(names.LATENCY_P99), select.series(limits.LATENCY)
    return limits.threshold_stat(select, f"max({each})", each, limit, is_floor=False)


def requests_p99(select: Selectors) -> str:
    """Return the p99 of requests that servers count; of several clusters the worst."""
    return f"max({select.series(names.REQUESTS_P99)})"


def p99_bound(select: Selectors, bound: str) -> str:
    """Return what the p99 of requests is surely above (lower), or at or below (upper)."""
    of_shards = select.series(catalogue.FLEET_REQUEST_LATENCY_P99_BOUND, f'bound="{bound}"')
    widest = "min" if bound == "lower" else "max"
    return f"max({widest} {select.by()} ({of_shards}))"


def canary_p99(select: Selectors) -> str:
    """Return the p99 of canaries; of several clusters the worst."""
    return f"max({select.series(names.CANARIES_P99)})"


def latency_limit(select: Selectors) -> str:
    """Return what the p99 must stay below."""
    limit = f"max({select.series(limits.LATENCY)})"
    return limits.line(limit, select.series(names.LATENCY_P99))


def latency_spread(select: Selectors, quantile: str) -> str:
    """Return a quantile over instances of the p99 that each reports."""
    matcher = f'quantile="{quantile}"'
    return f"max({select.series(names.LATENCY_SPREAD, matcher)})"


def usual_traffic(select: Selectors) -> str:
    """Return traffic as a share of the same hour of the last weeks; the lowest of the clusters'."""
    now, usual = select.series(names.TRAFFIC_HOUR), select.series(names.TRAFFIC_BASELINE)
    return f"min by (source) ({now} / ({usual} > 0))"


def usual_latency(select: Selectors) -> str:
    """Return the p99 as a share of the same hour of the last weeks; the worst of the clusters'."""
    now, usual = select.series(names.LATENCY_HOUR), select.series(names.LATENCY_BASELINE)
    return f"max by (source) ({now} / {usual})"


def durations(select: Selectors) -> str:
    """Return requests per second by how long they took."""
    return select.fleet_rate(catalogue.FLEET_REQUEST_DURATION, "le")


def reported_p99(select: Selectors, series: Series) -> str:
    """Return the p99 of a histogram that servers report."""
    return select.fleet_quantile("0.99", series)


def canaries_p99(select: Selectors, series: Series) -> str:
    """Return the p99 of a histogram of canaries."""
    return select.fleet_quantile("0.99", series, window=CANARIES)


def canary_results(select: Selectors) -> str:
    """Return the canaries of the last minutes by outcome."""
    return select.fleet_increase(catalogue.FLEET_CANARY_RESULTS, CANARIES, "outcome")


def _failed_each(select: Selectors) -> str:
    return select.series(names.REQUEST_ERROR_RATIO)


def failed_ratio(select: Selectors) -> str:
    """Return the share of requests that fail, in the worst cluster."""
    return f"max({_failed_each(select)})"


def failed(select: Selectors) -> ThresholdStat:
    """Return the share of requests that fail, as within the objective or above."""
    limit = f"1 - {select.series(limits.REQUEST_SUCCESS)}"
    each = _failed_each(select)
    return limits.threshold_stat(select, failed_ratio(select), each, f"({limit})", is_floor=False)


def failed_budget(select: Selectors) -> str:
    """Return the share of requests that may fail in the long run."""
    limit = f"1 - max({select.series(limits.REQUEST_SUCCESS)})"
    return limits.line(limit, _failed_each(select))


def _waiting_limit_each(select: Selectors) -> str:
    # A product: where nothing is healthy nothing may wait, and a quotient would be absent.
    return f"({_healthy_each(select)} * {select.on()} {select.series(limits.QUEUED)})"


def waiting(select: Selectors) -> ThresholdStat:
    """Return the requests that wait, as few or as too many for the healthy instances."""
    each, limit = select.series(names.QUEUED), _waiting_limit_each(select)
    return limits.threshold_stat(select, f"sum({each})", each, limit, is_floor=False)


def waiting_total(select: Selectors) -> str:
    """Return the requests that wait inside of instances."""
    return f"sum({select.series(names.QUEUED)})"


def waiting_limit(select: Selectors) -> str:
    """Return how many may wait."""
    limit = f"sum({_waiting_limit_each(select)})"
    return limits.line(limit, select.series(names.QUEUED))


def errors_by_type(select: Selectors) -> str:
    """Return failed requests per second by type."""
    return select.fleet_rate(catalogue.FLEET_ERRORS, "error_type")


def alerts_firing(select: Selectors, severity: str) -> str:
    """Return how many alerts fire; 0 only where Watchdog shows that rules are evaluated."""
    matchers = (ALERTNAME, FIRING, f'severity="{severity}"')
    firing = select.with_or_without_cluster("ALERTS", *matchers)
    return f'count({firing}) or on () 0 * count(ALERTS{{alertname="Watchdog", {FIRING}}})'


def alerts_since(select: Selectors) -> str:
    """Return since when each alert has been active, in milliseconds since 1970.

    Many warnings that have been active for long hide no critical alert that is new.
    """
    since = select.with_or_without_cluster("ALERTS_FOR_STATE", ALERTNAME)
    firing = select.with_or_without_cluster("ALERTS", ALERTNAME, FIRING)
    labels = select.by("alertname", "severity", "node", "model", "instance")
    active = f"1000 * {since} * ignoring (alertstate) {firing}"
    return f"bottomk by (severity) ({MAX_ALERTS}, min {labels} ({active}))"


def annotated_alerts(select: Selectors, severity: str) -> str:
    """Return alerts over time, one series per alert and not per node: annotations must stay few."""
    matchers = (ALERTNAME, FIRING, f'severity="{severity}"')
    return f"count by (alertname) ({select.with_or_without_cluster('ALERTS', *matchers)})"


def started(select: Selectors) -> str:
    """Return the instances that started within the last five minutes."""
    return f"sum({select.series(names.NODE_STARTED)})"


def restarts(select: Selectors) -> str:
    """Return the restarts that exporters have seen within the last five minutes."""
    return select.fleet_increase(catalogue.FLEET_RESTARTS, "[5m]")


def many_started(select: Selectors) -> str:
    """Return those when they are so many that they explain a bend in a line."""
    return f"{started(select)} > {MANY_STARTS_RATIO} * sum({select.series(names.INVENTORY)})"


def versions(select: Selectors) -> str:
    """Return the instances by engine and version."""
    return f"sum by (engine, version) ({select.series(names.VERSIONS)})"


def overdue(select: Selectors) -> str:
    """Return the instances that should have been replaced; 0 where the rules know of none."""
    return f"sum({select.series(names.OVERDUE)}) or 0 * sum({select.series(names.INVENTORY)})"


def old(select: Selectors) -> str:
    """Return the instances that are so old that they leak memory; 0 where there are none."""
    return f"sum({select.series(names.OLD)}) or 0 * sum({select.series(names.INVENTORY)})"
