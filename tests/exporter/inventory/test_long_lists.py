"""Large fleets are read, and nothing else waits for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from exporter.inventory import Inventory
from exporter.inventory.entries import targets_of
from exporter.inventory.formats import Format, records
from tests.exporter.inventory.fakes import ToldSource
from tests.exporter.inventory.lists import fleet
from tests.turning import is_ever_free


@pytest.mark.parametrize("form", Format)
def test_ten_thousand_entries_are_read(form: Format) -> None:
    targets = targets_of(records(fleet(10_000), "f", form), "f")

    assert 10_000 == len({target.id for target in targets})


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

    async def read() -> None:
        source = ToldSource("f")
        source.next = body
        inventory = Inventory([source])
        await inventory.load()
        assert 50_000 == len(inventory.targets)

    assert await is_ever_free(read, longest_share=0.25)
