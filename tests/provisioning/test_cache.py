"""What a provisioner knows of the store without asking it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from provisioning.cache import Cache
from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.store.base import (
    NEW,
    Change,
    ChangeRefusal,
    ChangeResult,
    Delete,
    Put,
    PutSpec,
    StoredInstance,
    StoredSpec,
    Term,
    Update,
    View,
)
from provisioning.store.memory import MemoryBackend, MemoryStore
from tests.provisioning.making import instance
from tests.provisioning.virtual import VirtualClock, virtual_run

ONE, TWO = instance(1), instance(2)


class Told:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, int]] = []

    def __call__(self, id_: str, stored: StoredInstance | None) -> None:
        self.changes.append((id_, stored.version if stored else 0))


class UnreliableStore(MemoryStore):
    """A store whose connections end when told so."""

    is_down = False
    refusal: StoreError | None = None
    load_takes_s = 0.0
    """From the state that it shows to its answer."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.n_loads = 0
        self.broken = asyncio.Event()

    async def load(self) -> View:
        if self.is_down:
            raise StoreUnavailableError("down")
        if self.refusal:
            raise self.refusal
        self.n_loads += 1
        view = await super().load()
        await VirtualClock().sleep(self.load_takes_s)
        return view

    async def watch(self, after: int) -> AsyncIterator[Update]:
        updates = super().watch(after)
        while True:
            coming = asyncio.ensure_future(anext(updates))
            broken = asyncio.ensure_future(self.broken.wait())
            try:
                await asyncio.wait({coming, broken}, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    raise StoreUnavailableError("the connection is lost")
                yield coming.result()
            finally:
                coming.cancel()
                broken.cancel()
                await asyncio.gather(coming, broken, return_exceptions=True)


class Scene:
    """A cache of a store that is written to by somebody else."""

    def __init__(self, *, kept_updates: int = 100) -> None:
        self.backend = MemoryBackend(kept_updates=kept_updates)
        self.term: Term = self.backend.begin_term("somebody").term
        self.store = UnreliableStore(self.backend)
        self.cache = Cache(self.store, VirtualClock())
        self.told = Told()
        self.cache.listen(self.told)

    def write(self, *changes: Change) -> tuple[ChangeResult, ...]:
        return self.backend.commit(changes, self.term)

    def write_own(self, *changes: Change) -> tuple[ChangeResult, ...]:
        done = self.write(*changes)
        self.cache.apply_local_write(changes, done)
        return done

    @property
    def is_true(self) -> bool:
        """Say whether the cache has what the store has."""
        view = self.cache.view
        return view is not None and dict(view.stored) == self.backend.stored

    async def follow(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.cache.follow())
        await VirtualClock().sleep(0.1)
        return task


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_there_is_no_view_before_the_first() -> None:
    async def scene() -> None:
        made = Scene()
        assert None is made.cache.view
        await made.cache.load()
        assert made.is_true

    virtual_run(scene())


def test_what_others_write_is_seen_and_reported() -> None:
    async def scene() -> None:
        made = Scene()
        made.write(Put(ONE, NEW))
        task = await made.follow()
        made.write(Put(TWO, NEW), PutSpec("spec", NEW))
        made.write(Delete(ONE.id, 1))
        await VirtualClock().sleep(0.1)

        assert made.is_true
        assert StoredSpec("spec", 2) == made.cache.spec
        assert [(ONE.id, 1), (TWO.id, 2), (ONE.id, 0)] == made.told.changes
        await ended(task)

    virtual_run(scene())


def test_a_view_does_not_change_any_more_once_it_was_given() -> None:
    async def scene() -> None:
        made = Scene()
        await made.cache.load()
        before = made.cache.view
        made.write_own(Put(ONE, NEW))

        assert before
        assert {} == before.stored
        assert made.cache.view is made.cache.view
        assert made.cache.view is not before

    virtual_run(scene())


def test_what_this_process_writes_is_seen_at_once() -> None:
    async def scene() -> None:
        made = Scene()
        await made.cache.load()
        made.write_own(Put(ONE, NEW), Put(TWO, NEW), PutSpec("spec", NEW))
        assert made.is_true
        assert StoredSpec("spec", 1) == made.cache.spec

        made.write_own(Delete(ONE.id, 1))

        assert made.is_true
        assert [(ONE.id, 1), (TWO.id, 1), (ONE.id, 0)] == made.told.changes

    virtual_run(scene())


def test_what_was_refused_is_not_taken_over() -> None:
    async def scene() -> None:
        made = Scene()
        await made.cache.load()

        done = made.write_own(Put(ONE, 77))

        assert (ChangeResult(refusal=ChangeRefusal.CONFLICT),) == done
        assert [] == made.told.changes

    virtual_run(scene())


def test_load_tells_what_has_changed_and_what_is_gone() -> None:
    async def scene() -> None:
        made = Scene()
        made.write(Put(ONE, NEW), Put(TWO, NEW))
        await made.cache.load()
        made.told.changes.clear()
        made.write(Put(replace(ONE, fault="x"), 1), Delete(TWO.id, 1))

        await made.cache.load()

        assert [(TWO.id, 0), (ONE.id, 2)] == made.told.changes
        await made.cache.load()
        assert 2 == len(made.told.changes)

    virtual_run(scene())


def test_what_the_watch_tells_while_it_loads_is_newer_than_what_is_loaded() -> None:
    async def scene() -> None:
        made = Scene()
        task = await made.follow()
        made.write(PutSpec("old", NEW), Put(ONE, NEW), Put(TWO, NEW))
        await VirtualClock().sleep(1.0)
        made.store.load_takes_s = 10.0

        loading = asyncio.create_task(made.cache.load())
        await VirtualClock().sleep(5.0)
        made.write(PutSpec("new", 1), Put(replace(ONE, fault="x"), 1), Delete(TWO.id, 1))
        await loading

        assert StoredSpec("new", 2) == made.cache.spec
        assert made.is_true
        assert made.cache.view
        assert 2 == made.cache.view.revision
        await ended(task)

    virtual_run(scene())


def test_a_load_that_takes_longer_does_not_undo_one_that_has_begun_later() -> None:
    async def scene() -> None:
        made = Scene()
        made.store.load_takes_s = 10.0
        slow = asyncio.create_task(made.cache.load())
        await VirtualClock().sleep(1.0)
        made.write(PutSpec("new", NEW))
        made.store.load_takes_s = 0.0
        await made.cache.load()
        await slow

        assert StoredSpec("new", 1) == made.cache.spec

    virtual_run(scene())


def test_a_store_that_cannot_be_read_is_followed_again_once_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        made = Scene()
        task = await made.follow()
        made.store.refusal = StoreError("cannot read the record x")
        made.store.broken.set()
        await VirtualClock().sleep(10.0)
        made.store.broken.clear()
        made.write(Put(ONE, NEW))

        made.store.refusal = None
        await VirtualClock().sleep(2.0)

        assert made.is_true
        await ended(task)

    virtual_run(scene())

    assert "cannot read the record x" in caplog.text


def test_a_store_that_could_never_be_read_is_said_to_who_follows_it() -> None:
    async def scene() -> None:
        made = Scene()
        made.store.refusal = StoreError("it is no store")
        with pytest.raises(StoreError, match="it is no store"):
            await made.cache.follow()

    virtual_run(scene())


def test_after_a_lost_connection_it_catches_up_and_its_age_says_how_old_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        made, clock = Scene(), VirtualClock()
        task = await made.follow()
        await clock.sleep(100.0)
        assert clock.unix_s() == made.cache.as_of_s

        made.store.is_down = True
        made.store.broken.set()
        await clock.sleep(60.0)
        made.write(Put(ONE, NEW))
        # So old, and not as old as the last write: it was known to be current until then.
        assert clock.unix_s() - 60.0 == pytest.approx(made.cache.as_of_s, abs=1.0)
        assert not made.is_true

        made.store.broken.clear()
        made.store.is_down = False
        await clock.sleep(3.0)
        assert made.is_true
        assert clock.unix_s() == made.cache.as_of_s
        await ended(task)

    virtual_run(scene())

    assert [
        "store unreachable, the view gets old failed=1 of=1 for_s=0: the connection is lost",
        "store followed again after_s=60",
    ] == caplog.messages


def test_what_was_forgotten_meanwhile_is_loaded_again() -> None:
    async def scene() -> None:
        made = Scene(kept_updates=2)
        task = await made.follow()
        for number in range(1, 9):
            made.write(Put(instance(number), NEW))
        await VirtualClock().sleep(3.0)

        assert made.is_true
        assert 2 == made.store.n_loads
        await ended(task)

    virtual_run(scene())


class History:
    """Writes of this process and of others, whose answers and updates arrive late."""

    IDS = ("chat-00001", "chat-00002", "chat-00003")

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311
        self.made = Scene()
        self.answers: list[tuple[tuple[Change, ...], tuple[ChangeResult, ...]]] = []
        self.updates: list[Update] = []

    def write(self, *, is_own: bool) -> None:
        """Change a record or the specification, as the writer knows it."""
        backend, cache, id_ = self.made.backend, self.made.cache, self.dice.choice(self.IDS)
        known = (cache if is_own else backend).stored.get(id_)
        change: Change
        if self.dice.random() < 0.2:
            spec = (cache if is_own else backend).spec
            change = PutSpec(str(self.dice.random()), spec.version if spec else NEW)
        elif known and self.dice.random() < 0.5:
            change = Delete(id_, known.version)
        else:
            one = instance(self.IDS.index(id_) + 1, n_failures=self.dice.randrange(99))
            change = Put(one, known.version if known else NEW)
        done = self.made.write(change)
        if is_own:
            self.answers.append(((change,), done))
        if done[0].refusal:
            return
        stored = tuple(one for one in (backend.stored.get(id_),) if one)
        gone = () if stored else (id_,)
        is_spec = isinstance(change, PutSpec)
        self.updates.append(
            Update(backend.revision, () if is_spec else stored, () if is_spec else gone,
                   backend.spec if is_spec else None)
        )  # fmt: skip

    def answer(self) -> None:
        """Hear of one of our writes, not always the first."""
        if self.answers:
            answer = self.answers.pop(self.dice.randrange(len(self.answers)))
            self.made.cache.apply_local_write(*answer)

    def watch(self) -> None:
        """Hear of the next writes in one update, as SQLite tells them: what came back was there."""
        n = self.dice.randrange(1, 4)
        some, self.updates = self.updates[:n], self.updates[n:]
        stored: dict[str, StoredInstance] = {}
        deleted: dict[str, None] = {}
        spec = None
        for update in some:
            spec = update.spec or spec
            for one in update.stored:
                stored[one.instance.id] = one
                deleted.pop(one.instance.id, None)
            for id_ in update.deleted:
                stored.pop(id_, None)
                deleted[id_] = None
        if some:
            revision = some[-1].revision
            self.made.cache.take(Update(revision, tuple(stored.values()), tuple(deleted), spec))


def test_however_late_answers_and_updates_come_the_cache_becomes_what_the_store_is() -> None:
    async def scene(seed: int) -> None:
        history = History(seed)
        cache, backend = history.made.cache, history.made.backend
        await cache.load()
        for _ in range(30):
            kind = history.dice.randrange(6)
            if kind < 3:
                history.write(is_own=kind > 0)
            elif kind == 3:
                history.answer()
            elif kind == 4:
                history.watch()
            elif not history.dice.randrange(5):
                await cache.load()
        while history.answers or history.updates:
            (history.answer if history.dice.random() < 0.5 else history.watch)()

        last_told = dict(history.made.told.changes)
        newest: dict[str, int] = {}
        for id_, version in history.made.told.changes:
            assert not version or version > newest.get(id_, 0), seed  # nothing old comes back
            newest[id_] = max(version, newest.get(id_, 0))
        known = {id_: one.version for id_, one in cache.stored.items()}
        assert (backend.stored, backend.spec) == (cache.stored, cache.spec), seed
        assert known == {id_: n for id_, n in last_told.items() if n}, seed

    for seed in range(300):
        virtual_run(scene(seed))
