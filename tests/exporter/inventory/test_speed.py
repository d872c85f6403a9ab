"""Large fleets: how fast they are read, and that nothing else waits for it."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator

import pytest

from exporter.inventory import Inventory
from exporter.inventory.entries import targets_of
from exporter.inventory.formats import Format, records
from tests.exporter.inventory.fakes import ToldSource

# Four times what was measured, so that a busy machine does not fail the test.
LIMIT_S = {Format.JSON: 0.6, Format.HTTP: 0.6, Format.YAML: 1.8}


def fleet(n_instances: int) -> bytes:
    return json.dumps(
        [
            {
                "id": f"node-{i // 800:03d}-{i:06d}",
                "url": f"http://10.0.{i // 250 % 250}.{i % 250}:{11_434 + i % 100}",
                "node": f"node-{i // 800:03d}",
                "model": "llama3.1:8b",
                "engine": "ollama",
                "state": "running",
                "developer": f"dev{i % 1_200}",
                "labels": {"rack": f"r{i % 40}", "zone": "a"},
            }
            for i in range(n_instances)
        ],
        indent=1,
    ).encode()


@pytest.mark.parametrize("form", Format)
def test_ten_thousand_entries_are_read_quickly(form: Format) -> None:
    body = fleet(10_000)
    started_s = time.process_time()

    targets = targets_of(records(body, "f", form), "f")

    assert LIMIT_S[form] > time.process_time() - started_s
    assert 10_000 == len(targets)


async def longest_stall_s(work: asyncio.Task[None]) -> float:
    """Return the longest time for which the loop did not turn while `work` went on."""
    longest_s, last_s = 0.0, time.monotonic()
    while not work.done():
        await asyncio.sleep(0.001)
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return longest_s


async def stalled_ratio(body: bytes) -> float:
    """Return the longest stall while a fleet is read, as a share of the whole time."""
    source = ToldSource("f")
    source.next = body
    inventory = Inventory([source])
    started_s = time.monotonic()
    work = asyncio.create_task(inventory.load())
    stall_s = await longest_stall_s(work)
    await work
    assert 50_000 == len(inventory.targets)
    return stall_s / (time.monotonic() - started_s)


@pytest.fixture
def _heap_of_its_own() -> Iterator[None]:
    """Keep what other tests have left in memory out of collections of garbage, which stall too."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_heap_of_its_own")
async def test_reading_a_large_fleet_does_not_stall_the_loop() -> None:
    body = fleet(50_000)

    # Other processes stall the loop too, but hardly three times in a row.
    ratios = [await stalled_ratio(body) for _ in range(3)]

    assert 0.25 > min(ratios)
