"""A file that is removed or replaced while it is in use: nothing more is acknowledged."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.store.base import LeaderSession
from provisioning.store.opening import open_store
from provisioning.store.sqlite.database import Place
from provisioning.store.sqlite.store import SqliteStore
from tests.provisioning.store.examples import PATIENCE_S, Opened, instance, leading, put
from tests.provisioning.store.leaders import leader
from tests.waiting import eventually

SIDE_FILES = ("fleet.db", "fleet.db-wal", "fleet.db-shm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[Opened]:
    async with AsyncExitStack() as stack:
        yield open_one(path, stack)


def open_one(path: Path, stack: AsyncExitStack, holder: str = "alice") -> Opened:
    store, leadership = open_store(f"sqlite:{path}", "test", clock=SystemClock(), holder=holder)
    stack.push_async_callback(store.close)
    return store, leadership


def remove(path: Path) -> None:
    """Do as `rm fleet.db fleet.db-*` does; the lock stays."""
    for name in SIDE_FILES:
        path.with_name(name).unlink(missing_ok=True)


def replace(path: Path) -> None:
    """Put a copy in its place, as somebody does who restores a backup without a thought."""
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


@pytest.mark.parametrize(
    ("lose", "seen"),
    [(remove, "it was removed"), (replace, "another file is in its place")],
)
async def test_nothing_is_acknowledged_once_the_file_is_lost(
    opened: Opened, path: Path, lose: Callable[[Path], None], seen: str
) -> None:
    store, leads = opened
    words = rf"cannot use .*fleet\.db: {seen}.* lost; stop the provisioner, "
    words += rf"move the file back or remove {path}-wal and {path}-shm, put a backup in its place"
    async with leads.lead() as current:
        await put(store, current.term, instance("a", port=1))
        lose(path)

        for _ in range(2):
            with pytest.raises(StoreError, match=words) as caught:
                await put(store, current.term, instance("b", port=2))
            assert not isinstance(caught.value, StoreUnavailableError)
        with pytest.raises(StoreError, match=words):
            await store.load()


async def test_a_leader_that_has_nothing_to_write_learns_of_it_and_does_not_lead_again(
    opened: Opened, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, leadership = opened
    async with leadership.lead() as current:
        remove(path)

        await asyncio.wait_for(current.lost(), PATIENCE_S)

    assert "the term ends: cannot use" in caplog.text
    with pytest.raises(StoreError, match="it was removed"):
        async with leadership.lead():
            pass
    assert not path.exists()


async def test_a_file_that_was_moved_away_and_comes_back_is_the_same(
    opened: Opened, path: Path
) -> None:
    async with leading(opened) as (store, term):
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(StoreError, match="it was removed"):
            await put(store, term, instance("a", port=1))

        path.with_name("elsewhere").rename(path)

        assert await put(store, term, instance("b", port=2))


async def test_a_file_that_could_never_be_opened_may_be_replaced_by_a_good_one(
    opened: Opened, path: Path
) -> None:
    path.write_bytes(b"no database at all\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        await opened[0].load()
    assert path not in held_files()

    path.unlink()

    async with leading(opened) as (store, term):
        assert await put(store, term, instance())


async def test_a_new_file_is_not_taken_for_one_that_was_closed_after_an_error(
    opened: Opened, path: Path
) -> None:
    """Some file systems number a new file as a removed one that nobody holds."""
    store, _ = opened
    assert isinstance(store, SqliteStore)
    with pytest.raises(StoreError, match="syntax error"):
        await store.writer.run(lambda db: db.execute("nonsense"), doing="write")

    number = path.stat().st_ino
    remove(path)
    made_with_number(number, path.parent).rename(path)

    with pytest.raises(StoreError, match="another file is in its place"):
        await store.load()


def made_with_number(number: int, folder: Path) -> Path:
    """Return a new file of that inode, or of any other where there is none to be had."""
    for n in range(500):
        made = folder / f"new-{n}"
        made.touch()
        if made.stat().st_ino == number:
            break
    return made


async def test_whoever_has_closed_the_store_holds_no_file_of_it(opened: Opened, path: Path) -> None:
    async with leading(opened) as (store, _):
        await store.load()
        assert path in held_files()

    await store.close()

    assert not {one for one in held_files() if one.parent == path.parent}


def held_files() -> set[Path]:
    """Return the files that this process has open, whichever way."""
    descriptors = Path("/proc/self/fd")
    held = set()
    for one in descriptors.iterdir():
        with suppress(FileNotFoundError):  # what has listed them is among them
            held.add(one.readlink())
    return held


async def test_what_went_into_a_file_that_is_lost_meanwhile_is_not_acknowledged(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed between the look before the commit and the commit."""
    check = Place.check

    def check_then_lose(place: Place) -> None:
        check(place)
        remove(path)

    async with leading(opened) as (store, term):
        monkeypatch.setattr(Place, "check", check_then_lose)
        with pytest.raises(StoreError, match="it was removed"):
            await put(store, term, instance())
        monkeypatch.undo()


