"""Records of one fleet in etcd, for several provisioners.

In:   changes with a term, revisions to watch from.
Out:  a commit is a row of transactions, up to 120 changes each, every one guarded by the leader's
      key; versions are etcd's modification revisions.
Fails with FencedError, CompactedError, StoreUnavailableError, StoreError.
Reads go to whichever member answers. A transaction is sent once: after an error nobody knows
whether it was made, and to send it again would turn our own success into a conflict.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from itertools import groupby

from provisioning.clock import Clock
from provisioning.errors import CompactedError, FencedError
from provisioning.store.base import (
    NEW,
    Change,
    Delete,
    Done,
    Put,
    PutSpec,
    Refusal,
    Stored,
    StoredSpec,
    Term,
    Update,
    View,
)
from provisioning.store.etcd import watching
from provisioning.store.etcd.claims import (
    MAX_CLAIMS,
    claims_of,
    giving_back,
    left_behind,
    reading,
)
from provisioning.store.etcd.client import Client
from provisioning.store.etcd.keys import Keys, range_end
from provisioning.store.etcd.messages_pb2 import (
    Event,
    KeyValue,
    RangeRequest,
    TxnRequest,
    TxnResponse,
)
from provisioning.store.etcd.methods import RANGE, TXN
from provisioning.store.etcd.transactions import Found, question, steps
from provisioning.store.records import Place, decode, place_of

log = logging.getLogger("provisioning.store.etcd.store")

PAGE = 1000
"""Records that one request reads."""
MAX_READS = 128
"""Of a transaction."""


class EtcdStore:
    """See `base.Store`."""

    def __init__(
        self,
        client: Client,
        fleet: str,
        *,
        clock: Clock,
        silence_s: float = watching.SILENCE_S,
        page: int = PAGE,
    ) -> None:
        self._client = client
        self._keys = Keys(fleet)
        self._clock = clock
        self._silence_s = silence_s
        self._page = page

    async def load(self) -> View:
        """Return everything, as of one revision."""
        while True:
            # History may be dropped while it is read, page by page: then it begins anew.
            with suppress(CompactedError):
                return await self._load()

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[Done, ...]:
        """Make each change that can be made, in steps of up to 120.

        Raises:
            FencedError: The term is over; this step was not made, earlier ones were.
            StoreUnavailableError: Nobody knows about this step, earlier ones were made.
        """
        if not changes:
            await self._fenced(question(self._keys, term.epoch), term)
            return ()
        found = await self._find(changes)
        done: list[Done] = []
        for step in steps(changes, found, keys=self._keys, epoch=term.epoch):
            done.extend(step.done(await self._fenced(step.request, term)))
        await self._give_back(_taken(changes, done), term)
        return tuple(done)

    async def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield each step of each commit after a revision.

        Raises:
            CompactedError: Some of it is forgotten.
            StoreUnavailableError: The member is gone; the next watch asks another.
        """
        following = watching.events(
            self._client,
            self._keys.state,
            end=range_end(self._keys.state),
            after=after,
            clock=self._clock,
            silence_s=self._silence_s,
        )
        async with aclosing(following):
            async for events in following:
                for update in self._updates(events):
                    yield update

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _give_back(self, taken: Sequence[Place], term: Term) -> None:
        """Free those ports for the next commit that nobody has: a claim was left behind."""
        for start in range(0, len(taken), MAX_CLAIMS):
            places = taken[start : start + MAX_CLAIMS]
            claims = claims_of(places, await self._read(map(self._keys.port, places)))
            owners = [self._keys.instance(claim.owner) for claim in claims]
            if found := left_behind(claims, await self._read(owners)):
                request = giving_back(found, keys=self._keys, epoch=term.epoch)
                await self._fenced(request, term)
                log.warning(
                    "claims of ports that no record stands behind are given back: %d, such as %s",
                    len(found),
                    found[0],
                )

    async def _read(self, keys: Iterable[bytes]) -> TxnResponse:
        return await self._client.read(TXN, reading(keys), doing="read")

    async def _fenced(self, request: TxnRequest, term: Term) -> TxnResponse:
        response = await self._client.write(TXN, request, doing="write")
        if not response.succeeded:
            raise FencedError(
                f"cannot write for {term.holder}: its term {term.epoch} is over; "
                f"stop changing things and lead again"
            )
        return response

    async def _load(self) -> View:
        kvs: list[KeyValue] = []
        first, revision = self._keys.state, 0
        while first:
            request = RangeRequest(
                key=first,
                range_end=range_end(self._keys.state),
                limit=self._page,
                revision=revision,
            )
            response = await self._client.read(RANGE, request, doing="load")
            # The pages that follow show the state of the first one.
            revision = revision or response.header.revision
            kvs.extend(response.kvs)
            first = kvs[-1].key + b"\0" if response.more else b""
        return View(
            revision, {one.instance.id: one for one in self._instances(kvs)}, self._spec(kvs)
        )

    async def _find(self, changes: Sequence[Change]) -> dict[str, Found]:
        """Read the records that are to be replaced or deleted: their ports may become free."""
        ids = [_id(one) for one in changes if not isinstance(one, PutSpec) and one.expected != NEW]
        found: dict[str, Found] = {}
        for start in range(0, len(ids), MAX_READS):
            keys = [self._keys.instance(one) for one in ids[start : start + MAX_READS]]
            for answer in (await self._read(keys)).responses:
                for kv in answer.response_range.kvs:
                    one = _stored(kv)
                    found[one.instance.id] = Found(one.version, place_of(one.instance))
        return found

    def _updates(self, events: Sequence[Event]) -> Iterator[Update]:
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            yield self._update(revision, list(group))

    def _update(self, revision: int, events: Sequence[Event]) -> Update:
        puts = [event.kv for event in events if event.type == Event.PUT]
        gone = [event.kv.key for event in events if event.type == Event.DELETE]
        ids = [self._keys.instance_id(key) for key in gone]
        return Update(
            revision,
            stored=tuple(self._instances(puts)),
            deleted=tuple(one for one in ids if one is not None),
            spec=self._spec(puts),
        )

    def _instances(self, kvs: Iterable[KeyValue]) -> Iterator[Stored]:
        return (_stored(kv) for kv in kvs if self._keys.instance_id(kv.key) is not None)

    def _spec(self, kvs: Iterable[KeyValue]) -> StoredSpec | None:
        found = (kv for kv in kvs if kv.key == self._keys.spec)
        return next((StoredSpec(kv.value.decode(), kv.mod_revision) for kv in found), None)


def _taken(changes: Sequence[Change], done: Sequence[Done]) -> list[Place]:
    """Return the places that changes were refused."""
    return [
        place_of(change.instance)
        for change, one in zip(changes, done, strict=True)
        if isinstance(change, Put) and one.refusal is Refusal.PORT_TAKEN
    ]


def _id(change: Put | Delete) -> str:
    return change.instance.id if isinstance(change, Put) else change.id


def _stored(kv: KeyValue) -> Stored:
    return Stored(decode(kv.value, source=kv.key.decode()), kv.mod_revision)
