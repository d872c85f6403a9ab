from __future__ import annotations

import asyncio
import gc
import gzip
import threading
import time
import weakref
import zlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

import pytest

from exporter import publisher
from exporter.catalogue import NODE_INSTANCES
from exporter.exposition import CHUNK_ROWS, CHUNK_SAMPLES, Format
from exporter.publisher import Publisher, RenderedScrape
from tests.exporter.pollers import Polled, polling, target, value_of, watching
from tests.exporter.servers import answering, serving
from tests.exporter.ui.building import HeldClock
from tests.waiting import eventually

TAIL = b"# the exporter's own series\n"


class Compressors:
    """Counts how often compressing begins, and can hold it back."""

    def __init__(self) -> None:
        self.n_made = 0
        self.gate = threading.Event()
        self.gate.set()
        self._make = zlib.compressobj

    def __call__(self, *settings: Any) -> Any:
        self.n_made += 1
        assert self.gate.wait(100.0)
        return self._make(*settings)


@pytest.fixture
def compressors(monkeypatch: pytest.MonkeyPatch) -> Compressors:
    made = Compressors()
    monkeypatch.setattr(zlib, "compressobj", made)
    return made


@pytest.fixture
async def polled() -> AsyncIterator[Polled]:
    """Three instances that nothing polls."""
    async with polling(*[target(f"i{n}", 1) for n in range(3)], interval_s=1000.0) as polled:
        yield polled
        await polled.publisher.close()


def joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)


async def gzipped(rendered_scrape: RenderedScrape, format_: Format, tail: bytes) -> bytes:
    return joined(await rendered_scrape.gzipped(format_, tail))


async def edition_of(polled: Polled) -> RenderedScrape:
    await polled.publisher.publish()
    assert polled.publisher.rendered_scrape is not None
    return polled.publisher.rendered_scrape


async def test_there_is_no_edition_before_the_first_whole_cycle() -> None:
    async with serving(answering({"/health": b"{}", "/api/metrics": b"{}"})) as port:
        async with polling(target("a", port)) as polled:
            running = asyncio.create_task(polled.publisher.run(60.0))
            await eventually(lambda: polled.outcome("a") is not None)
            assert polled.publisher.rendered_scrape is None or polled.poller.has_seen_all.is_set()

            await eventually(lambda: polled.publisher.rendered_scrape is not None)
            assert polled.poller.has_seen_all.is_set()

            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_editions_follow_each_other_at_the_interval(polled: Polled) -> None:
    polled.poller.has_seen_all.set()
    running = asyncio.create_task(polled.publisher.run(0.05))
    await eventually(lambda: polled.publisher.rendered_scrape is not None)
    first = polled.publisher.rendered_scrape

    await eventually(lambda: polled.publisher.rendered_scrape is not first)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_edition_is_replaced_whole_and_never_changes(polled: Polled) -> None:
    first = await edition_of(polled)
    page = joined(first.plain(Format.TEXT))

    await polled.update()
    second = await edition_of(polled)

    assert first is not second
    assert page == joined(first.plain(Format.TEXT))
    assert b'instance_id="i1"' in page
    assert b'instance_id="i1"' not in joined(second.plain(Format.TEXT))


async def test_other_tasks_run_while_a_large_page_is_made() -> None:
    n_rows = 3 * CHUNK_ROWS
    targets = [target(f"i{n}", 1) for n in range(n_rows)]
    async with polling(*targets, interval_s=1000.0) as polled:
        publishing = asyncio.create_task(polled.publisher.publish())
        n_turns = 0
        while not publishing.done():
            n_turns += 1
            await asyncio.sleep(0)

    # Of each portion of instances: a turn for adding up, and one for rendering each series.
    assert n_turns >= 3 * 10


async def test_no_portion_is_long_however_many_nodes_there_are() -> None:
    targets = [target(f"i{n}", 1, node=f"n{n}") for n in range(2 * CHUNK_SAMPLES + 1)]
    async with polling(*targets, interval_s=1000.0) as polled:
        rendered_scrape = await edition_of(polled)

    lines = dict(rendered_scrape.exposition.families)[NODE_INSTANCES]
    assert max(part.count(b"\n") for part in lines) <= CHUNK_SAMPLES
    written = b"".join(lines).splitlines()
    assert sorted(written) == written
    assert len(targets) * 2 == len(written)


async def test_many_scrapers_share_one_compression(
    polled: Polled, compressors: Compressors
) -> None:
    rendered_scrape = await edition_of(polled)

    bodies = await asyncio.gather(*[gzipped(rendered_scrape, Format.TEXT, TAIL) for _ in range(20)])
    await rendered_scrape.gzipped(Format.TEXT, TAIL)

    assert 1 == compressors.n_made
    assert 1 == len(set(bodies))


