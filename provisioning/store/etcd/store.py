"""A store in etcd: records, claims of ports, fenced commits and watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote

import grpc
import grpc.aio

from ollama_fleet.clock import Clock
from provisioning.errors import CompactedError, FencedError, StoreUnavailableError
from provisioning.store.base import (
    NEW,
    Change,
    ChangeRefusal,
    ChangeResult,
    Delete,
    Place,
    Put,
    PutSpec,
    StoredInstance,
    StoredSpec,
    Term,
    Update,
    View,
    decode,
    encode,
    place_of,
)
from provisioning.store.etcd.client import RANGE, TXN, WATCH, Client, send
from provisioning.store.etcd.messages_pb2 import (
    Compare,
    DeleteRangeRequest,
    Event,
    KeyValue,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)


class Keys:
    """The keys of one fleet."""

    def __init__(self, fleet: str) -> None:
        root = f"/ollama-fleet/{quote(fleet, safe='')}"
        self.leader = f"{root}/leader".encode()
        self.writer = f"{root}/writer".encode()
        self.state = f"{root}/state/".encode()
        self.spec = self.state + b"spec"
        self._instances = self.state + b"instances/"
        self._ports = f"{root}/ports"

    def instance(self, instance_id: str) -> bytes:
        """Return where an instance's record is."""
        return self._instances + quote(instance_id, safe="").encode()

    def instance_id(self, key: bytes) -> str | None:
        """Return whose record this key is; None: no instance's."""
        if not key.startswith(self._instances):
            return None
        return unquote(key.removeprefix(self._instances).decode())

    def port(self, place: Place) -> bytes:
        """Return where it stands who has a port."""
        node, port = place
        return f"{self._ports}/{quote(node, safe='')}/{port}".encode()


def range_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that begin with a prefix, which ends in no 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def reading(keys: Iterable[bytes]) -> TxnRequest:
    """Return what reads keys; they are answered in this order."""
    ranges = (RangeRequest(key=key) for key in keys)
    return TxnRequest(success=[RequestOp(request_range=one) for one in ranges])


MAX_CHANGES = 120
"""Of a step: etcd allows 128 operations, those of its largest inner transaction counted in."""
MAX_STEP_BYTES = 2**20
"""etcd allows 1.5 MiB a request."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was read before the commit."""

    version: int
    place: Place


@dataclass(frozen=True, slots=True)
class Draft:
    """One change, as a transaction inside its step's."""

    change: Change
    request: TxnRequest
    keys: frozenset[bytes]
    """That it may write."""


@dataclass(frozen=True, slots=True)
class Step:
    """Changes that are made together."""

    changes: tuple[Change, ...]
    request: TxnRequest

    def results(self, response: TxnResponse) -> tuple[ChangeResult, ...]:
        """Read what became of each change; the step itself has succeeded."""
        revision = response.header.revision
        # The last response may be that of the put beside them.
        answers = (one.response_txn for one in response.responses)
        return tuple(
            _result(change, answer, revision)
            for change, answer in zip(self.changes, answers, strict=False)
        )


def steps(
    changes: Sequence[Change], found: Mapping[str, Found], *, keys: Keys, epoch: int
) -> Iterator[Step]:
    """Yield the steps of a commit, in order."""
    drafts: list[Draft] = []
    n_bytes, touched = 0, set[bytes]()
    for draft in (_draft(change, found, keys) for change in changes):
        n_bytes += draft.request.ByteSize()
        is_full = len(drafts) == MAX_CHANGES or n_bytes > MAX_STEP_BYTES
        if drafts and (is_full or touched & draft.keys):
            yield _step(drafts, keys, epoch)
            drafts, n_bytes, touched = [], draft.request.ByteSize(), set()
        drafts.append(draft)
        touched |= draft.keys
    if drafts:
        yield _step(drafts, keys, epoch)


def fence(keys: Keys, epoch: int) -> Compare:
    """Return the condition that the term goes on: the leader's key is the one that began it."""
    return Compare(target=Compare.CREATE, key=keys.leader, create_revision=epoch)


def fence_check(keys: Keys, epoch: int) -> TxnRequest:
    """Return what writes nothing, and succeeds while the term goes on.

    It reads a key: of a transaction that holds nothing, a member without a quorum would judge.
    """
    read = RequestOp(request_range=RangeRequest(key=keys.leader, keys_only=True))
    return TxnRequest(compare=[fence(keys, epoch)], success=[read])


