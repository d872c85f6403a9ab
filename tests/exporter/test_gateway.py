"""What the exporter makes of the pages of gateways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from exporter import gateway
from exporter.counters import Delta, FleetCounters, TrafficCounters
from exporter.engines.base import MAX_NAME_CHARACTERS
from exporter.gateway import GatewayError, GatewayReader, add_gains, read_page
from exporter.inventory import WHOLE
from exporter.selfmetrics import SelfMetrics
from exporter.snapshot import Aggregation
from ollama_fleet.clock import SystemClock
from tests.exporter.fleets import NOW_S
from tests.exporter.gateways import Counted, page
from tests.exporter.servers import answering, read_request, response, serving
from tests.ports import free_port
from tests.waiting import eventually

INTERVAL_S = 0.1
FEW = Counted({"200": 8, "499": 1, "500": 1}, (6, 2, 2), tokens=100)
MORE = Counted({"200": 18, "499": 2, "429": 3, "500": 1, "503": 2}, (20, 4, 2), tokens=250)


def counted(*pages: bytes) -> TrafficCounters:
    """Return the totals after these pages of one gateway."""
    counters, before = TrafficCounters(), None
    for body in pages:
        now = read_page(body)
        add_gains(counters, before, now)
        before = now
    return counters


# One gateway


def test_the_first_page_sets_the_marks_and_the_next_one_counts() -> None:
    before, after = page({("m", "n1"): FEW}), page({("m", "n1"): MORE})

    first, both = counted(before), counted(before, after)

    assert ({"m": 0.0}, {"m": 0.0}) == (first.requests, first.generated_tokens)
    assert {"m": 16.0} == both.requests
    assert {"m": 150.0} == both.generated_tokens
    assert (14.0, 16.0, 16.0) == both.durations.by_model["m"].cumulative
    assert pytest.approx(1.6) == both.durations.by_model["m"].sum_s
    assert {"m"} == both.time_to_first_token.by_model.keys() == both.queue_time.by_model.keys()


def test_errors_are_answers_of_5xx_and_no_others() -> None:
    """A client that left (499) and an instance that is too busy (429) are no errors."""
    both = counted(page({("m", "n1"): FEW}), page({("m", "n1"): MORE}))

    assert {("m", "5xx"): 2.0} == both.errors
    assert {("n1", "5xx"): 2.0} == both.node_errors
    assert {"m": 2.0} == both.request_errors


def test_a_model_and_a_node_without_errors_have_a_zero() -> None:
    good = Counted({"200": 4}, (4, 0, 0))

    first = counted(page({("m", "n1"): good}))

    assert {("m", "5xx"): 0.0} == first.errors
    assert {("n1", "5xx"): 0.0} == first.node_errors


def test_the_nodes_of_a_model_are_added_up_in_any_order() -> None:
    """A sum that seems to go back, by rounding alone, would count everything twice."""
    nodes = {("m", f"n{n}"): Counted({"200": n}, (n, 0, 0), n) for n in range(1, 10)}
    other_way_round = dict(reversed(nodes.items()))

    both = counted(page(nodes), page(other_way_round), page(nodes))

    assert {"m": 0.0} == both.requests
    assert 9 == len(both.node_errors)


def test_a_model_that_is_new_counts_in_full() -> None:
    both = counted(page({}), page({("m", "n1"): FEW}))

    assert {"m": 10.0} == both.requests
    assert {"m": 100.0} == both.generated_tokens
    assert {("n1", "5xx"): 1.0} == both.node_errors


def test_a_gateway_that_started_again_counts_from_zero() -> None:
    few, more = page({("m", "n1"): FEW}), page({("m", "n1"): MORE})

    again = counted(more, few)

    assert {"m": 10.0} == again.requests
    assert {"m": 100.0} == again.generated_tokens
    assert {("m", "5xx"): 1.0} == again.errors


def test_latest_is_no_model_of_its_own() -> None:
    names = {("phi3", "n1"): FEW, ("phi3:latest", "n2"): FEW}

    assert {"phi3": 0.0} == counted(page(names)).requests


GOOD = page({("m", "n1"): FEW})
BROKEN = {
    "another server": b"# TYPE up gauge\nup 1\n",
    "a value that is no number": GOOD.replace(b'le="1.0"} 8', b'le="1.0"} x'),
    "a value below zero": GOOD.replace(b'code="200"} 8', b'code="200"} -8'),
    "not a number": GOOD.replace(b'code="200"} 8', b'code="200"} NaN'),
    "buckets that fall": GOOD.replace(b'le="1.0"} 8', b'le="1.0"} 3'),
    "no last bucket": GOOD.replace(b'le="+Inf"', b'le="2.0"'),
    "a bucket that is no number": GOOD.replace(b'le="1.0"', b'le="one"'),
    "a sum without buckets": GOOD + b'ollama_gateway_queue_time_seconds_sum{model="x"} 1\n',
    "series of different buckets": GOOD
    + b'ollama_gateway_request_duration_seconds_bucket{model="m",node="n2",le="+Inf"} 9\n'
    + b'ollama_gateway_request_duration_seconds_sum{model="m",node="n2"} 9\n',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_a_page_that_cannot_be_is_refused_whole(body: bytes) -> None:
    with pytest.raises(GatewayError):
        read_page(body)


def test_labels_are_read_whatever_is_in_them() -> None:
    body = page({(r"a\"b{c},le=\"x\"} 5", "n1"): FEW})

    assert {'a"b{c},le="x"} 5': 0.0} == counted(body).requests


def test_a_name_is_as_long_as_any_other_name_at_most() -> None:
    (name,) = counted(page({("m" * 10_000, "n1"): FEW})).requests

    assert len(name) <= MAX_NAME_CHARACTERS + len("…")


# Which of the counters are published


def test_with_gateways_nothing_that_instances_count_is_in_the_series_of_requests() -> None:
    counters = FleetCounters()
    counters.record("n1", "m", Delta(generated_tokens=7.0, errors=(("oom", 1.0),), n_restarts=1))
    counters.gateways = counted(page({}), page({("m", "n2"): FEW}))

    fleet = Aggregation(now_s=NOW_S).finish(counters)

    assert ({"m": 100.0}, {"m": 10.0}) == (fleet.generated_tokens, fleet.requests)
    assert ({("m", "5xx"): 1.0}, {("n2", "5xx"): 1.0}) == (fleet.errors, fleet.node_errors)
    assert ({"m": 1.0}, 1) == (fleet.request_errors, fleet.restarts)


def test_what_gateways_count_vanishes_while_none_answers_and_never_falls_back() -> None:
    counters = FleetCounters()
    counters.record("n1", "m", Delta(generated_tokens=7.0))
    counters.gateways = counted(page({}), page({("m", "n2"): FEW}))
    counters.gateways.is_stale = True

    fleet = Aggregation(now_s=NOW_S).finish(counters)

    assert ({}, {}, {}) == (fleet.generated_tokens, fleet.requests, fleet.durations)


# Reading


@pytest.fixture(autouse=True)
def _no_answer_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, no gateway is given up by its time."""
    monkeypatch.setattr(gateway, "TIMEOUT_S", 1000.0)


