"""Several sources as one fleet: starting, changing, failing, recovering."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exporter.errors import InputError, SourceError
from exporter.inventory import Change, Inventory, Shard, SourceSettings, SourceState, sources_for
from tests.exporter.inventory.fakes import HeldClock, ToldSource, entry, fleet, ids
from tests.exporter.inventory.serving import Answer, InventoryServer
from tests.turning import is_ever_free


def listed(*entries: object) -> bytes:
    return json.dumps(entries).encode()


@asynccontextmanager
async def inventory_of(*texts: str | Path, timeout_s: float = 100.0) -> AsyncIterator[Inventory]:
    settings = SourceSettings(timeout_s=timeout_s)
    inventory = Inventory(sources_for(map(str, texts), settings), clock=HeldClock())
    try:
        yield inventory
    finally:
        await inventory.close()


async def told(*sources: ToldSource) -> Inventory:
    """Return an inventory that has been loaded from sources in the tests' hands."""
    inventory = Inventory(sources, clock=HeldClock())
    await inventory.load()
    return inventory


async def test_files_and_urls_of_every_format_make_one_fleet(
    tmp_path: Path, server: InventoryServer
) -> None:
    (tmp_path / "a.yml").write_text("- {id: d, url: http://h:1}\n- {id: a, host: h, port: 2}\n")
    (tmp_path / "b.json").write_bytes(listed({"targets": ["h:3"], "labels": {"id": "c"}}))
    server.answer = Answer(json.dumps({"instances": [entry("b")]}).encode())

    async with inventory_of(tmp_path / "a.yml", tmp_path / "b.json", server.url) as inventory:
        await inventory.load()

    assert ["a", "b", "c", "d"] == ids(inventory.targets)
    assert [2, 1, 1] == [state.n_instances for state in inventory.states]
    assert all(state.last_reload_successful for state in inventory.states)
    assert {1_000_000.0} == {state.last_success_s for state in inventory.states}


async def test_starting_with_a_missing_and_a_bad_file_tells_all_of_it(
    tmp_path: Path, server: InventoryServer
) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text("- id: a\n  url: http://h:1\n  state: gone\n- id: b\n")
    server.answer = Answer(b"[7]")

    async with inventory_of(tmp_path / "none.yml", bad, server.url) as inventory:
        with pytest.raises(InputError) as caught:
            await inventory.load()

    assert [str(tmp_path / "none.yml"), f"{bad}:3", f"{bad}:4", f"{server.url}[0]"] == [
        problem.place for problem in caught.value.problems
    ]


async def test_starting_with_one_id_in_two_sources_names_both_places(tmp_path: Path) -> None:
    for name in ("1.yml", "2.yml"):
        (tmp_path / name).write_text("- {id: a, url: 'http://h:1'}")

    async with inventory_of(tmp_path / "1.yml", tmp_path / "2.yml") as inventory:
        with pytest.raises(InputError) as caught:
            await inventory.load()

    (problem,) = caught.value.problems
    assert f"{tmp_path}/2.yml:1: id 'a' is also at {tmp_path}/1.yml:1" in str(problem)


