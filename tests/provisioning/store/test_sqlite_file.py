"""The file itself: who may read it, what is wrong with it, and how long it is waited for."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import CompactedError, StoreError, StoreUnavailableError
from provisioning.store.base import NEW, Delete, Put
from provisioning.store.sqlite.database import Database
from provisioning.store.sqlite.leadership import SqliteLeadership
from provisioning.store.sqlite.store import SqliteStore
from tests.provisioning.store.examples import (
    PATIENCE_S,
    Opened,
    applied,
    content,
    instance,
    instances,
    leading,
    put,
    watched,
)
from tests.turning import is_ever_free
from tests.waiting import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[Opened]:
    store = SqliteStore(path, "test", clock=SystemClock())
    yield store, leadership_of(store)
    await store.close()


def leadership_of(store: SqliteStore) -> SqliteLeadership:
    return SqliteLeadership(store.writer, holder="alice", clock=SystemClock())


async def error_of(path: Path, fleet: str = "test") -> StoreError:
    store = SqliteStore(path, fleet, clock=SystemClock())
    with pytest.raises(StoreError) as caught:
        await store.load()
    await store.close()
    return caught.value


async def test_only_its_owner_may_read_the_file(opened: Opened, path: Path) -> None:
    umask = os.umask(0)
    try:
        async with leading(opened) as (store, term):
            await put(store, term, instance())
            modes = {
                one.name: oct(stat.S_IMODE(one.stat().st_mode)) for one in path.parent.iterdir()
            }
    finally:
        os.umask(umask)

    names = ("fleet.db", "fleet.db-wal", "fleet.db-shm", "fleet.db.lock")
    assert dict.fromkeys(names, "0o600") == modes


async def test_the_file_is_kept(path: Path) -> None:
    first = SqliteStore(path, "test", clock=SystemClock())
    async with leading((first, leadership_of(first))) as (store, term):
        await put(store, term, instance())
        before = await store.load()
    await first.close()

    second = SqliteStore(path, "test", clock=SystemClock())
    assert before == await second.load()
    await second.close()


async def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    error = await error_of(tmp_path / "missing" / "fleet.db")

    assert "missing/fleet.db: No such file or directory; see that its folder exists" in str(error)
    assert not isinstance(error, StoreUnavailableError)


async def test_a_file_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    """A folder, as root may write every file."""
    assert "Is a directory; see that its folder exists and may be" in str(await error_of(tmp_path))


async def test_a_leader_without_a_place_for_its_lock_is_told(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "missing" / "fleet.db", "test", clock=SystemClock())

    with pytest.raises(StoreError, match=r"cannot open the lock .*fleet\.db\.lock: No such file"):
        async with leadership_of(store).lead():
            pass
    assert await leadership_of(store).leader() is None
    await store.close()


async def test_a_file_system_that_refuses_locks_is_told_and_hides_who_leads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network share does whose lock service is away."""

    def refuse(_descriptor: int, _kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = SqliteStore(path, "test", clock=SystemClock())

    assert await leadership_of(store).leader() is None
    with pytest.raises(StoreError, match=r"cannot take the lock .*\.lock: No locks available; see"):
        async with leadership_of(store).lead():
            pass
    await store.close()


async def test_a_file_that_is_no_database_is_told_and_left_alone(path: Path) -> None:
    path.write_bytes(b"name: demo\n" * 100)

    assert "file is not a database; it is no SQLite file" in str(await error_of(path))
    assert b"name: demo\n" * 100 == path.read_bytes()


async def test_a_database_of_another_program_is_told_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")

    assert "is a SQLite file of another program" in str(await error_of(path))
    with closing(sqlite3.connect(path)) as connection:
        assert [("theirs",)] == connection.execute("SELECT name FROM sqlite_master").fetchall()


async def test_a_later_schema_is_told(opened: Opened, path: Path) -> None:
    await opened[0].load()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")

    assert "has schema 2, and this release knows schema 1 only" in str(await error_of(path))


async def test_another_fleets_file_is_told(opened: Opened, path: Path) -> None:
    await opened[0].load()

    error = await error_of(path, fleet="other")

    assert "holds the fleet 'test', not 'other'; name a file for each fleet" in str(error)


async def test_a_damaged_file_is_told(path: Path) -> None:
    first = SqliteStore(path, "test", clock=SystemClock())
    async with leading((first, leadership_of(first))) as (store, term):
        await put(store, term, *instances(1000))
    await first.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))

    error = await error_of(path)

    help_ = f"stop the provisioner, remove {path}-wal and {path}-shm, put a backup in its place"
    assert f"malformed; the file is damaged: {help_}" in str(error)
    assert not isinstance(error, StoreUnavailableError)


async def test_a_full_disk_is_told_and_heals(opened: Opened, path: Path) -> None:
    store, leadership = opened
    assert isinstance(store, SqliteStore)
    async with leadership.lead() as current:
        await put(store, current.term, instance("a", port=1))
        before = await store.load()
        await store.writer.run(lambda db: db.execute("PRAGMA max_page_count = 20"), doing="limit")
        many = [Put(one, NEW) for one in instances(1000, first_port=2)]

        with pytest.raises(StoreUnavailableError, match=r"disk is full; free some space"):
            await store.commit(many, term=current.term)

        assert before == await store.load()
        done = await store.commit(many, term=current.term)
        assert {None} == {one.refusal for one in done}


