"""What every store and every leadership promises.

A test class of each store takes over `StoreContract` and gives the fixture `open_one`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack

import msgspec
import pytest

from provisioning.errors import FencedError, StoreUnavailableError
from provisioning.model import Phase
from provisioning.store.base import (
    NEW,
    Change,
    ChangeRefusal,
    ChangeResult,
    Delete,
    Put,
    PutSpec,
    Store,
    StoredInstance,
    Term,
)
from tests.provisioning.store.examples import (
    PATIENCE_S,
    Open,
    applied,
    commit_one,
    content,
    instance,
    instances,
    leading,
    put,
    rich_instance,
    watched,
)

CONFLICT = ChangeResult(refusal=ChangeRefusal.CONFLICT)
PORT_TAKEN = ChangeResult(refusal=ChangeRefusal.PORT_TAKEN)


class StoreContract:
    """Promises about records, ports, terms, watches and leadership."""

    is_never_closed: bool = False

    # Records and versions

    async def test_a_new_store_is_empty(self, open_one: Open) -> None:
        store, _ = open_one("alice")

        view = await store.load()

        assert {} == view.stored
        assert view.spec is None

    async def test_a_record_comes_back_as_it_was_put(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            made = await put(store, term, instance(), rich_instance())

            view = await store.load()

            assert {one.instance.id: one for one in made} == view.stored
            assert all(one.version > NEW for one in made)
            assert [instance(), rich_instance()] == [one.instance for one in made]

    async def test_another_store_sees_what_was_written(self, open_one: Open) -> None:
        other, _ = open_one("bob")
        async with leading(open_one("alice")) as (store, term):
            (made,) = await put(store, term, instance())

            assert {made.instance.id: made} == (await other.load()).stored

    async def test_a_write_with_the_present_version_replaces_the_record(
        self, open_one: Open
    ) -> None:
        async with leading(open_one("alice")) as (store, term):
            (made,) = await put(store, term, instance())
            changed = msgspec.structs.replace(made.instance, phase=Phase.RUNNING)

            done = await commit_one(store, term, Put(changed, made.version))

            assert done.version > made.version
            view = await store.load()
            assert {changed.id: StoredInstance(changed, done.version)} == view.stored

    async def test_a_write_with_another_version_changes_nothing(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            (old,) = await put(store, term, instance())
            present = await commit_one(store, term, Put(old.instance, old.version))
            before = content(await store.load())
            changed = msgspec.structs.replace(old.instance, phase=Phase.RUNNING, port=20_001)
            refused: list[Change] = [
                Put(changed, old.version),
                Put(changed, NEW),
                Put(changed, present.version + 1),
                Put(instance("missing", port=1), old.version),
                Delete(old.instance.id, old.version),
                Delete(old.instance.id, NEW),
                Delete("missing", old.version),
                Delete("missing", NEW),
            ]

            done = [await commit_one(store, term, change) for change in refused]

            assert [CONFLICT] * len(refused) == done
            assert before == content(await store.load())

    async def test_a_deleted_record_is_gone(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            gone, kept = await put(store, term, instance("a", port=1), instance("b", port=2))

            done = await commit_one(store, term, Delete("a", gone.version))

            assert ChangeResult() == done
            assert {"b": kept} == (await store.load()).stored

    async def test_a_version_never_comes_back(self, open_one: Open) -> None:
        """A record that was deleted and made again is not taken for the old one."""
        async with leading(open_one("alice")) as (store, term):
            (old,) = await put(store, term, instance())
            await commit_one(store, term, Delete(old.instance.id, old.version))
            (new,) = await put(store, term, instance())

            assert new.version > old.version
            assert CONFLICT == await commit_one(store, term, Put(instance(), old.version))

    async def test_one_refused_change_does_not_hold_up_the_others(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            await put(store, term, instance("taken", port=1))
            changes = [
                Put(instance("a", port=2), NEW),
                Put(instance("b", port=1), NEW),
                Put(instance("taken", port=3), NEW),
                Put(instance("c", port=4), NEW),
            ]

            done = await store.commit(changes, term=term)

            assert [None, ChangeRefusal.PORT_TAKEN, ChangeRefusal.CONFLICT, None] == [
                one.refusal for one in done
            ]
            assert {"taken", "a", "c"} == set((await store.load()).stored)

    async def test_a_commit_of_nothing_does_nothing(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            before = content(await store.load())

            assert () == await store.commit([], term=term)
            assert before == content(await store.load())

    async def test_each_write_makes_a_greater_revision(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            revisions = [(await store.load()).revision]
            for n in range(3):
                await put(store, term, instance(f"chat-{n}", port=n + 1))
                revisions.append((await store.load()).revision)

            assert sorted(set(revisions)) == revisions

    # The specification

    async def test_the_specification_comes_back_as_it_was_put(self, open_one: Open) -> None:
        text = "name: flöße 😀\n# «comment»\0\n" + "x" * 100_000
        async with leading(open_one("alice")) as (store, term):
            done = await commit_one(store, term, PutSpec(text, NEW))

            spec = (await store.load()).spec

            assert spec is not None
            assert (text, done.version) == (spec.text, spec.version)

    async def test_a_specification_with_another_version_is_refused(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            first = await commit_one(store, term, PutSpec("one", NEW))
            second = await commit_one(store, term, PutSpec("two", first.version))

            refused = [
                await commit_one(store, term, PutSpec("three", version))
                for version in (NEW, first.version, second.version + 1)
            ]

            assert [CONFLICT] * 3 == refused
            spec = (await store.load()).spec
            assert spec is not None
            assert ("two", second.version) == (spec.text, spec.version)

    # Ports

    async def test_a_port_of_a_node_belongs_to_one_instance(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            await put(store, term, instance("a", port=1, node="n1"))

            taken = await commit_one(store, term, Put(instance("b", port=1, node="n1"), NEW))
            elsewhere = await commit_one(store, term, Put(instance("b", port=1, node="n2"), NEW))

            assert PORT_TAKEN == taken
            assert elsewhere.refusal is None

    async def test_a_record_that_moves_gives_its_old_port_back(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            (made,) = await put(store, term, instance("a", port=1))
            moved = await commit_one(store, term, Put(instance("a", port=2), made.version))

            (other,) = await put(store, term, instance("b", port=1))

            assert moved.refusal is None
            assert PORT_TAKEN == await commit_one(
                store, term, Put(instance("b", port=2), other.version)
            )

    async def test_a_refused_move_keeps_the_old_port(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            made, _ = await put(store, term, instance("a", port=1), instance("b", port=2))

            assert PORT_TAKEN == await commit_one(
                store, term, Put(instance("a", port=2), made.version)
            )
            assert PORT_TAKEN == await commit_one(store, term, Put(instance("c", port=1), NEW))

    async def test_a_record_keeps_its_port_when_it_is_written_again(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            (made,) = await put(store, term, instance("a", port=1))
            again = await commit_one(store, term, Put(instance("a", port=1), made.version))

            assert again.refusal is None
            assert PORT_TAKEN == await commit_one(store, term, Put(instance("b", port=1), NEW))

    async def test_a_deleted_record_gives_its_port_back(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            (made,) = await put(store, term, instance("a", port=1))
            await commit_one(store, term, Delete("a", made.version))

            await put(store, term, instance("b", port=1))

            assert {"b"} == set((await store.load()).stored)

    async def test_a_port_can_pass_on_within_a_commit(self, open_one: Open) -> None:
        """Changes are made in order: what one gives back, a later one may claim."""
        async with leading(open_one("alice")) as (store, term):
            a, b = await put(store, term, instance("a", port=1), instance("b", port=2))
            changes: list[Change] = [
                Delete("a", a.version),
                Put(instance("b", port=1), b.version),
                Put(instance("c", port=2), NEW),
            ]

            done = await store.commit(changes, term=term)

            assert [None] * 3 == [one.refusal for one in done]
            stored = (await store.load()).stored
            assert {"b": 1, "c": 2} == _ports(stored)

    async def test_a_port_that_a_later_change_gives_back_is_still_taken(
        self, open_one: Open
    ) -> None:
        async with leading(open_one("alice")) as (store, term):
            (a,) = await put(store, term, instance("a", port=1))

            done = await store.commit(
                [Put(instance("b", port=1), NEW), Delete("a", a.version)], term=term
            )

            assert (PORT_TAKEN, ChangeResult()) == done

    async def test_writers_that_race_never_share_a_port(self, open_one: Open) -> None:
        """Two processes of one term claim the same thirty ports, each in an order of its own."""
        other, _ = open_one("bob")
        ports = range(1, 31)
        async with leading(open_one("alice")) as (store, term):

            async def claim(name: str, writer: Store, order: Iterable[int]) -> list[int]:
                claimed = []
                for port in order:
                    begun_s = time.monotonic()
                    made = instance(f"{name}-{port}", port=port)
                    if not (await commit_one(writer, term, Put(made, NEW))).refusal:
                        claimed.append(port)
                    # SQLite's lock knows no queue: where the disk is slow, one that never lets go
                    # of it for as long as it holds it keeps the other out until that gives up.
                    await asyncio.sleep(time.monotonic() - begun_s)
                return claimed

            alices, bobs = await asyncio.gather(
                claim("alice", store, ports), claim("bob", other, reversed(ports))
            )

            assert list(ports) == sorted(alices + bobs)
            stored = (await store.load()).stored.values()
            assert list(ports) == sorted(one.instance.port for one in stored)

    # Terms

    async def test_a_term_that_another_has_followed_writes_nothing(self, open_one: Open) -> None:
        alice, bob = open_one("alice"), open_one("bob")
        async with leading(alice) as (_, old):
            (made,) = await put(alice[0], old, instance("a", port=1))
        async with leading(bob) as (store, term):
            before = content(await store.load())
            refused: list[Change] = [
                Put(instance("b", port=2), NEW),
                Put(instance("a", port=3), made.version),
                Delete("a", made.version),
                PutSpec("spec", NEW),
            ]

            for change in refused:
                with pytest.raises(FencedError, match=r"alice.*over"):
                    await alice[0].commit([change], term=old)
            with pytest.raises(FencedError, match=r"alice.*over"):
                await alice[0].commit([], term=old)

            assert before == content(await store.load())
            assert term.epoch > old.epoch

    async def test_a_term_ends_with_its_block(self, open_one: Open) -> None:
        """Even before anybody else leads."""
        opened = open_one("alice")
        async with leading(opened) as (store, term):
            pass

        with pytest.raises(FencedError):
            await store.commit([Put(instance(), NEW)], term=term)

        assert {} == (await store.load()).stored

    async def test_a_term_that_never_was_writes_nothing(self, open_one: Open) -> None:
        store, _ = open_one("alice")

        with pytest.raises(FencedError):
            await store.commit([Put(instance(), NEW)], term=Term(epoch=1, holder="nobody"))

        assert {} == (await store.load()).stored

    # Watches

    async def test_a_watch_tells_what_is_written_after_its_revision(self, open_one: Open) -> None:
        other, _ = open_one("bob")
        async with leading(open_one("alice")) as (store, term):
            await put(store, term, instance("earlier", port=1))
            start = await other.load()
            watching = asyncio.ensure_future(
                watched(other, start.revision, lambda seen: any(one.deleted for one in seen))
            )

            a, _ = await put(store, term, instance("a", port=2), instance("b", port=3))
            await commit_one(store, term, PutSpec("spec", NEW))
            await commit_one(store, term, Put(instance("a", port=4), a.version))
            earlier = start.stored["earlier"]
            await commit_one(store, term, Delete("earlier", earlier.version))

            assert await store.load() == applied(start, await watching)

    async def test_a_watch_tells_each_write_once_as_it_comes(self, open_one: Open) -> None:
        watching, _ = open_one("bob")
        async with leading(open_one("alice")) as (store, term):
            updates = watching.watch((await store.load()).revision)
            for n in range(5):
                next_one = asyncio.ensure_future(anext(updates))
                await asyncio.sleep(0.02)
                made = await put(store, term, instance(f"chat-{n}", port=n + 1))

                update = await asyncio.wait_for(next_one, PATIENCE_S)

                assert made == update.stored
            await updates.aclose()  # type: ignore[attr-defined]

    async def test_a_watch_goes_on_from_any_revision_without_gaps(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            views = [await store.load()]
            for n in range(6):
                await put(store, term, instance(f"chat-{n}", port=n + 1))
                views.append(await store.load())
            last = views[-1]

            for view in views[:-1]:
                updates = await watched(
                    store,
                    view.revision,
                    lambda seen: bool(seen) and seen[-1].revision >= last.revision,
                )

                assert last == applied(view, updates)

    async def test_each_update_leads_to_what_the_store_held_then(self, open_one: Open) -> None:
        """Records move over each other's ports; no update shows two of them on one."""
        async with leading(open_one("alice")) as (store, term):
            a, b = await put(store, term, instance("a", port=1), instance("b", port=2))
            start = view = await store.load()
            a_3 = await commit_one(store, term, Put(instance("a", port=3), a.version))
            await commit_one(store, term, Put(instance("b", port=1), b.version))
            await commit_one(store, term, Put(instance("a", port=2), a_3.version))
            last = (await store.load()).revision

            updates = await watched(
                store, start.revision, lambda seen: bool(seen) and seen[-1].revision >= last
            )

            for update in updates:
                view = applied(view, [update])
                ports = [one.instance.port for one in view.stored.values()]
                assert len(set(ports)) == len(ports)
            assert {"a": 2, "b": 1} == _ports(view.stored)

    async def test_a_watch_tells_that_a_record_was_made_again(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            (old,) = await put(store, term, instance())
            start = await store.load()
            await commit_one(store, term, Delete(old.instance.id, old.version))
            (new,) = await put(store, term, instance())

            updates = await watched(
                store,
                start.revision,
                lambda seen: any(new in update.stored for update in seen),
            )

            assert await store.load() == applied(start, updates)

    async def test_refused_changes_are_not_told(self, open_one: Open) -> None:
        async with leading(open_one("alice")) as (store, term):
            await put(store, term, instance("a", port=1))
            start = await store.load()
            await commit_one(store, term, Put(instance("b", port=1), NEW))
            await put(store, term, instance("c", port=2))

            updates = await watched(store, start.revision, bool)

            assert ["c"] == [one.instance.id for one in updates[0].stored]
            assert () == updates[0].deleted
            assert updates[0].spec is None

    async def test_several_watches_see_the_same(self, open_one: Open) -> None:
        others = [open_one(name)[0] for name in ("bob", "carol", "dave")]
        async with leading(open_one("alice")) as (store, term):
            start = await store.load()
            watching = [asyncio.ensure_future(watched(one, start.revision, bool)) for one in others]

            await put(store, term, instance())

            expected = await store.load()
            assert [expected] * 3 == [
                applied(start, updates) for updates in await asyncio.gather(*watching)
            ]

    async def test_a_watch_can_be_cancelled_while_it_waits(self, open_one: Open) -> None:
        store, _ = open_one("alice")
        revision = (await store.load()).revision
        watching = asyncio.ensure_future(watched(store, revision, bool))
        await asyncio.sleep(0.1)

        watching.cancel()

        with pytest.raises(asyncio.CancelledError):
            await watching

    async def test_a_store_that_was_closed_says_so(self, open_one: Open) -> None:
        if self.is_never_closed:
            pytest.skip("it goes on for the other stores")
        store, leadership = open_one("alice")
        await store.load()

        await store.close()

        with pytest.raises(StoreUnavailableError, match="it was closed"):
            await store.load()
        with pytest.raises(StoreUnavailableError, match="it was closed"):
            await anext(store.watch(1))
        with pytest.raises(StoreUnavailableError, match="it was closed"):
            await store.commit([Put(instance(), NEW)], term=Term(1, "alice"))
        with pytest.raises(StoreUnavailableError, match="it was closed"):
            async with leadership.lead():
                pass

    # Size

    async def test_ten_thousand_records_in_one_commit(self, open_one: Open) -> None:
        """Made with their ports, loaded, all of them changed, all of them deleted."""
        many = instances(10_000)
        async with leading(open_one("alice")) as (store, term):
            start = await store.load()
            watching = asyncio.ensure_future(
                watched(
                    store, start.revision, lambda seen: 10_000 == sum(len(u.stored) for u in seen)
                )
            )
            made = await put(store, term, *many)

            view = await store.load()
            assert {one.instance.id: one for one in made} == view.stored
            assert view.stored == applied(start, await watching).stored
            done = await store.commit([Put(one.instance, one.version) for one in made], term=term)
            assert {None} == {one.refusal for one in done}
            gone = [
                Delete(one.instance.id, new.version) for one, new in zip(made, done, strict=True)
            ]
            assert {None} == {one.refusal for one in await store.commit(gone, term=term)}
            assert {} == (await store.load()).stored

    # Leadership

    async def test_one_leads_at_a_time(self, open_one: Open) -> None:
        n_leading, most, turns = 0, 0, []

        async def take_turns(name: str) -> None:
            nonlocal n_leading, most
            opened = open_one(name)
            for _ in range(3):
                async with leading(opened) as (_, term):
                    n_leading += 1
                    most = max(most, n_leading)
                    turns.append(term.epoch)
                    await asyncio.sleep(0.01)
                    n_leading -= 1

        await asyncio.gather(*(take_turns(name) for name in ("alice", "bob", "carol")))

        assert 1 == most
        assert 9 == len(turns)
        assert sorted(set(turns)) == turns

    async def test_everybody_sees_who_leads(self, open_one: Open) -> None:
        (_, watcher), alice, bob = open_one("carol"), open_one("alice"), open_one("bob")

        assert await watcher.leader() is None
        async with leading(alice) as (_, term):
            assert "alice" == await watcher.leader()
            assert "alice" == await alice[1].leader()
            assert "alice" == term.holder
            assert "alice" == alice[1].holder
        assert await watcher.leader() is None
        async with leading(bob):
            assert "bob" == await watcher.leader()

    async def test_whoever_waits_leads_soon_after_the_leader_has_left(self, open_one: Open) -> None:
        alice, bob = open_one("alice"), open_one("bob")
        async with AsyncExitStack() as bobs:
            async with leading(alice):
                waiting = asyncio.ensure_future(bobs.enter_async_context(bob[1].lead()))
                await asyncio.sleep(0.3)
                assert not waiting.done()

            current = await asyncio.wait_for(waiting, PATIENCE_S)

            assert "bob" == current.term.holder

    async def test_a_term_that_goes_on_is_not_lost(self, open_one: Open) -> None:
        _, leadership = open_one("alice")
        async with leadership.lead() as current:
            waiting = asyncio.ensure_future(current.lost())
            await asyncio.sleep(0.3)
            assert not waiting.done()

        await asyncio.wait_for(waiting, PATIENCE_S)

    async def test_an_error_in_the_block_gives_the_leadership_back(self, open_one: Open) -> None:
        alice, bob = open_one("alice"), open_one("bob")

        with pytest.raises(ZeroDivisionError):
            async with alice[1].lead():
                raise ZeroDivisionError

        async with leading(bob) as (_, term):
            assert "bob" == term.holder

    async def test_whoever_stops_waiting_does_not_lead(self, open_one: Open) -> None:
        alice, bob, carol = open_one("alice"), open_one("bob"), open_one("carol")
        async with leading(alice):
            bobs = bob[1].lead()
            waiting = asyncio.ensure_future(bobs.__aenter__())
            await asyncio.sleep(0.3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        async with leading(carol):
            assert "carol" == await carol[1].leader()


def _ports(stored: Mapping[str, StoredInstance]) -> dict[str, int]:
    return {one: record.instance.port for one, record in stored.items()}