async def test_what_was_asked_for_with_gzip_is_prepared_for_the_next_edition(
    polled: Polled, compressors: Compressors
) -> None:
    first = await edition_of(polled)
    assert () == first.gzipped_formats
    await first.gzipped(Format.TEXT, TAIL)

    second = await edition_of(polled)

    assert (Format.TEXT,) == second.gzipped_formats
    await eventually(lambda: compressors.n_made == 2)
    await second.gzipped(Format.TEXT, TAIL)
    assert 2 == compressors.n_made


async def test_a_scraper_that_leaves_does_not_end_the_work_for_the_others(
    polled: Polled, compressors: Compressors
) -> None:
    rendered_scrape = await edition_of(polled)
    compressors.gate.clear()
    leaving = asyncio.create_task(gzipped(rendered_scrape, Format.TEXT, TAIL))
    staying = asyncio.create_task(gzipped(rendered_scrape, Format.TEXT, TAIL))
    await eventually(lambda: compressors.n_made)

    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    compressors.gate.set()

    assert joined(rendered_scrape.plain(Format.TEXT)) + TAIL == gzip.decompress(await staying)
    assert 1 == compressors.n_made


async def test_closing_waits_for_the_thread_that_compresses(
    polled: Polled, compressors: Compressors
) -> None:
    rendered_scrape = await edition_of(polled)
    compressors.gate.clear()
    work = rendered_scrape.prepare_gzip(Format.TEXT)
    await eventually(lambda: compressors.n_made)

    closing = asyncio.create_task(polled.publisher.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not closing.done()

    compressors.gate.set()
    await closing
    assert work.done()


async def scrape_of(polled: Polled) -> set[str]:
    """Return the names of the series that are published now."""
    return {series.name for series, _ in (await edition_of(polled)).exposition.families}


async def test_aggregates_are_withdrawn_while_no_poll_cycle_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A replica may see the fleet; instance series stay, and all is back after a whole cycle."""
    clock, gate = HeldClock(), asyncio.Event()
    healthy = answering({"/health": b"{}", "/api/metrics": b"{}"})

    async def gated(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await healthy(reader, writer)

    async with serving(gated) as port, watching(target("a", port), clock=clock) as polled:
        clock.move(60.0)
        assert "ollama_fleet_instances" in await scrape_of(polled)
        clock.move(1.0)
        assert {"ollama_instance_info"} == await scrape_of(polled)
        await scrape_of(polled)
        warnings = [record.getMessage() for record in caplog.records]
        gate.set()

        def has_seen_all() -> bool:
            clock.move(0.1)
            return polled.poller.has_seen_all.is_set()

        await eventually(has_seen_all)
        assert {"ollama_fleet_instances", "ollama_instance_up"} <= await scrape_of(polled)

    assert 1 == sum("series not published kind=aggregates" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("per_instance", "limit", "expected"),
    [(None, 3, True), (None, 2, False), (True, 2, True), (False, 3, False)],
)
async def test_instance_series_of_a_large_fleet_are_off_unless_asked_for(
    polled: Polled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    per_instance: bool | None,
    limit: int,
    expected: bool,
) -> None:
    monkeypatch.setattr(publisher, "AUTO_MAX_INSTANCES", limit)
    of_three = replace(
        polled,
        publisher=Publisher(
            polled.poller,
            polled.fleet_counters,
            polled.metrics,
            polled.options.clock,
            per_instance=per_instance,
            grace_period_s=90.0,
        ),
    )

    names = [await scrape_of(of_three) for _ in range(2)]

    assert [expected, expected] == ["ollama_instance_info" in each for each in names]
    said = [record.getMessage() for record in caplog.records]
    helps = [text for text in said if "--metrics.per-instance true" in text]
    assert (1 if per_instance is None and not expected else 0) == len(helps)


class Cycle:
    def __init__(self) -> None:
        self.itself = self


async def test_young_garbage_is_collected_with_each_edition(polled: Polled) -> None:
    gc.disable()
    try:
        garbage = weakref.ref(Cycle())
        await edition_of(polled)
        assert garbage() is None
    finally:
        gc.enable()


async def test_a_page_says_how_large_it_is_and_when_it_was_made(polled: Polled) -> None:
    began_s = time.monotonic()
    rendered_scrape = await edition_of(polled)
    took_s = time.monotonic() - began_s
    body = joined(rendered_scrape.plain(Format.TEXT)).decode()

    n_samples = sum(not line.startswith("#") for line in body.splitlines())
    assert n_samples == value_of(polled.metrics.exposition_samples)
    assert rendered_scrape.exposition.rendered_at_s == value_of(
        polled.metrics.exposition_rendered_at_s
    )
    assert 0 < value_of(polled.metrics.exposition_duration_s) <= took_s