@pytest.mark.parametrize("answer", [None, Answer(status=500), Answer(hangs_before_s=60.0)])
async def test_a_url_that_cannot_be_read_at_start_leaves_its_part_empty(
    tmp_path: Path,
    server: InventoryServer,
    answer: Answer | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The provisioner is away, then answers: its instances are added."""
    (tmp_path / "a.json").write_bytes(listed(entry("a")))
    if answer is None:
        await server.stop()
    else:
        server.answer = answer

    async with inventory_of(tmp_path / "a.json", server.url, timeout_s=0.3) as inventory:
        await inventory.load()

        assert ["a"] == ids(inventory.targets)
        assert ["ERROR"] == [record.levelname for record in caplog.records]
        away = inventory.states[1]
        assert (False, 0, 0.0) == (
            away.last_reload_successful,
            away.n_instances,
            away.last_success_s,
        )
        assert away.last_error


async def test_new_is_what_comes_after_the_first_list_of_its_source() -> None:
    first, late = ToldSource("1"), ToldSource("2", may_be_absent=True)
    first.next, late.next = listed(entry("a")), SourceError("no answer")
    inventory = await told(first, late)
    first.next, late.next = listed(entry("a"), entry("b")), listed(entry("c"), entry("d"))
    changes = [await inventory.refresh()]
    first.next, late.next = listed(entry("b")), listed(entry("c"), entry("d"), entry("e"))
    changes.append(await inventory.refresh())

    assert [frozenset("b"), frozenset("e")] == [change.appeared for change in changes]


async def test_a_change_of_a_file_is_told_and_the_rest_stays_the_very_same(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_bytes(listed(entry("a"), entry("b"), entry("c")))
    async with inventory_of(path) as inventory:
        await inventory.load()
        a, b, c = inventory.targets
        path.write_bytes(listed(entry("d"), entry("c", state="draining"), entry("a")))

        change = await inventory.refresh()

    new_a, new_c, d = inventory.targets
    expected = Change(added=(d,), removed=(b,), changed=((c, new_c),), appeared=frozenset({"d"}))
    assert expected == change
    assert new_a is a
    assert ["a", "c", "d"] == ids(inventory.targets)


async def test_nothing_changed_nothing_done(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_bytes(listed(entry("a")))
    async with inventory_of(path) as inventory:
        await inventory.load()
        before = inventory.targets

        assert not await inventory.refresh()
        path.write_bytes(b"\n" + listed(entry("a")))
        assert not await inventory.refresh()

    assert inventory.targets is before


async def test_a_source_that_fails_keeps_its_last_good_list(server: InventoryServer) -> None:
    good = server.answer = Answer(listed(entry("a")), etag='"v1"')
    clock = HeldClock()
    inventory = Inventory(sources_for([server.url]), clock=clock)
    await inventory.load()
    clock.now_s += 30.0
    server.answer = Answer(status=500)

    assert not await inventory.refresh()
    assert ["a"] == ids(inventory.targets)
    assert (
        SourceState(
            source=server.url,
            last_success_s=1_000_000.0,
            last_reload_successful=False,
            n_instances=1,
            last_error=f"{server.url}: answered 500, expected 200",
        )
        == inventory.states[0]
    )
    server.answer = good
    assert not await inventory.refresh()
    assert inventory.states[0].last_reload_successful
    assert 1_000_030.0 == inventory.states[0].last_success_s
    await inventory.close()


@pytest.mark.parametrize(
    "bad", [b"", b"\xff\xfe", b'[{"id": "a"', b"[7]", listed(entry("a"), entry("b", port=0))]
)
async def test_bad_content_keeps_the_last_good_list_until_it_is_mended(bad: bytes) -> None:
    source = ToldSource("f")
    source.next = listed(entry("a"))
    inventory = await told(source)

    source.next = bad
    assert not await inventory.refresh()
    for _ in range(2):  # unchanged bad content stays bad
        assert not await inventory.refresh()
        assert ["a"] == ids(inventory.targets)
        assert not inventory.states[0].last_reload_successful
    source.next = listed(entry("b"))
    change = await inventory.refresh()

    assert ["b"] == ids(change.added)
    assert inventory.states[0].last_reload_successful


async def test_one_line_is_logged_for_each_new_failure_and_one_for_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "exporter.inventory")
    source = ToldSource("f")
    inventory = await told(source)

    for said in (SourceError("is away"), SourceError("is away"), b"[7]", None, b"[]", None):
        source.next = said
        await inventory.refresh()

    assert [
        "inventory source fails, last list kept instances=0: f: is away",
        "inventory source fails, last list kept instances=0: "
        "f:1 [0]: an instance must be an object, got 7",
        "inventory source works again source=f instances=0",
    ] == caplog.messages


async def test_one_url_under_two_ids_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """In one source or in two; an instance behind another path or port is another one."""
    url = "http://h:1"
    others = [entry("c", url="http://h:2"), entry("d", url="http://h:1/x")]
    one, two = ToldSource("one"), ToldSource("two")
    one.next, two.next = listed(entry("a", url=url), *others), listed(entry("b", url=url))
    inventory = await told(one, two)
    for more in ("e", "f"):
        two.next = listed(entry("b", url=url), entry(more))
        await inventory.refresh()

    assert ["one URL under two ids is counted twice n=1 ids=a and b"] == caplog.messages


@pytest.mark.parametrize("error", [RuntimeError("s3cret"), UnicodeError("s3cret"), MemoryError()])
async def test_a_source_that_breaks_in_an_unforeseen_way_keeps_its_last_good_list(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    source = ToldSource("http://h", may_be_absent=True)
    source.next = listed(entry("a"))
    inventory = await told(source)
    for _ in range(2):
        source.next = error
        assert not await inventory.refresh()

    assert ["a"] == ids(inventory.targets)
    (line,) = caplog.messages
    assert f"http://h: a bug: {type(error).__name__} in fakes.py:" in line
    assert "s3cret" not in caplog.text
    source.next = listed(entry("b"))
    assert await inventory.refresh()


async def test_a_list_whose_reading_breaks_in_an_unforeseen_way_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = ToldSource("http://h", may_be_absent=True)
    source.next = listed(entry("a"))
    inventory = await told(source)

    with monkeypatch.context() as patch:
        patch.setattr("exporter.inventory.inventory.targets_of", broken)
        source.next = listed(entry("b"))
        assert not await inventory.refresh()
        assert not await inventory.refresh()  # the same list is not taken for a good one

    assert ["a"] == ids(inventory.targets)
    assert "a bug: RuntimeError in test_inventory.py:" in inventory.states[0].last_error
    source.next = listed(entry("b"))
    assert await inventory.refresh()


def broken(*_: object) -> None:
    raise RuntimeError


async def test_a_refused_list_is_taken_once_the_other_source_lets_go() -> None:
    first, second = ToldSource("1"), ToldSource("2")
    first.next, second.next = listed(entry("a")), listed(entry("b"))
    inventory = await told(first, second)
    first.next = listed(entry("a"), entry("b"))
    await inventory.refresh()
    assert "1:1 [1]: id 'b' is also at 2:1 [0]" in inventory.states[0].last_error

    second.next = b"[]"
    change = await inventory.refresh()

    assert not change
    assert ["a", "b"] == ids(inventory.targets)
    assert inventory.states[0].last_reload_successful


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_an_instance_may_move_between_sources_in_one_step(order: tuple[int, int]) -> None:
    sources = [ToldSource("1"), ToldSource("2")]
    giver, taker = (sources[i] for i in order)
    giver.next = listed(entry("a"))
    inventory = await told(*sources)
    (a,) = inventory.targets

    giver.next, taker.next = b"[]", listed(entry("a"))

    assert not await inventory.refresh()
    assert inventory.targets[0] is a
    assert all(state.last_reload_successful for state in inventory.states)


async def test_a_conflict_does_not_hold_up_a_third_source() -> None:
    sources = [ToldSource("1"), ToldSource("2"), ToldSource("3")]
    sources[0].next = listed(entry("a"))
    inventory = await told(*sources)
    sources[1].next, sources[2].next = listed(entry("a")), listed(entry("c"))

    change = await inventory.refresh()

    assert ["c"] == ids(change.added)
    assert [True, False, True] == [state.last_reload_successful for state in inventory.states]


async def test_a_shard_keeps_its_part_and_the_sources_count_the_whole() -> None:
    source = ToldSource("f")
    source.next = listed(*(entry(f"i{n:03d}") for n in range(100)))
    shard = Shard(1, 3)
    inventory = Inventory([source], shard=shard)

    await inventory.load()

    expected = [f"i{n:03d}" for n in range(100) if shard.holds(f"i{n:03d}")]
    assert expected == ids(inventory.targets)
    assert 100 == inventory.states[0].n_instances


async def test_a_reading_that_was_cancelled_is_made_up_for() -> None:
    """The source has given its new bytes; they are not lost with the one who asked for them."""
    source = ToldSource("f")
    inventory = await told(source)
    source.next = listed(*(entry(f"i{n:04d}") for n in range(2_000)))
    source.was_read.clear()
    refreshing = asyncio.create_task(inventory.refresh())
    await source.was_read.wait()
    refreshing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await refreshing

    change = await inventory.refresh()

    assert 2_000 == len(change.added)


async def test_a_refused_list_is_forgotten_once_its_source_says_something_else() -> None:
    """The second source claimed `a`, then sent nonsense: the old claim must not come true."""
    first, second = ToldSource("1"), ToldSource("2")
    first.next, second.next = listed(entry("a")), listed(entry("b"))
    inventory = await told(first, second)
    second.next = listed(entry("a"))
    await inventory.refresh()
    second.next = b"nonsense"
    await inventory.refresh()
    first.next = b"[]"

    change = await inventory.refresh()

    assert ["a"] == ids(change.removed)
    assert ["b"] == ids(inventory.targets)
    assert not inventory.states[1].last_reload_successful


@pytest.fixture
def _heap_of_its_own() -> Iterator[None]:
    """Keep what other tests have left in memory out of collections of garbage, which stall too."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_heap_of_its_own")
async def test_reading_a_large_fleet_does_not_stall_the_loop() -> None:
    body = fleet(20_000)

    async def read() -> None:
        source = ToldSource("f")
        source.next = body
        inventory = Inventory([source])
        await inventory.load()
        assert 20_000 == len(inventory.targets)

    assert await is_ever_free(read, longest_share=0.25)
