"""The inventory as clients see it: instances, nodes, and the stream of changes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from msgspec.structs import replace

from ollama_fleet.clock import Clock
from provisioning.api.commands import Source
from provisioning.api.errors import TooManyStreamsError
from provisioning.api.routes import (
    STATE_BY_PHASE,
    Details,
    Entry,
    HistoryLine,
    InstanceDocument,
    NodeDocument,
    SdGroup,
)
from provisioning.errors import SpecError
from provisioning.model import Fleet, Instance, Listing, Node, NodeReport, Phase, Workload
from provisioning.spec import decode_fleet
from provisioning.state import Load, size_of
from provisioning.store.base import Stored, StoredSpec, View
from provisioning.workload import host_of, netloc, workload_digest

log = logging.getLogger("provisioning.api.inventory")

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


MAX_STREAMS = 100
MAX_PENDING = 64
"""Messages that a client may be behind."""
MIN_GAP_S = 0.2


@dataclass(frozen=True, slots=True)
class Message:
    """The instances that a revision changed; with `is_whole`, all that there are."""

    revision: int
    is_whole: bool
    changed: tuple[bytes, ...]
    """Their details as JSON."""
    removed: tuple[str, ...]


@dataclass(eq=False, slots=True)
class Subscription:
    """What one client has yet to be sent."""

    drop: Callable[[], None]
    """Called when it is too far behind; closes its connection."""
    pending: asyncio.Queue[Message] = field(
        default_factory=lambda: asyncio.Queue(maxsize=MAX_PENDING)
    )


class Feed:
    """The latest inventory, and who wants to hear of the next ones."""

    def __init__(
        self, source: Source, directory: Directory, clock: Clock, *, max_streams: int = MAX_STREAMS
    ) -> None:
        self._source = source
        self._directory = directory
        self._clock = clock
        self._max_streams = max_streams
        self._subscriptions: set[Subscription] = set()
        self._seen: View | None = None
        self._told = Inventory(-1, {})
        self._is_revision_spent = False
        """Whether the latest revision was told before, of other contents."""
        self.n_dropped = 0

    def __repr__(self) -> str:
        return f"<Feed to {self.n_streams} clients, {self.n_dropped} dropped, at {self._told}>"

    @property
    def n_streams(self) -> int:
        """Return how many clients follow."""
        return len(self._subscriptions)

    async def run(self) -> None:
        """Tell of changes until cancelled."""
        while True:
            await self._source.changed(self._seen)
            self._tell()
            await self._clock.sleep(MIN_GAP_S)

    @contextmanager
    def subscribed(
        self, *, drop: Callable[[], None], known: int | None = None
    ) -> Iterator[Subscription]:
        """Follow the changes until the context ends.

        Args:
            drop: Called if the client is too far behind.
            known: The revision of the last message that it had, if it had any.

        Raises:
            TooManyStreamsError: Too many clients follow already.
        """
        if self.n_streams >= self._max_streams:
            raise TooManyStreamsError(
                f"{self.n_streams} clients follow the changes, as many as are allowed; "
                "try again later, or poll GET /instances with If-None-Match"
            )
        subscription = Subscription(drop)
        if known != self._told.revision or self._is_revision_spent:
            subscription.pending.put_nowait(whole(self._told))
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _tell(self) -> None:
        view = self._source.view
        if view is None:
            return
        self._seen = view
        before, self._told = self._told, self._directory.inventory_of(view)
        message = change(before, self._told)
        if not (message.changed or message.removed):
            return
        self._is_revision_spent = self._told.revision <= before.revision
        for subscription in list(self._subscriptions):
            self._tell_one(subscription, message)

    def _tell_one(self, subscription: Subscription, message: Message) -> None:
        try:
            subscription.pending.put_nowait(message)
        except asyncio.QueueFull:
            self.n_dropped += 1
            self._subscriptions.discard(subscription)
            subscription.drop()


def whole(inventory: Inventory) -> Message:
    """Return all instances."""
    changed = tuple(row.details_json for row in inventory.rows.values())
    return Message(inventory.revision, is_whole=True, changed=changed, removed=())


def change(before: Inventory, after: Inventory) -> Message:
    """Return the instances that differ between two inventories."""
    changed = tuple(
        row.details_json
        for id_, row in after.rows.items()
        if (old := before.rows.get(id_)) is not row
        and (old is None or old.details_json != row.details_json)
    )
    removed = tuple(id_ for id_ in before.rows if id_ not in after.rows)
    return Message(after.revision, is_whole=False, changed=changed, removed=removed)


NOT_ASKED = "it was not asked yet"
NOT_LISTED = "it cannot be asked: the specification does not list it"


def node_documents(
    fleet: Fleet | None, instances: Iterable[Instance], reports: Mapping[str, NodeReport]
) -> list[NodeDocument]:
    """Return the nodes that are listed, and those besides that hold instances or are asked."""
    by_node: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        by_node[instance.node].append(instance)
    listed = {node.name: node for node in fleet.nodes} if fleet else {}
    documents = []
    for name in sorted({*listed, *by_node, *reports}):
        node, report = listed.get(name), reports.get(name)
        held = Load()
        n_failed = 0
        for instance in by_node[name]:
            if instance.phase is Phase.FAILED:
                n_failed += 1
            else:
                held.add(size_of(instance))
        documents.append(
            NodeDocument(
                name=name,
                runtime=node.runtime.value if node else "",
                is_listed=node is not None,
                is_cordoned=node is not None and node.is_cordoned,
                is_asked=report is not None and report.is_asked,
                is_reachable=report is not None and report.is_reachable,
                heard_s=report.at_s if report else 0.0,
                fault=_fault(report, is_listed=node is not None),
                n_instances=held.n_containers,
                n_failed=n_failed,
                cpus_used=held.cpus,
                cpus=node.cpus if node else 0.0,
                memory_used_bytes=held.memory_bytes,
                memory_bytes=node.memory_bytes if node else 0,
            )
        )
    return documents


def _fault(report: NodeReport | None, *, is_listed: bool) -> str:
    if report is None:
        return NOT_ASKED if is_listed else NOT_LISTED
    return report.fault if report.is_asked else NOT_ASKED
