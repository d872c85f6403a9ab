"""Whether all that sees requests says the same of them: users, gateway, exporter, Prometheus."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from exporter import catalogue
from exporter.catalogue.series import BOUNDARIES_S
from ollama_fleet.tables import table
from tests.load.stack import Samples, Stack

TOLERANCE = 0.05
SETTLE_S = 100.0
"""Longest time until all have what the gateway counted last."""
LEAST_S = 0.005
"""What two programs beside each other may differ by in the time of one request."""
GATEWAY_DURATION = catalogue.GATEWAY_REQUEST_DURATION.name
FLEET_DURATION = catalogue.FLEET_REQUEST_DURATION.name
COUNTS = ("requests", "failed", "rejected", "tokens")
DURATIONS = ("mean_s", "p50_s", "p99_s")
HEAD = ("seen by", "requests", "failed", "rejected", "tokens", "mean", "p50", "p99")


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody saw of all requests for text; None: it does not see that."""

    requests: float
    failed: float
    rejected: float | None
    tokens: float
    mean_s: float
    p50_s: float
    p99_s: float


def by_users(report: Mapping[str, Any]) -> Seen:
    """Return what a load test reports."""
    text = report["text"]
    return Seen(
        text["n"],
        text["n_failed"],
        report["rejected"],
        report["generated_tokens"],
        *(text[name] for name in ("mean_s", "p50_s", "p99_s")),
    )


def by_gateway(page: Samples) -> Seen:
    """Return what the gateway's page says."""
    fleet_full = total(page, catalogue.GATEWAY_REJECTED.name, reason="fleet_full")
    return Seen(
        total(page, catalogue.GATEWAY_REQUESTS.name),
        sum(total(page, catalogue.GATEWAY_REQUESTS.name, code=code) for code in codes(page)),
        fleet_full,
        total(page, catalogue.GATEWAY_GENERATED_TOKENS.name),
        *durations(page, GATEWAY_DURATION),
    )


def by_exporter(page: Samples) -> Seen:
    """Return what the exporter's page says."""
    return Seen(
        total(page, catalogue.FLEET_REQUESTS.name),
        total(page, catalogue.FLEET_REQUEST_ERRORS.name),
        None,
        total(page, catalogue.FLEET_GENERATED_TOKENS.name),
        *durations(page, FLEET_DURATION),
    )


async def by_prometheus(stack: Stack) -> Seen:
    """Return what PromQL says of the exporter's series, and of the gateway's rejections."""
    rejected = f'sum({catalogue.GATEWAY_REJECTED.name}{{reason="fleet_full"}})'
    mean = f"sum({FLEET_DURATION}_sum) / sum({FLEET_DURATION}_count)"
    quantiles = [
        f"histogram_quantile({ratio}, sum by (le) ({FLEET_DURATION}_bucket))"
        for ratio in (0.5, 0.99)
    ]
    return Seen(
        await stack.query(f"sum({catalogue.FLEET_REQUESTS.name})"),
        await stack.query(f"sum({catalogue.FLEET_REQUEST_ERRORS.name})"),
        await stack.query(rejected),
        await stack.query(f"sum({catalogue.FLEET_GENERATED_TOKENS.name})"),
        *[await stack.query(one) for one in (mean, *quantiles)],
    )


async def observed(stack: Stack, report: Mapping[str, Any]) -> dict[str, Seen]:
    """Return what all saw: as soon as all have counted the same, or when the time is over.

    A worker of the gateway adds its counts once a second; exporter and Prometheus read them later.
    """
    seen = await _seen(stack, report)
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while not have_counted_the_same(seen):
                await asyncio.sleep(0.2)
                seen = await _seen(stack, report)
    return seen


def have_counted_the_same(seen: Mapping[str, Seen]) -> bool:
    """Say whether nothing is left to wait for."""
    found = ({getattr(one, name) for one in seen.values()} - {None} for name in COUNTS)
    return all(len(values) == 1 for values in found)


