"""The fleet as a whole: how many are healthy, how fast they are, what fails, what changed."""

from __future__ import annotations

from alerts import names
from dashboards.queries import limits
from dashboards.queries.limits import Judged
from dashboards.queries.select import FAILING, Ask
from exporter import catalogue

ALERTNAME = 'alertname=~"Ollama.+"'
FIRING = 'alertstate="firing"'
MAX_ALERTS = 50
"""Of each severity."""
MANY_STARTS_RATIO = 0.02
"""Of the inventory, within five minutes: more than a rotation that minds its limits."""


def instances(ask: Ask, status: str) -> str:
    """Return the instances of a status."""
    matcher = f'status="{status}"'
    return f"sum({ask.series(names.INSTANCES, matcher)})"


def by_status(ask: Ask) -> str:
    """Return the instances by status."""
    return f"sum by (status) ({ask.series(names.INSTANCES)})"


def failing_by_status(ask: Ask) -> str:
    """Return by status the instances that should serve and do not."""
    statuses = f'status=~"{"|".join(FAILING)}"'
    return f"sum by (status) ({ask.series(names.INSTANCES, statuses)})"


def _healthy_each(ask: Ask) -> str:
    healthy = ask.series(names.INSTANCES, 'status="healthy"')
    return f"sum {ask.by()} ({healthy})"


def healthy(ask: Ask) -> Judged:
    """Return the healthy instances, as enough or as too few."""
    each = _healthy_each(ask)
    limit = limits.per_cluster(ask, limits.HEALTHY, each)
    return limits.judged(ask, f"sum({each})", each, limit, is_floor=True)


def healthy_floor(ask: Ask) -> str:
    """Return how many must be healthy."""
    return f"sum({limits.per_cluster(ask, limits.HEALTHY, _healthy_each(ask))})"


def may_fail(ask: Ask) -> str:
    """Return how many may fail before the floor is reached."""
    return f"sum({ask.series(names.EXPECTED)}) - {healthy_floor(ask)}"


def speed(ask: Ask) -> Judged:
    """Return the tokens per second that the fleet can generate, as enough or as too few."""
    each = ask.series(names.CAPACITY)
    limit = limits.per_cluster(ask, limits.SPEED, each)
    return limits.judged(ask, f"sum({each})", each, limit, is_floor=True)


def speed_floor(ask: Ask) -> str:
    """Return the tokens per second that the fleet must be able to generate."""
    return f"sum({limits.per_cluster(ask, limits.SPEED, ask.series(names.CAPACITY))})"


def speed_by_model(ask: Ask) -> str:
    """Return the tokens per second that healthy instances can generate, by model."""
    return f"sum by (model) ({ask.series(names.MODEL_SPEED)})"


def generated(ask: Ask) -> str:
    """Return the tokens per second that are generated: what is asked of the fleet."""
    return f"sum({ask.series(names.GENERATED)})"


def latency(ask: Ask) -> Judged:
    """Return the fleet's p99, the worst of the clusters', as good or as too slow."""
    each = ask.series(names.LATENCY_P99)
    limit = limits.per_cluster(ask, limits.LATENCY, each)
    return limits.judged(ask, f"max({each})", each, limit, is_floor=False)


def latency_p99(ask: Ask) -> str:
    """Return the fleet's p99, of several clusters the worst."""
    return f"max({ask.series(names.LATENCY_P99)})"


def latency_limit(ask: Ask) -> str:
    """Return what the p99 must stay below."""
    return limits.line(ask, limits.LATENCY)


def latency_spread(ask: Ask, quantile: str) -> str:
    """Return a quantile over instances of the p99 that each reports."""
    matcher = f'quantile="{quantile}"'
    return f"max({ask.series(names.LATENCY_SPREAD, matcher)})"


def durations(ask: Ask) -> str:
    """Return requests per second by how long they took."""
    return ask.fleet_rate(catalogue.FLEET_REQUEST_DURATION, "le")


def _failed_each(ask: Ask) -> str:
    failed, requests = ask.series(names.REQUEST_ERRORS), ask.series(names.REQUESTS)
    return f"{failed} / ({requests} > 0)"