async def test_a_file_that_another_program_keeps_locked_is_told_in_time(path: Path) -> None:
    database = Database(path, "test", busy_timeout_s=0.2)
    timeout_ms = await database.run(
        lambda db: db.execute("PRAGMA busy_timeout").fetchone()[0], doing="read"
    )
    assert 200 == timeout_ms
    with locked(path):
        begun_s = time.monotonic()

        with pytest.raises(StoreUnavailableError, match=r"cannot write .* is locked; see which"):
            await database.run(lambda db: db.execute("BEGIN IMMEDIATE"), doing="write")

        assert time.monotonic() - begun_s > 0.15
    await database.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_the_event_loop_goes_on_during_a_large_commit(opened: Opened) -> None:
    async with leading(opened) as (store, term):

        async def commit() -> None:
            made = await put(store, term, *instances(30_000))
            await store.commit([Delete(one.instance.id, one.version) for one in made], term=term)

        assert await is_ever_free(commit, longest_share=0.5)


async def test_reading_does_not_wait_for_who_writes(opened: Opened, path: Path) -> None:
    before = await opened[0].load()

    with locked(path):
        # Who waited would never have it: the lock is kept until afterwards.
        async with asyncio.timeout(PATIENCE_S):
            assert before == await opened[0].load()


async def test_deletions_are_forgotten_in_the_end(path: Path) -> None:
    """A watch from before them has to load again; one from after them goes on."""
    kept = SqliteStore(path, "test", clock=SystemClock(), kept_deletions=3)
    async with leading((kept, leadership_of(kept))) as (store, term):
        made = await put(store, term, *instances(8))
        views = [await store.load()]
        for one in made[:6]:
            await store.commit([Delete(one.instance.id, one.version)], term=term)
            views.append(await store.load())

        for view in views[:3]:
            with pytest.raises(CompactedError, match="load again"):
                await anext(store.watch(view.revision))
        for view in views[3:6]:
            updates = await watched(store, view.revision, bool)
            assert content(views[-1]) == content(applied(view, updates))
    await kept.close()


async def test_a_watch_from_the_future_has_to_load_again(opened: Opened) -> None:
    """An older copy of the file was put in its place."""
    store, _ = opened
    revision = (await store.load()).revision

    with pytest.raises(CompactedError):
        await anext(store.watch(revision + 1))


async def test_a_leader_whose_lock_file_was_removed_learns_that_another_leads(
    opened: Opened, path: Path
) -> None:
    async with opened[1].lead() as current:
        path.with_name("fleet.db.lock").unlink()
        other = SqliteStore(path, "test", clock=SystemClock())
        async with leading((other, leadership_of(other))) as (_, term):
            assert term.epoch > current.term.epoch

            await asyncio.wait_for(current.lost(), PATIENCE_S)
        await other.close()


async def test_leaving_late_does_not_end_the_term_of_another(opened: Opened, path: Path) -> None:
    late = SqliteStore(path, "test", clock=SystemClock())
    async with AsyncExitStack() as leaving:
        await leaving.enter_async_context(leadership_of(late).lead())
        path.with_name("fleet.db.lock").unlink()
        async with leading(opened) as (store, term):
            await leaving.aclose()

            await put(store, term, instance())
    await late.close()


class PacedClock(SystemClock):
    """Counts how often somebody waits, by how long."""

    def __init__(self) -> None:
        self.waits: Counter[float] = Counter()

    async def sleep(self, duration_s: float) -> None:
        self.waits[duration_s] += 1
        await super().sleep(duration_s)


async def test_nothing_is_looked_at_more_often_than_it_must(path: Path) -> None:
    clock = PacedClock()
    store = SqliteStore(path, "test", clock=clock, look_every_s=0.05)
    leadership = SqliteLeadership(store.writer, holder="alice", clock=clock)
    begun_s = clock.monotonic_s()
    async with leadership.lead():
        start = await store.load()
        watching = asyncio.ensure_future(watched(store, start.revision, bool))

        await asyncio.sleep(0.5)
        await eventually(lambda: clock.waits[0.05] >= 2)

        watching.cancel()
    elapsed_s = clock.monotonic_s() - begun_s
    await store.close()
    assert {0.05, 1.0} == set(clock.waits)
    assert 1 <= clock.waits[1.0] <= 1 + elapsed_s
    assert clock.waits[0.05] <= 1 + elapsed_s / 0.05


# A file that is lost while a provisioner has it open


def remove(path: Path) -> None:
    """Do as `rm fleet.db fleet.db-*` does."""
    for name in ("fleet.db", "fleet.db-wal", "fleet.db-shm"):
        path.with_name(name).unlink(missing_ok=True)


def replace(path: Path) -> None:
    """Put a copy in its place, as somebody does who restores a backup in a hurry."""
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
    store, leadership = opened
    words = rf"cannot use .*fleet\.db: {seen} since .*; stop the provisioner, move the file back"
    async with leadership.lead() as current:
        await put(store, current.term, instance("a", port=1))
        lose(path)

        for _ in range(2):
            with pytest.raises(StoreError, match=words) as caught:
                await put(store, current.term, instance("b", port=2))
            assert not isinstance(caught.value, StoreUnavailableError)
        with pytest.raises(StoreError, match=words):
            await store.load()
        await asyncio.wait_for(current.lost(), PATIENCE_S)