def _step(drafts: Sequence[Draft], keys: Keys, epoch: int) -> Step:
    changes = tuple(draft.change for draft in drafts)
    request = TxnRequest(
        compare=[fence(keys, epoch)],
        success=[RequestOp(request_txn=draft.request) for draft in drafts],
    )
    if not all(isinstance(change, Delete) for change in changes):
        # etcd's quota is blind to inner transactions: without a put beside them the file would
        # grow beyond it. Deletions alone are let through, as they make room.
        request.success.append(_written(keys.writer, str(epoch).encode()))
    return Step(changes, request)


def _draft(change: Change, found: Mapping[str, Found], keys: Keys) -> Draft:
    match change:
        case Put():
            return _put(change, found, keys)
        case Delete():
            return _delete(change, found, keys)
        case PutSpec():
            return _draft_of(
                change,
                keys.spec,
                conditions=(),
                writes=(_written(keys.spec, change.text.encode()),),
            )


def _put(change: Put, found: Mapping[str, Found], keys: Keys) -> Draft:
    instance = change.instance
    key = keys.instance(instance.id)
    old, new = _place(change.expected, found.get(instance.id)), place_of(instance)
    writes = [_written(key, encode(instance))]
    conditions = []
    if old != new:
        claim = keys.port(new)
        conditions.append(Compare(target=Compare.CREATE, key=claim, create_revision=0))
        writes.append(_written(claim, instance.id.encode()))
        writes.extend(_deleted(keys.port(old)) for _ in [old] if old)
    return _draft_of(change, key, conditions=conditions, writes=writes)


def _delete(change: Delete, found: Mapping[str, Found], keys: Keys) -> Draft:
    key = keys.instance(change.id)
    old = _place(change.expected, found.get(change.id))
    writes = [_deleted(key), *([_deleted(keys.port(old))] if old else [])]
    # What does not exist has version 0 in etcd as well, and cannot be deleted.
    exists = Compare(target=Compare.VERSION, result=Compare.GREATER, key=key, version=0)
    return _draft_of(change, key, conditions=(exists,), writes=writes)


def _place(expected: int, found: Found | None) -> Place | None:
    """Return the port that the change gives back; None: none, or it will be refused anyway."""
    return found.place if found and found.version == expected else None


def _draft_of(
    change: Change,
    key: bytes,
    *,
    conditions: Sequence[Compare],
    writes: Sequence[RequestOp],
) -> Draft:
    unchanged = Compare(target=Compare.MOD, key=key, mod_revision=change.expected)
    request = TxnRequest(
        compare=[unchanged, *conditions],
        success=writes,
        # Tells a conflict from a port that is taken.
        failure=[RequestOp(request_range=RangeRequest(key=key, keys_only=True))],
    )
    return Draft(change, request, frozenset(_key(write) for write in writes))


def _written(key: bytes, value: bytes) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=value))


def _deleted(key: bytes) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key))


def _key(write: RequestOp) -> bytes:
    return write.request_put.key or write.request_delete_range.key


def _result(change: Change, answer: TxnResponse, revision: int) -> ChangeResult:
    if answer.succeeded:
        return ChangeResult() if isinstance(change, Delete) else ChangeResult(revision)
    kvs = answer.responses[0].response_range.kvs
    version = kvs[0].mod_revision if kvs else NEW
    is_as_expected = isinstance(change, Put) and version == change.expected
    return ChangeResult(
        refusal=ChangeRefusal.PORT_TAKEN if is_as_expected else ChangeRefusal.CONFLICT
    )


SILENCE_S = 5.0
"""After so long without a word the member is asked for one; after twice as long it is given up."""
# Without it a member that has lost the others would stay silent for ever.
NEEDS_QUORUM = (("hasleader", "true"),)

WatchCall = grpc.aio.StreamStreamCall[Any, Any]


