from __future__ import annotations

import asyncio

from exporter.ui.handlers import MAX_KEPT, ResultCache


class Workshop:
    """Makes numbered things, and can be held up."""

    def __init__(self) -> None:
        self.n_made = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def make(self) -> object:
        await self.gate.wait()
        self.n_made += 1
        return self.n_made


async def test_what_was_made_is_kept_for_the_revision_and_what_was_wanted() -> None:
    shared, shop = ResultCache(), Workshop()

    made = [await shared.get(7, "a", shop.make) for _ in range(3)]
    other = await shared.get(7, "b", shop.make)
    later = await shared.get(8, "a", shop.make)

    assert ([1, 1, 1], 2, 3) == (made, other, later)
    assert "<ResultCache: 1 of revision 8>" == repr(shared)


async def test_who_asks_meanwhile_waits_for_the_same() -> None:
    shared, shop = ResultCache(), Workshop()
    shop.gate.clear()
    asking = [asyncio.create_task(shared.get(1, "a", shop.make)) for _ in range(5)]
    await asyncio.sleep(0)
    shop.gate.set()

    assert [1] * 5 == await asyncio.gather(*asking)


async def test_where_the_first_leaves_the_next_makes_it() -> None:
    shared, shop = ResultCache(), Workshop()
    shop.gate.clear()
    leaving, staying = [asyncio.create_task(shared.get(1, "a", shop.make)) for _ in range(2)]
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    shop.gate.set()

    assert 1 == await staying


async def test_of_many_questions_only_the_last_are_kept() -> None:
    shared, shop = ResultCache(), Workshop()
    for wanted in range(MAX_KEPT + 1):
        await shared.get(1, wanted, shop.make)

    assert MAX_KEPT + 1 == await shared.get(1, MAX_KEPT, shop.make)
    assert MAX_KEPT + 2 == await shared.get(1, 0, shop.make)
    assert f"<ResultCache: {MAX_KEPT} of revision 1>" == repr(shared)