@asynccontextmanager
async def reading(
    *urls: str, rounds: list[None] | None = None
) -> AsyncIterator[tuple[TrafficCounters, SelfMetrics]]:
    metrics, counters = (
        SelfMetrics(shard=WHOLE, poll_interval_s=1.0, clock=SystemClock()),
        TrafficCounters(),
    )

    def nodes() -> set[str]:
        if rounds is not None:
            rounds.append(None)
        return {"n1", "n2"}

    reader = GatewayReader(urls, counters, metrics, SystemClock(), nodes=nodes)
    task = asyncio.create_task(reader.run(INTERVAL_S))
    try:
        yield counters, metrics
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_up(metrics: SelfMetrics, url: str) -> float | None:
    return metrics.registry.get_sample_value("ollama_exporter_gateway_up", {"gateway": url})


def last_read_s(metrics: SelfMetrics, url: str) -> float:
    name = "ollama_exporter_gateway_last_success_timestamp_seconds"
    return metrics.registry.get_sample_value(name, {"gateway": url}) or 0.0


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@contextmanager
def stale_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setattr(gateway, "MIN_STALE_S", 0.0)
        changed.setattr(gateway, "STALE_INTERVALS", 1)
        yield


async def test_the_gateways_are_added_up_and_one_that_is_named_twice_counts_once() -> None:
    bodies = {"/metrics": page({})}
    async with serving(answering(bodies)) as one, serving(answering(bodies)) as other:
        async with reading(url_of(one), url_of(other), url_of(one)) as (counters, metrics):
            await eventually(lambda: {1} == {is_up(metrics, url_of(each)) for each in (one, other)})
            bodies["/metrics"] = page({("m", "n1"): FEW})
            await eventually(lambda: counters.requests.get("m", 0.0) >= 20)

    assert {"m": 20.0} == counters.requests