async def _seen(stack: Stack, report: Mapping[str, Any]) -> dict[str, Seen]:
    return {
        "users (Locust)": by_users(report),
        "gateway": by_gateway(await stack.samples(stack.gateway_metrics)),
        "exporter": by_exporter(await stack.samples(f"{stack.exporter_url}/metrics")),
        "PromQL": await by_prometheus(stack),
    }


def differences(
    seen: Mapping[str, Seen], names: Container[str] = (*COUNTS, *DURATIONS)
) -> list[str]:
    """Return in which figures somebody saw something else than the first one."""
    first, *others = seen.items()
    return [
        f"{name}: {what} {theirs:g}, {first[0]} {ours:g}"
        for name, one in others
        for what, ours, theirs, are_close in _pairs(first[1], one)
        if what in names and not are_close
    ]


def _pairs(ours: Seen, theirs: Seen) -> list[tuple[str, float, float, bool]]:
    def pairs(*names: str) -> list[tuple[str, float, float]]:
        found = [(name, getattr(ours, name), getattr(theirs, name)) for name in names]
        return [one for one in found if one[2] is not None]

    return [
        *((*one, is_close(*one[1:], least=1)) for one in pairs(*COUNTS)),
        *((*one, is_close(*one[1:], least=LEAST_S)) for one in pairs("mean_s")),
        *((*one, are_neighbours(*one[1:])) for one in pairs("p50_s", "p99_s")),
    ]


def is_close(a: float, b: float, *, least: float) -> bool:
    """Say whether two figures differ by at most 5 %, or by no more than `least`."""
    return abs(a - b) <= max(TOLERANCE * max(a, b), least)


def are_neighbours(a_s: float, b_s: float) -> bool:
    """Say whether two durations are in the same bucket, or in two beside each other."""
    return abs(bucket(a_s) - bucket(b_s)) <= 1


def bucket(duration_s: float) -> int:
    """Return the bucket of the request histograms that a duration is in."""
    return bisect_left(BOUNDARIES_S, duration_s)


def to_text(seen: Mapping[str, Seen]) -> str:
    """Return a table."""
    return table(HEAD, [_row(name, one) for name, one in seen.items()])


def _row(name: str, one: Seen) -> Sequence[str]:
    counts = (one.requests, one.failed, one.rejected, one.tokens)
    durations_ms = (f"{1000 * s:,.1f} ms" for s in (one.mean_s, one.p50_s, one.p99_s))
    return name, *("-" if n is None else f"{n:,.0f}" for n in counts), *durations_ms


def total(page: Samples, name: str, **labels: str) -> float:
    """Return the sum of a page's samples of a name that have these labels."""
    return sum(
        value for one, found, value in page if one == name and labels.items() <= found.items()
    )


def codes(page: Samples) -> set[str]:
    """Return the status codes of failed requests on a gateway's page."""
    found = {labels["code"] for name, labels, _ in page if name == catalogue.GATEWAY_REQUESTS.name}
    return {code for code in found if code.startswith("5")}


def durations(page: Samples, name: str) -> tuple[float, float, float]:
    """Return mean, p50 and p99 of a histogram on a page, in seconds."""
    n = total(page, f"{name}_count")
    mean_s = total(page, f"{name}_sum") / n if n else 0.0
    les = {labels["le"] for one, labels, _ in page if one == f"{name}_bucket"}
    counts = {float(le): total(page, f"{name}_bucket", le=le) for le in les}
    return mean_s, quantile_s(counts, 0.5), quantile_s(counts, 0.99)


def quantile_s(counts: Mapping[float, float], ratio: float) -> float:
    """Return a quantile of cumulative counts by upper bound, as histogram_quantile does."""
    bounds = sorted(counts)
    rank = ratio * counts[bounds[-1]] if bounds else 0.0
    if not rank:
        return 0.0
    index = next(i for i, bound in enumerate(bounds) if counts[bound] >= rank)
    lower_s, below = (bounds[index - 1], counts[bounds[index - 1]]) if index else (0.0, 0.0)
    if bounds[index] == float("inf"):
        return lower_s
    share = (rank - below) / (counts[bounds[index]] - below)
    return lower_s + (bounds[index] - lower_s) * share
