"""Requests as the gateways see them: how many, how long, what becomes of them, and who sends them.

Each gateway counts the requests that pass it, so of several the sum counts.
"""

from __future__ import annotations

from alerts import names
from dashboards.queries.selectors import MODEL, RATE, Selectors
from exporter import catalogue
from exporter.catalogue import Series

QUANTILES = ("0.5", "0.95", "0.99")
FAILED = 'code=~"5.."'


def total_rate(select: Selectors, series: Series, *labels: str, where: tuple[str, ...] = ()) -> str:
    """Return how fast a counter of all gateways grows, by some of its labels."""
    of_model = (MODEL,) if "model" in series.labels else ()
    by = f"by ({', '.join(labels)}) " if labels else ""
    return f"sum {by}({select.rate(series, *of_model, *where)})"


def total(select: Selectors, series: Series) -> str:
    """Return the sum of a gauge over all gateways."""
    return f"sum({select.series(series)})"


def worst(select: Selectors, series: Series) -> str:
    """Return the highest value of a gauge among the gateways."""
    return f"max({select.series(series)})"


def each(select: Selectors, series: Series) -> str:
    """Return a gauge by gateway."""
    return f"max {select.by('job', 'instance')} ({select.series(series)})"


def quantile(select: Selectors, series: Series, q: str, *labels: str) -> str:
    """Return a quantile of a histogram over all gateways; all have the same buckets."""
    buckets = select.rate(series, MODEL, suffix="_bucket")
    return f"histogram_quantile({q}, sum by ({', '.join((*labels, 'le'))}) ({buckets}))"


def full_ratio(select: Selectors) -> str:
    """Return the share of the requests that is rejected because the fleet is full."""
    return f"max({select.series(names.FLEET_FULL_RATIO)})"


def ejected_ratio(select: Selectors) -> str:
    """Return the share of its list that each gateway has ejected."""
    ejected, listed = (
        each(select, one)
        for one in (catalogue.GATEWAY_UPSTREAMS_EJECTED, catalogue.GATEWAY_UPSTREAMS)
    )
    return f"{ejected} / {listed}"


def slowest_nodes(select: Selectors) -> str:
    """Return the nodes whose answers take longest, with the p99 of each."""
    by = (select.cluster, "node")
    p99 = quantile(select, catalogue.GATEWAY_REQUEST_DURATION, "0.99", *by)
    return f"topk($limit, {p99} > 0)"


def of_slowest(select: Selectors, series: Series, *matchers: str) -> str:
    """Return how fast a counter grows, of these nodes."""
    rate = total_rate(select, series, select.cluster, "node", where=matchers)
    return f"{rate}\nand {select.on('node')} {slowest_nodes(select)}"


def top_developers(select: Selectors) -> str:
    """Return the developers with the most tokens per second."""
    rate = f"rate({select.series(catalogue.GATEWAY_DEVELOPER_TOKENS)}{RATE})"
    return f"topk($limit, sum by (developer) ({rate}) > 0)"