async def test_errors_of_nodes_that_the_inventory_no_longer_has_vanish() -> None:
    bodies = {"/metrics": page({("m", "n1"): FEW, ("m", "n9"): FEW})}
    async with serving(answering(bodies)) as port, reading(url_of(port)) as (counters, _):
        await eventually(lambda: {("n1", "5xx"): 0.0} == counters.node_errors)


async def test_a_gateway_that_does_not_answer_is_down_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "exporter.gateway")
    port = free_port()
    url, rounds = url_of(port), list[None]()
    with stale_at_once(monkeypatch):
        async with reading(url, rounds=rounds) as (counters, metrics):
            await eventually(lambda: counters.is_stale)
            assert 0 == is_up(metrics, url)
            monkeypatch.setattr(gateway, "MIN_STALE_S", 60.0)
            async with serving(answering({"/metrics": GOOD}), port):
                await eventually(lambda: is_up(metrics, url) == 1)
            await eventually(lambda: is_up(metrics, url) == 0)
            before = len(rounds)
            await eventually(lambda: len(rounds) > before + 2)

    faults = [one.message for one in caplog.records if "cannot be read" in one.message]
    assert 2 == len(faults)
    assert all(url in fault for fault in faults)
    assert any("is read again" in one.message for one in caplog.records)


async def redirecting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a reader elsewhere, where there is a good page."""
    while (path := await read_request(reader)) is not None:
        to_other = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
        writer.write(to_other if path == "/metrics" else response(GOOD))
        await writer.drain()


FAULTY = {
    "a redirect": redirecting,
    "a status": answering({"/metrics": GOOD}, status="503 Service Unavailable"),
    "no page": answering({"/": b""}),
    "too much": answering({"/metrics": GOOD + b"#" * 1000}),
}


@pytest.mark.parametrize("handler", FAULTY.values(), ids=FAULTY.keys())
async def test_a_bad_answer_costs_its_gateway_alone(
    handler: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "MAX_BODY_BYTES", len(GOOD))
    async with serving(handler) as bad, serving(answering({"/metrics": GOOD})) as good:  # type: ignore[arg-type]
        async with reading(url_of(bad), url_of(good)) as (counters, metrics):
            await eventually(lambda: "m" in counters.requests)
            await eventually(lambda: is_up(metrics, url_of(bad)) == 0)
            assert 1 == is_up(metrics, url_of(good))
            assert not counters.is_stale
            assert 0 == last_read_s(metrics, url_of(bad)) < last_read_s(metrics, url_of(good))


async def test_a_gateway_that_hangs_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "TIMEOUT_S", 0.2)

    async def hanging(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(hanging) as stuck, serving(answering({"/metrics": GOOD})) as good:
        async with reading(url_of(stuck), url_of(good)) as (counters, metrics):
            await eventually(lambda: "m" in counters.requests)
            await eventually(lambda: is_up(metrics, url_of(good)) == 1)
            assert 0 == is_up(metrics, url_of(stuck))
