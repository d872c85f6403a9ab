"""Make etcd's transactions out of changes, and read what became of them; no I/O.

In:   changes, the places that their records have now, the term's epoch.
Out:  Steps: each one request, which etcd makes only while the term goes on.
Each change is a transaction of its own inside the step's, so that one is refused and another made.
etcd looks at all conditions of a step before it writes, and refuses a step that writes a key twice:
a change that touches what an earlier one has touched begins a new step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from provisioning.store.base import (
    NEW,
    Change,
    Delete,
    Done,
    Put,
    PutSpec,
    Refusal,
)
from provisioning.store.etcd.keys import Keys
from provisioning.store.etcd.messages_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from provisioning.store.records import Place, encode, place_of

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

    def done(self, response: TxnResponse) -> tuple[Done, ...]:
        """Read what became of each change; the step itself has succeeded."""
        revision = response.header.revision
        # The last response may be that of the put beside them.
        answers = (one.response_txn for one in response.responses)
        return tuple(
            _done(change, answer, revision)
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


def held(keys: Keys, epoch: int) -> Compare:
    """Return the condition that the term goes on: the leader's key is the one that began it."""
    return Compare(target=Compare.CREATE, key=keys.leader, create_revision=epoch)


def question(keys: Keys, epoch: int) -> TxnRequest:
    """Return what writes nothing, and succeeds while the term goes on.

    It reads a key: of a transaction that holds nothing, a member without a quorum would judge.
    """
    read = RequestOp(request_range=RangeRequest(key=keys.leader, keys_only=True))
    return TxnRequest(compare=[held(keys, epoch)], success=[read])


def _step(drafts: Sequence[Draft], keys: Keys, epoch: int) -> Step:
    changes = tuple(draft.change for draft in drafts)
    request = TxnRequest(
        compare=[held(keys, epoch)],
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


def _done(change: Change, answer: TxnResponse, revision: int) -> Done:
    if answer.succeeded:
        return Done() if isinstance(change, Delete) else Done(revision)
    kvs = answer.responses[0].response_range.kvs
    version = kvs[0].mod_revision if kvs else NEW
    is_as_expected = isinstance(change, Put) and version == change.expected
    return Done(refusal=Refusal.PORT_TAKEN if is_as_expected else Refusal.CONFLICT)