def failed_ratio(ask: Ask) -> str:
    """Return the share of requests that fail."""
    failed, requests = ask.series(names.REQUEST_ERRORS), ask.series(names.REQUESTS)
    return f"sum({failed}) / (sum({requests}) > 0)"


def failed(ask: Ask) -> Judged:
    """Return the share of requests that fail, as within the objective or above."""
    each = _failed_each(ask)
    success = limits.per_cluster(ask, limits.REQUEST_SUCCESS, f"({each})")
    return limits.judged(ask, failed_ratio(ask), f"({each})", f"(1 - {success})", is_floor=False)


def failed_budget(ask: Ask) -> str:
    """Return the share of requests that may fail in the long run."""
    return f"1 - {limits.line(ask, limits.REQUEST_SUCCESS)}"


def _waiting_each(ask: Ask) -> str:
    return f"sum {ask.by()} ({ask.series(names.QUEUED)})"


def _waiting_limit_each(ask: Ask) -> str:
    # A product: where nothing is healthy nothing may wait, and a quotient would be absent.
    healthy = _healthy_each(ask)
    return f"({healthy} * {limits.per_cluster(ask, limits.QUEUED, healthy)})"


def waiting(ask: Ask) -> Judged:
    """Return the requests that wait, as few or as too many for the healthy instances."""
    each = _waiting_each(ask)
    return limits.judged(ask, f"sum({each})", each, _waiting_limit_each(ask), is_floor=False)


def waiting_total(ask: Ask) -> str:
    """Return the requests that wait inside of instances."""
    return f"sum({ask.series(names.QUEUED)})"


def waiting_limit(ask: Ask) -> str:
    """Return how many may wait."""
    return f"sum({_waiting_limit_each(ask)})"


def errors_by_type(ask: Ask) -> str:
    """Return failed requests per second by type."""
    return ask.fleet_rate(catalogue.FLEET_ERRORS, "error_type")


def alerts_firing(ask: Ask, severity: str) -> str:
    """Return how many alerts fire; 0 only where Watchdog shows that rules are evaluated."""
    matchers = (ALERTNAME, FIRING, f'severity="{severity}"')
    told = ask.with_or_without_cluster("ALERTS", *matchers)
    return f'count({told}) or on () 0 * count(ALERTS{{alertname="Watchdog", {FIRING}}})'


def alerts_since(ask: Ask) -> str:
    """Return since when each alert has been active, in milliseconds since 1970.

    Many warnings that have been active for long hide no critical alert that is new.
    """
    since = ask.with_or_without_cluster("ALERTS_FOR_STATE", ALERTNAME)
    firing = ask.with_or_without_cluster("ALERTS", ALERTNAME, FIRING)
    labels = ask.by("alertname", "severity", "node", "model", "instance")
    active = f"1000 * {since} * ignoring (alertstate) {firing}"
    return f"bottomk by (severity) ({MAX_ALERTS}, min {labels} ({active}))"


def alert_marks(ask: Ask, severity: str) -> str:
    """Return alerts over time, one series per alert and not per node: marks must stay few."""
    matchers = (ALERTNAME, FIRING, f'severity="{severity}"')
    return f"count by (alertname) ({ask.with_or_without_cluster('ALERTS', *matchers)})"


def started(ask: Ask) -> str:
    """Return the instances that started within the last five minutes."""
    return f"sum({ask.series(names.NODE_STARTED)})"


def many_started(ask: Ask) -> str:
    """Return those when they are so many that they explain a bend in a line."""
    return f"{started(ask)} > {MANY_STARTS_RATIO} * sum({ask.series(names.INVENTORY)})"


def versions(ask: Ask) -> str:
    """Return the instances by engine and version."""
    return f"sum by (engine, version) ({ask.series(names.VERSIONS)})"


def overdue(ask: Ask) -> str:
    """Return the instances that should have been replaced; 0 where the rules know of none."""
    return f"sum({ask.series(names.OVERDUE)}) or 0 * sum({ask.series(names.INVENTORY)})"


def old(ask: Ask) -> str:
    """Return the instances that are so old that they leak memory; 0 where there are none."""
    return f"sum({ask.series(names.OLD)}) or 0 * sum({ask.series(names.INVENTORY)})"