async def test_a_file_that_is_lost_is_not_made_again(
    opened: Opened, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed between the look and the moment in which the second connection opens it."""
    check = Place.check

    def check_then_lose(place: Place) -> None:
        check(place)
        remove(path)

    async with leading(opened) as (store, _):
        monkeypatch.setattr(Place, "check", check_then_lose)
        with pytest.raises(StoreError):
            await store.load()
        monkeypatch.undo()
        assert not path.exists()


async def test_a_lock_that_is_lost_before_it_is_had_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = path.with_name("fleet.db.lock")
    take = fcntl.flock
    losses = [lock]

    def lose_then_take(descriptor: int, kind: int) -> None:
        if losses:
            losses.pop().unlink()
        take(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", lose_then_take)
    async with AsyncExitStack() as stack:
        alice, bob = (open_one(path, stack, name)[1] for name in ("alice", "bob"))
        await stack.enter_async_context(alice.lead())

        assert "alice" == await bob.leader()


async def test_two_that_name_one_file_by_different_paths_never_both_lead(path: Path) -> None:
    """The lock lies beside the file, not beside a link to it."""
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with AsyncExitStack() as stack:
        alice, bob = open_one(path, stack), open_one(link, stack, "bob")
        await stack.enter_async_context(alice[1].lead())

        assert "alice" == await bob[1].leader()
        waiting = asyncio.ensure_future(stack.enter_async_context(bob[1].lead()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.6)


@pytest.mark.parametrize("lose", [os.unlink, replace])
async def test_a_leader_whose_lock_is_lost_leads_anew_with_the_right_one(
    opened: Opened,
    path: Path,
    lose: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, leadership = opened
    lock = path.with_name("fleet.db.lock")
    async with leadership.lead() as current:
        lose(lock)
        await asyncio.wait_for(current.lost(), PATIENCE_S)

    assert "cannot keep the lock" in caplog.text
    assert [logging.ERROR] == [one.levelno for one in caplog.records]
    async with leadership.lead() as next_one:
        assert current.term.epoch < next_one.term.epoch
        await put(store, next_one.term, instance())


async def test_a_lock_that_nobody_finds_is_not_one_to_lead_by(path: Path) -> None:
    """Bob waits for Alice's lock; it is removed, Eve takes the new one, and Alice ends."""
    async with AsyncExitStack() as stack:
        alice, bob, eve = (open_one(path, stack, name)[1] for name in ("alice", "bob", "eve"))
        first = AsyncExitStack()
        await first.enter_async_context(alice.lead())
        waiting = asyncio.ensure_future(stack.enter_async_context(bob.lead()))
        await asyncio.sleep(0)
        path.with_name("fleet.db.lock").unlink()
        second = AsyncExitStack()
        await second.enter_async_context(eve.lead())

        await first.aclose()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.6)
        assert not waiting.done()
        assert "eve" == await eve.leader()

        await second.aclose()
        current: LeaderSession = await asyncio.wait_for(waiting, PATIENCE_S)
        assert "bob" == current.term.holder


async def test_two_processes_never_both_write_after_all_files_were_removed(
    opened: Opened, path: Path
) -> None:
    """Alice is a process of her own; Bob begins with nothing, and when he ends she refuses to."""
    async with leader(f"sqlite:{path}", "test", "alice") as alice:
        await alice.says("wrote")
        for one in path.parent.glob("fleet.db*"):
            one.unlink()
        async with leading(opened) as (store, term):
            assert 1 == term.epoch
            await alice.says("lost")
            n_said = len(alice.said)

            await put(store, term, instance("of-bob"))

            assert ["of-bob"] == list((await store.load()).stored)
        await eventually(lambda: alice.is_silent)
        assert not [line for line in alice.said[n_said:] if line.startswith("wrote")]
