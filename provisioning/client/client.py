"""The API's operations as calls.

In:   a Transport.
Out:  the API's own types. Fails with ClientError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from provisioning.api.routes import (
    AssignOrder,
    DeleteOrphansOrder,
    Details,
    InstanceDocument,
    NodeDocument,
    OrphanDocument,
    ScaleOrder,
)
from provisioning.client.answers import Answer
from provisioning.client.errors import RefusedError, UnreachableError
from provisioning.client.transport import Transport
from provisioning.model import Fleet
from provisioning.plan import Plan
from provisioning.spec import encode_fleet

NOT_FOUND = 404
AnswerT = TypeVar("AnswerT")


class SpecInForce(NamedTuple):
    """A specification, and the tag that tells it from later ones."""

    fleet: Fleet
    etag: str


class Client:
    """One fleet's provisioners."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def instances(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Details]:
        """Return the instances that have for each filter one of its values."""
        query = urlencode([("details", "1"), *_pairs(filters or {})])
        answer = self._transport.read(f"/instances?{query}", doing="list instances")
        return _decoded(answer, list[Details], "list instances")

    def instance(self, id_: str) -> InstanceDocument:
        """Return one instance with its history."""
        doing = f"show instance {id_}"
        answer = self._transport.read(f"/instances/{_quoted(id_)}", doing=doing)
        return _decoded(answer, InstanceDocument, doing)

    def assign(self, id_: str, developer: str) -> InstanceDocument:
        """Give an instance to a developer."""
        order = msgspec.json.encode(AssignOrder(developer))
        return self._order("assign", id_, order)

    def release(self, id_: str) -> InstanceDocument:
        """Take an instance from its developer."""
        return self._order("release", id_)

    def drain(self, id_: str) -> InstanceDocument:
        """Let an instance end what it has begun, now; then it starts afresh."""
        return self._order("drain", id_)

    def replace(self, id_: str) -> InstanceDocument:
        """Replace an instance by a fresh one when the fleet's limits allow it."""
        return self._order("replace", id_)

    def nodes(self) -> list[NodeDocument]:
        """Return how each node is, as the leader knows it."""
        doing = "list nodes"
        return _decoded(self._transport.read("/nodes", doing=doing), list[NodeDocument], doing)

    def orphans(self) -> list[OrphanDocument]:
        """Return what runs without a record, as the leader knows it."""
        doing = "list orphans"
        return _decoded(self._transport.read("/orphans", doing=doing), list[OrphanDocument], doing)

    def delete_orphans(self, count: int) -> list[OrphanDocument]:
        """Have all orphans deleted, if they are that many."""
        doing = f"delete {count:,} orphans"
        body = msgspec.json.encode(DeleteOrphansOrder(count))
        answer = self._transport.write("POST", "/orphans/delete", doing=doing, body=body)
        return _decoded(answer, list[OrphanDocument], doing)

    def scale(self, pool: str, count: int, *, etag: str) -> Plan:
        """Change how many instances a pool has, if the specification with this tag is in force."""
        doing = f"scale pool {pool}"
        body = msgspec.json.encode(ScaleOrder(count))
        path = f"/pools/{_quoted(pool)}/scale"
        # A proxy that compresses answers has made the tag a weak one, which no write may name.
        strong = etag.removeprefix("W/")
        answer = self._transport.write("POST", path, doing=doing, body=body, if_match=strong)
        return _decoded(answer, Plan, doing)

    def spec(self) -> SpecInForce | None:
        """Return the specification in force; None: there is none yet."""
        doing = "read the specification"
        try:
            answer = self._transport.read("/spec", doing=doing, is_private=True)
        except RefusedError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return SpecInForce(_decoded(answer, Fleet, doing), answer.headers.get("ETag", ""))

    def plan(self, fleet: Fleet) -> Plan:
        """Return what a specification would change."""
        doing = "plan"
        body = encode_fleet(fleet).encode()
        answer = self._transport.read("/plan", doing=doing, body=body, is_private=True)
        return _decoded(answer, Plan, doing)

    def apply(self, fleet: Fleet, *, plan: Plan) -> Plan:
        """Put a specification in force, if the one that was planned against still is."""
        doing = "apply the specification"
        answer = self._transport.write(
            "PUT",
            "/spec",
            doing=doing,
            body=encode_fleet(fleet).encode(),
            if_match=etag_of(plan),
        )
        return _decoded(answer, Plan, doing)

    def _order(self, name: str, id_: str, body: bytes | None = None) -> InstanceDocument:
        doing = f"{name} {id_}"
        path = f"/instances/{_quoted(id_)}/{name}"
        answer = self._transport.write("POST", path, doing=doing, body=body)
        return _decoded(answer, InstanceDocument, doing)


def etag_of(plan: Plan) -> str:
    """Return the tag of the specification that was planned against."""
    return f'"{plan.base_version}"'


def _pairs(filters: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, values in filters.items() for value in values]


def _quoted(text: str) -> str:
    """Return a text as one part of a path, whatever is in it."""
    return quote(text, safe="") or "%20"


def _decoded(answer: Answer, kind: type[AnswerT], doing: str) -> AnswerT:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreachableError(
            f"cannot {doing}: {answer.url} answers, but not as a provisioner of this release "
            f"would: {error}; see that --provisioner.url is right, and both are of one release"
        ) from error
