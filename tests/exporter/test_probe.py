"""A probe polls one instance of the inventory now, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.model import Target
from exporter.probe import MAX_PROBES, Prober
from ollama_fleet.clock import SystemClock
from tests.exporter.pollers import Polled, target, watching
from tests.exporter.servers import answering, hanging, serving
from tests.waiting import eventually

FLEET = {
    "/health": b"{}",
    "/api/metrics": b'{"tokens_per_second":42,"latency_p99":0.089,"error_count":0}',
}
Client = TestClient[Request, Application]


@asynccontextmanager
async def probing(*targets: Target) -> AsyncIterator[tuple[Polled, Client]]:
    """Give a client of a poller that polls nothing by itself."""
    async with watching(*targets, interval_s=1000.0) as polled:
        app = Application()
        Prober(polled.poller, SystemClock()).add_to(app)
        async with TestClient(TestServer(app)) as client:
            yield polled, client


async def probe(client: Client, target: str) -> tuple[int, str]:
    async with client.get("/probe", params={"target": target}) as response:
        return response.status, await response.text()


def samples(text: str) -> dict[str, float]:
    found = (sample for family in parse_text(text) for sample in family.samples)
    return {sample.name: sample.value for sample in found}


async def test_a_probe_answers_the_series_of_one_instance_by_id_or_url() -> None:
    async with serving(answering(FLEET)) as port:
        async with probing(target("a", port), target("b", 1)) as (polled, client):
            before = {key: one.row for key, one in polled.poller.scrape_targets.items()}
            for wanted in ("a", f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/"):
                status, text = await probe(client, wanted)
                found = samples(text)
                assert (200, 1.0, 1.0) == (
                    status,
                    found["probe_success"],
                    found["ollama_instance_up"],
                )
                assert 42.0 == found["ollama_instance_tokens_per_second"]
                assert found["probe_duration_seconds"] > 0.0
                assert 'instance_id="b"' not in text
            status, text = await probe(client, "b")
            found = samples(text)
            assert (200, 0.0, 0.0) == (status, found["probe_success"], found["ollama_instance_up"])

            assert before == {key: one.row for key, one in polled.poller.scrape_targets.items()}
            assert not polled.poller.scrape_targets["a"].history.was_healthy
            assert 0 == polled.poller.scrape_targets["b"].poll_counts.failed


async def test_what_is_not_in_the_inventory_is_not_asked() -> None:
    asked = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await hanging(reader, writer)

    async with serving(handle) as port, probing(target("a", 1)) as (_, client):
        assert 404 == (await probe(client, f"http://127.0.0.1:{port}"))[0]
        assert 400 == (await probe(client, ""))[0]
        status, text = await probe(client, "x\n\x1b[31m<b>")
        assert (404, False) == (status, "\x1b" in text)
        assert not asked.is_set()


async def test_probes_beyond_the_limit_are_told_to_come_again() -> None:
    asked: list[int] = []
    may_end = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(1)
        await may_end.wait()
        await answering(FLEET)(reader, writer)

    async with serving(handle) as port, probing(target("a", port)) as (_, client):
        running = [asyncio.create_task(probe(client, "a")) for _ in range(MAX_PROBES)]
        await eventually(lambda: len(asked) == MAX_PROBES)
        async with client.get("/probe", params={"target": "a"}) as response:
            assert (503, "1") == (response.status, response.headers["Retry-After"])
        may_end.set()
        statuses = [(await one)[0] for one in running]
        assert [200] * MAX_PROBES == statuses
        assert 200 == (await probe(client, "a"))[0]
