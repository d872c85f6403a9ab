"""What each model's instances can do, and how they differ among themselves."""

from __future__ import annotations

from dataclasses import replace

from alerts import names
from dashboards.queries.selectors import MODEL, Selectors
from exporter import catalogue
from exporter.catalogue import FLEET_REQUEST_DURATION


def _counted(select: Selectors, *matchers: str) -> str:
    """Return instances by cluster and model; of replicas the one that counts most.

    Each exporter's own statuses are added up first: of statuses about which replicas disagree the
    rules record the highest count of each, which is more than there are.
    """
    by_model = replace(catalogue.MODEL_INSTANCES, labels=("shard", "model"))
    counts = select.series(catalogue.MODEL_INSTANCES, *matchers)
    by_exporter = f"sum {select.by('job', 'instance', 'shard', 'model')} ({counts})"
    return select.scope.fleet_sum(by_model, "model", inner=select.over_lookback(by_exporter))


def instances(select: Selectors) -> str:
    """Return the instances of each model, whatever their status."""
    return f"sum by (model) (\n{_counted(select, MODEL)}\n)"


def healthy(select: Selectors) -> str:
    """Return the healthy instances of each model."""
    matchers = ('status="healthy"', MODEL)
    return f"sum by (model) (\n{_counted(select, *matchers)}\n)"


def healthy_ratio(select: Selectors) -> str:
    """Return the share of each model's instances that is healthy."""
    return f"{healthy(select)}\n/ {instances(select)}"


def share(select: Selectors) -> str:
    """Return each model's share of the fleet."""
    return f"{instances(select)}\n/ scalar(sum(\n{_counted(select)}\n))"


def by_status(select: Selectors) -> str:
    """Return the instances of the chosen models by status."""
    return f"sum by (status) ({select.series(names.MODEL_INSTANCES, MODEL)})"


def healthy_over_time(select: Selectors) -> str:
    """Return the share that is healthy, of each model that should serve."""
    return f"{healthy(select)}\n/ ({instances(select)} > 0)"


def speed(select: Selectors) -> str:
    """Return the tokens per second that each model's healthy instances can generate."""
    return f"sum by (model) ({select.series(names.MODEL_SPEED, MODEL)})"


def speed_each(select: Selectors) -> str:
    """Return the same per healthy instance whose speed is known."""
    measured = select.scope.fleet_sum(
        catalogue.FLEET_MEASURED_INSTANCES,
        "model",
        inner=select.series(catalogue.FLEET_MEASURED_INSTANCES, MODEL),
    )
    return f"{speed(select)}\n/ (sum by (model) ({measured}) > 0)"


def generated(select: Selectors) -> str:
    """Return the tokens per second that each model generates: what is asked of it."""
    rate = select.rate(catalogue.FLEET_GENERATED_TOKENS, MODEL)
    total = select.scope.fleet_sum(catalogue.FLEET_GENERATED_TOKENS, "model", inner=rate)
    return f"sum by (model) ({total})"


def latency_p99(select: Selectors) -> str:
    """Return each model's p99, from the histogram of its requests."""
    rate = select.rate(FLEET_REQUEST_DURATION, MODEL, suffix="_bucket")
    total = select.scope.fleet_sum(
        FLEET_REQUEST_DURATION, "model", "le", inner=rate, suffix="_bucket"
    )
    return f"histogram_quantile(0.99, sum by (model, le) (\n{total}\n))"


def requests(select: Selectors) -> str:
    """Return the requests per second of each model, as far as its instances count them."""
    rate = select.rate(FLEET_REQUEST_DURATION, MODEL, suffix="_count")
    total = select.scope.fleet_sum(FLEET_REQUEST_DURATION, "model", inner=rate, suffix="_count")
    return f"sum by (model) ({total})"


def errors(select: Selectors) -> str:
    """Return the failed requests per second of each model."""
    return f"sum by (model) ({select.series(names.MODEL_ERRORS, MODEL)})"


def latency_p99_known(select: Selectors) -> str:
    """Return each model's p99; without a histogram, the one that 99 in 100 instances keep."""
    known = f"{latency_p99(select)} >= 0"
    return f"{known}\nor max by (model) ({latency_spread(select, '0.99')})"


def latency_spread(select: Selectors, quantile: str) -> str:
    """Return a quantile over a model's instances of the p99 that each reports."""
    selector = select.series(names.MODEL_LATENCY_SPREAD, f'quantile="{quantile}"', MODEL)
    return f"max by (model) ({selector})"


def speed_spread(select: Selectors, quantile: str) -> str:
    """Return a quantile over a model's instances of their speed."""
    selector = select.series(names.MODEL_SPEED_SPREAD, f'quantile="{quantile}"', MODEL)
    return f"min by (model) ({selector})"
