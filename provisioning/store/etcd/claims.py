"""Find the claims of ports that no record stands behind, and give them back; no I/O.

In:   places that were refused as taken, what etcd holds of their claims and of the claims' owners.
Out:  requests, each for at most MAX_CLAIMS places; the claims that are nobody's.
A claim is written and deleted together with its record. Who deletes a record by hand, as one that
cannot be read, leaves its claim behind, and the port would be taken for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from provisioning.errors import StoreError
from provisioning.store.etcd.keys import Keys
from provisioning.store.etcd.messages_pb2 import (
    Compare,
    DeleteRangeRequest,
    KeyValue,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from provisioning.store.etcd.transactions import held
from provisioning.store.records import Place, decode, place_of

MAX_CLAIMS = 120


@dataclass(frozen=True, slots=True)
class Claim:
    """That an instance has a port."""

    place: Place
    owner: str
    version: int
    owner_version: int = 0
    """Of the owner's record; 0: there is none."""

    def __str__(self) -> str:
        node, port = self.place
        return f"port {port} of {node} for {self.owner}"


def reading(keys: Iterable[bytes]) -> TxnRequest:
    """Return what reads keys; they are answered in this order."""
    ranges = (RangeRequest(key=key) for key in keys)
    return TxnRequest(success=[RequestOp(request_range=one) for one in ranges])


def claims_of(places: Sequence[Place], response: TxnResponse) -> list[Claim]:
    """Return the claims that were read, of places that have one."""
    found = zip(places, _read(response), strict=True)
    return [
        Claim(place, kv.value.decode(errors="replace"), kv.mod_revision)
        for place, kv in found
        if kv
    ]


def left_behind(claims: Sequence[Claim], response: TxnResponse) -> list[Claim]:
    """Return the claims whose owners' records, as they were read, are not there or elsewhere."""
    return [
        Claim(claim.place, claim.owner, claim.version, kv.mod_revision if kv else 0)
        for claim, kv in zip(claims, _read(response), strict=True)
        if kv is None or _is_elsewhere(kv, claim.place)
    ]


def giving_back(claims: Iterable[Claim], *, keys: Keys, epoch: int) -> TxnRequest:
    """Return what deletes claims, each only if it and its owner's record are as they were read."""
    return TxnRequest(
        compare=[held(keys, epoch)],
        success=[RequestOp(request_txn=_deletion(claim, keys)) for claim in claims],
    )


def _deletion(claim: Claim, keys: Keys) -> TxnRequest:
    key, record = keys.port(claim.place), keys.instance(claim.owner)
    return TxnRequest(
        compare=[
            Compare(target=Compare.MOD, key=key, mod_revision=claim.version),
            Compare(target=Compare.MOD, key=record, mod_revision=claim.owner_version),
        ],
        success=[RequestOp(request_delete_range=DeleteRangeRequest(key=key))],
    )


def _read(response: TxnResponse) -> Iterator[KeyValue | None]:
    return (next(iter(one.response_range.kvs), None) for one in response.responses)


def _is_elsewhere(record: KeyValue, place: Place) -> bool:
    with suppress(StoreError):
        return place_of(decode(record.value, source=record.key.decode())) != place
    # Nobody knows which port it has, so that it may be this one.
    return False