async def watch_events(
    client: Client,
    key: bytes,
    *,
    end: bytes = b"",
    after: int,
    clock: Clock,
    silence_s: float = SILENCE_S,
) -> AsyncGenerator[tuple[Event, ...], None]:
    """Yield what is written to a key, or to a range, after a revision; at least one event each.

    Raises:
        CompactedError: Some of it is forgotten.
        StoreUnavailableError: The member has gone, hangs, or has lost the others.
    """
    member = client.member
    # Fragments keep a long history below the size of a message.
    create = WatchCreateRequest(key=key, range_end=end, start_revision=after + 1, fragment=True)
    parts: list[Event] = []
    try:
        call = await client.stream(WATCH, metadata=NEEDS_QUORUM)
        try:
            await send(call, WatchRequest(create_request=create))
            while True:
                response = await _response(call, client, member, clock, silence_s)
                _refuse_the_end(response, client, member, after)
                parts.extend(response.events)
                if parts and not response.fragment:
                    yield tuple(parts)
                    parts.clear()
        finally:
            call.cancel()
    except grpc.aio.AioRpcError as error:
        raise client.translated(error, doing="watch", member=member) from error


async def _response(
    call: WatchCall, client: Client, member: str, clock: Clock, silence_s: float
) -> WatchResponse:
    """Return the stream's next response, asking for a sign of life where it is silent."""
    reading = asyncio.ensure_future(call.read())
    try:
        if not await _is_done(reading, clock, silence_s):
            await send(call, WatchRequest(progress_request=WatchProgressRequest()))
            if not await _is_done(reading, clock, silence_s):
                client.pass_by(member)
                raise StoreUnavailableError(
                    f"cannot watch at etcd {member}: no sign of life for {2 * silence_s:.0f} s; "
                    f"see that it runs"
                )
        response = reading.result()
    finally:
        reading.cancel()
    if isinstance(response, WatchResponse):
        return response
    client.pass_by(member)
    raise StoreUnavailableError(f"cannot watch at etcd {member}: it ended the stream")


async def _is_done(reading: asyncio.Future[Any], clock: Clock, within_s: float) -> bool:
    waiting = asyncio.ensure_future(clock.sleep(within_s))
    try:
        await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return reading.done()


def _refuse_the_end(response: WatchResponse, client: Client, member: str, after: int) -> None:
    """Raise where the member has ended the watch: the stream itself would stay open, and silent."""
    if response.compact_revision:
        raise CompactedError(
            f"cannot watch from revision {after}: etcd has compacted everything before "
            f"{response.compact_revision}; load again"
        )
    if response.canceled:
        client.forget_login()
        client.pass_by(member)
        raise StoreUnavailableError(
            f"cannot watch at etcd {member}: {response.cancel_reason or 'it ended the watch'}; "
            f"see etcd's log and its users' roles"
        )


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
        silence_s: float = SILENCE_S,
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
            # History may be dropped while it is read, page by page: then it begins again.
            with suppress(CompactedError):
                return await self._load()

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        """Make each change that can be made, in steps of up to 120.

        Raises:
            FencedError: The term is over; this step was not made, earlier ones were.
            StoreUnavailableError: Nobody knows about this step, earlier ones were made.
        """
        if not changes:
            await self._fenced(fence_check(self._keys, term.epoch), term)
            return ()
        found = await self._find(changes)
        results: list[ChangeResult] = []
        for step in steps(changes, found, keys=self._keys, epoch=term.epoch):
            results.extend(step.results(await self._fenced(step.request, term)))
        return tuple(results)

    async def watch(self, after: int) -> AsyncIterator[Update]:
        """Yield each step of each commit after a revision.

        Raises:
            CompactedError: Some of it is forgotten.
            StoreUnavailableError: The member is gone; the next watch asks another.
        """
        following = watch_events(
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

    def _instances(self, kvs: Iterable[KeyValue]) -> Iterator[StoredInstance]:
        return (_stored(kv) for kv in kvs if self._keys.instance_id(kv.key) is not None)

    def _spec(self, kvs: Iterable[KeyValue]) -> StoredSpec | None:
        found = (kv for kv in kvs if kv.key == self._keys.spec)
        return next((StoredSpec(kv.value.decode(), kv.mod_revision) for kv in found), None)


def _id(change: Put | Delete) -> str:
    return change.instance.id if isinstance(change, Put) else change.id


def _stored(kv: KeyValue) -> StoredInstance:
    return StoredInstance(decode(kv.value, source=kv.key.decode()), kv.mod_revision)
