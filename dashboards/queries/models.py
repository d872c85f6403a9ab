"""What each model's instances can do, and how they differ among themselves."""

from __future__ import annotations

from alerts import names
from dashboards.queries.selectors import CANARIES, MODEL, Selectors
from exporter import catalogue
from exporter.catalogue import FLEET_REQUEST_DURATION, Series

OF_MODEL = (MODEL,)


def instances(select: Selectors) -> str:
    """Return the instances of each model, whatever their status."""
    return f"sum by (model) ({select.series(names.MODEL_INVENTORY, MODEL)})"


def healthy(select: Selectors) -> str:
    """Return the healthy instances of each model."""
    healthy = select.series(names.MODEL_INSTANCES, 'status="healthy"', MODEL)
    return f"sum by (model) ({healthy})"


def healthy_ratio(select: Selectors) -> str:
    """Return the share that is healthy, of each model that should serve."""
    return f"{healthy(select)}\n/ ({instances(select)} > 0)"


def share(select: Selectors) -> str:
    """Return each model's share of the fleet."""
    return f"{instances(select)}\n/ scalar(sum({select.series(names.MODEL_INVENTORY)}))"


def by_status(select: Selectors) -> str:
    """Return the instances of the chosen models by status."""
    return f"sum by (status) ({select.series(names.MODEL_INSTANCES, MODEL)})"


def now(select: Selectors, series: Series) -> str:
    """Return one of the exporters' gauges of each model."""
    return select.fleet_sum(series, "model", where=OF_MODEL)


def total(select: Selectors, series: Series) -> str:
    """Return the same of the chosen models together."""
    return select.fleet_sum(series, where=OF_MODEL)


def off_gpu_bytes(select: Selectors) -> str:
    """Return the memory of the chosen models that is not on a GPU."""
    loaded, vram = (
        total(select, series)
        for series in (catalogue.MODEL_LOADED_BYTES, catalogue.MODEL_VRAM_BYTES)
    )
    return f"{loaded} - {vram}"


def last_hour(select: Selectors, series: Series) -> str:
    """Return by how much a counter of each model grew within an hour."""
    return select.fleet_increase(series, "[1h]", "model", where=OF_MODEL)


def speed(select: Selectors) -> str:
    """Return the tokens per second that each model's healthy instances can generate."""
    return f"sum by (model) ({select.series(names.MODEL_SPEED, MODEL)})"


def speed_each(select: Selectors) -> str:
    """Return the same per healthy instance whose speed is known."""
    return f"{speed(select)}\n/ ({now(select, catalogue.FLEET_MEASURED_INSTANCES)} > 0)"


def generated(select: Selectors) -> str:
    """Return the tokens per second that each model generates: what is asked of it."""
    return select.fleet_rate(catalogue.FLEET_GENERATED_TOKENS, "model", where=OF_MODEL)


def reported_quantile(select: Selectors, series: Series, q: str = "0.99") -> str:
    """Return a quantile of a histogram that each model's servers report."""
    return select.fleet_quantile(q, series, "model", where=OF_MODEL)


def canary_p99(select: Selectors, series: Series) -> str:
    """Return the p99 of a histogram of each model's canaries."""
    return select.fleet_quantile("0.99", series, "model", window=CANARIES, where=OF_MODEL)


def requests(select: Selectors) -> str:
    """Return the requests per second of each model, as far as its instances count them."""
    return select.fleet_rate(FLEET_REQUEST_DURATION, "model", where=OF_MODEL)


def errors(select: Selectors) -> str:
    """Return the failed requests per second of each model."""
    return f"sum by (model) ({select.series(names.MODEL_ERRORS, MODEL)})"


def failed_share(select: Selectors) -> str:
    """Return the share of each model's requests that fail; of several clusters the worst."""
    return f"max by (model) ({select.series(names.MODEL_REQUEST_ERROR_RATIO, MODEL)})"


def latency_p99(select: Selectors) -> str:
    """Return each model's p99, from the histogram of its requests."""
    return reported_quantile(select, FLEET_REQUEST_DURATION)


def latency_p99_known(select: Selectors) -> str:
    """Return each model's p99; without a histogram, the one that 99 in 100 instances keep."""
    return f"{latency_p99(select)} >= 0\nor {latency_spread(select, '0.99')}"


def latency_spread(select: Selectors, quantile: str) -> str:
    """Return a quantile over a model's instances of the p99 that each reports."""
    selector = select.series(names.MODEL_LATENCY_SPREAD, f'quantile="{quantile}"', MODEL)
    return f"max by (model) ({selector})"


def speed_spread(select: Selectors, quantile: str) -> str:
    """Return a quantile over a model's instances of their speed."""
    selector = select.series(names.MODEL_SPEED_SPREAD, f'quantile="{quantile}"', MODEL)
    return f"min by (model) ({selector})"


def kv_cache_spread(select: Selectors, quantile: str) -> str:
    """Return a quantile over a model's instances of how full their KV caches are."""
    selector = select.series(names.MODEL_KV_CACHE_SPREAD, f'quantile="{quantile}"', MODEL)
    return f"max by (model) ({selector})"
