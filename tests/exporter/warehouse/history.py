"""A fleet's past as the exporter publishes it, sample by sample, for a real Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

HOUR_S = 3600
STEP_S = 60
SPEED = 40.0
SLOW = 0.5
N_NODES = 3
ON_NODE = 2
HOURS = 7
ABSENT = 3
"""The hour, from the first, in which the exporter was down."""


def first_hour(now_s: float) -> datetime:
    """Return the first hour of a past that ends with the last whole hour."""
    return datetime.fromtimestamp(now_s // HOUR_S * HOUR_S, UTC) - timedelta(hours=HOURS)


def past(now_s: float) -> Iterator[tuple[str, Mapping[int, float]]]:
    """Yield the series of two exporters that are replicas: n2 is slow, n1-1 restarts in hour 1.

    n0-0 goes from version 1 to version 2 three quarters through hour 2, and fails in all of hour 4.
    """
    start_s = int(first_hour(now_s).timestamp())
    times = [
        at_s
        for at_s in range(start_s + STEP_S // 2, start_s + HOURS * HOUR_S, STEP_S)
        if _hour(at_s, start_s) != ABSENT
    ]
    for replica in ("a", "b"):
        scraped = f'cluster="east",job="ollama",instance="{replica}"'
        yield f"ollama_exporter_poll_interval_seconds{{{scraped}}}", dict.fromkeys(times, 10)
        yield from _requests(scraped, times)
        for node in range(N_NODES):
            for one in range(ON_NODE):
                yield from _instance(scraped, node, one, times, start_s)


def _hour(at_s: int, start_s: int) -> int:
    return (at_s - start_s) // HOUR_S


def _requests(scraped: str, times: list[int]) -> Iterator[tuple[str, Mapping[int, float]]]:
    """Yield a histogram: of 100 requests in a minute 98 take up to 0.1 s, the others up to 0.15."""
    name, labels = "ollama_fleet_request_duration_seconds", f'{scraped},shard="0",model="m:8b"'
    for le, share in (("0.1", 98), ("0.15", 100), ("+Inf", 100)):
        counted = {at_s: float(share * n) for n, at_s in enumerate(times)}
        yield f'{name}_bucket{{{labels},le="{le}"}}', counted
    counted = {at_s: 100.0 * n for n, at_s in enumerate(times)}
    yield f"ollama_fleet_requests_total{{{labels}}}", counted


def _instance(
    scraped: str, node: int, one: int, times: list[int], start_s: int
) -> Iterator[tuple[str, Mapping[int, float]]]:
    own = f'{scraped},instance_id="n{node}-{one}",node="n{node}"'
    is_first, restarts = (node, one) == (0, 0), (node, one) == (1, 1)
    speed = SPEED * (SLOW if node == N_NODES - 1 else 1.0)
    fails = {at_s: is_first and _hour(at_s, start_s) == 4 for at_s in times}
    yield f"ollama_instance_up{{{own}}}", {at_s: float(not fails[at_s]) for at_s in times}
    yield (
        f"ollama_instance_tokens_per_second{{{own}}}",
        # One minute in ten is twice as fast: the median does not see it.
        {at_s: speed * (2 if at_s // STEP_S % 10 == 0 else 1) for at_s in times if not fails[at_s]},
    )
    counted = {at_s: 60.0 * n for n, at_s in enumerate(times)}
    yield f"ollama_instance_generated_tokens_total{{{own}}}", counted
    yield (
        f'ollama_instance_errors_total{{{own},error_type="oom"}}',
        {at_s: 2.0 * (is_first and _hour(at_s, start_s) > 4) + 1 for at_s in times},
    )
    yield (
        f"ollama_instance_start_time_seconds{{{own}}}",
        {
            at_s: start_s - 60.0 + (5000 if restarts and at_s > start_s + 5000 else 0)
            for at_s in times
        },
    )
    yield f'ollama_instance_model_loaded{{{own},model="m:8b"}}', dict.fromkeys(times, 1)
    update_s = start_s + 2 * HOUR_S + HOUR_S * 3 // 4
    for version in ("1", "2"):
        info = f'model="m:8b",engine="ollama",version="{version}",developer=""'
        shown = [t for t in times if (is_first and t > update_s) == (version == "2")]
        yield f"ollama_instance_info{{{own},{info}}}", dict.fromkeys(shown, 1)
    labels = f'label_rack="r{node % 2}",label_hardware="epyc",label_slot="{one}"'
    yield f"ollama_instance_labels{{{own},{labels}}}", dict.fromkeys(times, 1)
