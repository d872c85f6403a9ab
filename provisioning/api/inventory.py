"""The instances as the API lists them.

In:   Views, one after the other.
Out:  Inventories: each instance's documents, encoded once for each of its changes.
Fails with nothing; a specification that cannot be read is logged, and the last one goes on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
from msgspec.structs import replace

from provisioning.api.forms import (
    STATE_BY_PHASE,
    Details,
    Entry,
    HistoryLine,
    InstanceDocument,
    SdGroup,
)
from provisioning.errors import SpecError
from provisioning.model import Fleet, Instance, Listing, Node, Workload
from provisioning.spec import decode_fleet
from provisioning.store.base import Stored, StoredSpec, View
from provisioning.units import host_of, netloc, workload_digest

log = logging.getLogger("provisioning.api")

ETAG_DIGITS = 32
LogOf = Callable[[Node, str], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One instance and its documents."""

    stored: Stored
    details: Details
    entry_json: bytes
    details_json: bytes


class Inventory:
    """All instances as of one revision, sorted by id."""

    def __init__(self, revision: int, rows: Mapping[str, Row]) -> None:
        self.revision = revision
        self.rows = rows

    def __repr__(self) -> str:
        return f"<Inventory of {len(self.rows):,} instances, revision {self.revision}>"

    @cached_property
    def body(self) -> bytes:
        """Return the list that the exporter reads."""
        return listed(row.entry_json for row in self.rows.values() if row.details.url)

    @cached_property
    def etag(self) -> str:
        """Return the tag of `body`."""
        return etag_of(self.body)


def listed(elements: Iterable[bytes]) -> bytes:
    """Return elements as a JSON list, one a line."""
    return b"[\n%b\n]\n" % b",\n".join(elements)


def etag_of(body: bytes) -> str:
    """Return a tag that tells a body from others."""
    return hashlib.sha256(body).hexdigest()[:ETAG_DIGITS]


class Directory:
    """Makes inventories, of the specification in force and of what the records say.

    An instance outlives its pool, its node's entry and its workload for a while: then its record
    alone tells what they were.
    """

    def __init__(self, log_of: LogOf = lambda *_: "") -> None:
        """Take what tells where an instance's log is on a node."""
        self._log_of = log_of
        self.fleet: Fleet | None = None
        """Of the latest specification that could be read."""
        self._view: View | None = None
        self._spec: StoredSpec | None = None
        self._node_by_name: dict[str, Node] = {}
        self._workload_by_digest: dict[str, Workload] = {}
        self._inventory = Inventory(-1, {})

    def inventory_of(self, view: View) -> Inventory:
        """Return the inventory of a view; that of the same view is made once."""
        is_new_spec = view.spec != self._spec
        if is_new_spec:
            self._learn(view.spec)
        if view is not self._view or is_new_spec:
            self._view = view
            known = {} if is_new_spec else self._inventory.rows
            rows = {id_: self._row(view.stored[id_], known) for id_ in sorted(view.stored)}
            self._inventory = Inventory(view.revision, rows)
        return self._inventory

    def document_of(self, instance: Instance) -> InstanceDocument:
        """Return an instance with its history."""
        history = tuple(
            HistoryLine(event.at_s, event.what, event.detail, event.generation)
            for event in instance.history
        )
        details = self._details(instance)
        node = self._node_by_name.get(instance.node)
        log_path = self._log_of(node, instance.id) if node else ""
        return InstanceDocument(**msgspec.structs.asdict(details), log=log_path, history=history)

    def _learn(self, spec: StoredSpec | None) -> None:
        self._spec = spec
        if spec is None:
            return
        try:
            self.fleet = decode_fleet(spec.text)
        except SpecError as error:
            log.error("cannot read version %d of the specification: %s", spec.version, error)
            return
        self._node_by_name = {node.name: node for node in self.fleet.nodes}
        self._workload_by_digest = {
            workload_digest(pool.workload): pool.workload for pool in self.fleet.pools
        }

    def _row(self, stored: Stored, known: Mapping[str, Row]) -> Row:
        row = known.get(stored.instance.id)
        if row is not None and row.stored == stored:
            return row
        details = self._details(stored.instance)
        return Row(stored, details, _entry_json(details), msgspec.json.encode(details))

    def _details(self, instance: Instance) -> Details:
        listing = self._listing(instance)
        return Details(
            id=instance.id,
            url=f"http://{netloc(listing.address, instance.port)}" if listing.address else "",
            node=instance.node,
            model=listing.model,
            engine=listing.engine or "auto",
            state=STATE_BY_PHASE[instance.phase],
            developer=instance.developer,
            labels={"pool": instance.pool, **dict(listing.labels)},
            pool=instance.pool,
            port=instance.port,
            phase=instance.phase,
            since_s=instance.since_s,
            generation=instance.generation,
            workload=instance.workload,
            started_s=instance.started_s,
            reason=instance.reason,
            fault=instance.fault,
            n_failures=instance.n_failures,
            retry_at_s=instance.retry_at_s,
            is_replace_asked=instance.is_replace_asked,
        )

    def _listing(self, instance: Instance) -> Listing:
        """Return what an instance is found by, now.

        It listens where it was told to when it was started; its labels are its node's of now. The
        specification tells the rest only where the record, of an earlier release, does not.
        """
        listing = instance.listing
        node = self._node_by_name.get(instance.node)
        if node is not None:
            address = host_of(instance, node)
            listing = replace(listing, address=address, labels=node.labels)
        workload = self._workload_by_digest.get(instance.workload)
        if workload is not None and not listing.model:
            listing = replace(listing, model=workload.model, engine=workload.engine)
        return listing


def _entry_json(details: Details) -> bytes:
    entry = Entry(**{name: getattr(details, name) for name in Entry.__struct_fields__})
    return msgspec.json.encode(entry)


def sd_groups(rows: Iterable[Row]) -> Iterator[SdGroup]:
    """Yield each instance as Prometheus's HTTP service discovery has it.

    What changes while an instance lives is behind `__meta_`: a series must not end with it.
    """
    for row in rows:
        details = row.details
        if details.url:
            labels = {
                "instance_id": details.id,
                "node": details.node,
                "model": details.model,
                "__meta_ollama_engine": details.engine,
                "__meta_ollama_state": details.state,
                "__meta_ollama_developer": details.developer,
            }
            yield SdGroup((details.url.removeprefix("http://"),), {**labels, **details.labels})


FIELD_BY_FILTER: Mapping[str, Callable[[Details], str]] = {
    "developer": lambda details: details.developer,
    "model": lambda details: details.model,
    "node": lambda details: details.node,
    "phase": lambda details: details.phase,
    "pool": lambda details: details.pool,
    "state": lambda details: details.state,
}


def filtered(rows: Iterable[Row], wanted: Mapping[str, frozenset[str]]) -> Iterator[Row]:
    """Yield the rows that have for each filter one of the wanted values."""
    checks = [(FIELD_BY_FILTER[name], values) for name, values in wanted.items()]
    for row in rows:
        if all(field(row.details) in values for field, values in checks):
            yield row
