"""The inventory as clients see it: instances, service discovery, nodes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from heapq import nlargest

import msgspec

from ollama_fleet.http_server import etag_of
from ollama_fleet.upstreams import UpstreamList, ip_address
from ollama_fleet.urls import host_port_text
from provisioning.api.routes import (
    HAS_STARTED,
    STATE_BY_PHASE,
    Details,
    Entry,
    EventDocument,
    HealthCheck,
    HistoryLine,
    InstanceDocument,
    NodeDocument,
    SdGroup,
)
from provisioning.errors import SpecError
from provisioning.model import Fleet, Instance, Node, NodeReport, Phase
from provisioning.spec.document import decode_fleet
from provisioning.state import Load, size_of
from provisioning.store.base import StoredInstance, StoredSpec, View
from provisioning.workload import host_of

log = logging.getLogger("provisioning.api.inventory")

LogOf = Callable[[Node, str], str]


@dataclass(frozen=True, slots=True)
class Row:
    """One instance and its documents."""

    stored: StoredInstance
    address: str
    """Empty: not known."""
    details: Details
    entry_json: bytes
    details_json: bytes

    @property
    def is_upstream(self) -> bool:
        """Say whether a gateway may use it: it runs, and its address needs no look-up."""
        return self.details.phase is Phase.RUNNING and ip_address(self.address) is not None


class Inventory:
    """All instances as of one revision, sorted by id."""

    def __init__(self, revision: int, rows: Mapping[str, Row]) -> None:
        self.revision = revision
        self.rows = rows

    @cached_property
    def body(self) -> bytes:
        """Return the list that the exporter reads."""
        return listed(row.entry_json for row in self.rows.values() if row.details.url)

    @cached_property
    def upstreams(self) -> bytes:
        """Return the upstream list; here each instance has its pool's model in memory."""
        upstreams = UpstreamList()
        for row in self.rows.values():
            if row.is_upstream:
                details = row.details
                upstreams.add(
                    details.id,
                    ip_address(row.address) or "",
                    details.port,
                    node=details.node,
                    engine=details.engine,
                    loaded=(details.model,),
                    installed=(),
                    developer=details.developer,
                )
        return upstreams.encode()

    @cached_property
    def n_left_out(self) -> int:
        """Return how many running instances are not in the upstream list."""
        running = [row for row in self.rows.values() if row.details.phase is Phase.RUNNING]
        return len(running) - sum([row.is_upstream for row in running])

    @cached_property
    def etag(self) -> str:
        """Return the tag of `body`."""
        return etag_of(self.body)


def listed(elements: Iterable[bytes]) -> bytes:
    """Return elements as a JSON list, one a line."""
    return b"[\n%b\n]\n" % b",\n".join(elements)


class InventoryBuilder:
    """Makes inventories of the specification in force and the records.

    An instance outlives its pool, its node's entry and its workload for a while: its record has
    what it is found by. Only its labels are those that its node has now.
    """

    def __init__(self, log_of: LogOf = lambda *_: "") -> None:
        """Take what tells where an instance's log is on a node."""
        self._log_of = log_of
        self.fleet: Fleet | None = None
        """Of the latest specification that could be read."""
        self._view: View | None = None
        self._spec: StoredSpec | None = None
        self._node_by_name: dict[str, Node] = {}
        self._health_by_pool: dict[str, HealthCheck] = {}
        self._inventory = Inventory(-1, {})

    def inventory_of(self, view: View) -> Inventory:
        """Return the inventory of a view; that of the same view is made once."""
        is_new_spec = view.spec != self._spec
        if is_new_spec:
            self._read_spec(view.spec)
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

    def _read_spec(self, spec: StoredSpec | None) -> None:
        self._spec = spec
        if spec is None:
            return
        try:
            self.fleet = decode_fleet(spec.text)
        except SpecError as error:
            log.error("specification cannot be read version=%d: %s", spec.version, error)
            return
        self._node_by_name = {node.name: node for node in self.fleet.nodes}
        self._health_by_pool = {
            pool.name: HealthCheck.CANARY for pool in self.fleet.pools if pool.workload.probe.canary
        }

    def _row(self, stored: StoredInstance, known: Mapping[str, Row]) -> Row:
        row = known.get(stored.instance.id)
        if row is not None and row.stored == stored:
            return row
        details = self._details(stored.instance)
        address = self._address(stored.instance)
        return Row(stored, address, details, _entry_json(details), msgspec.json.encode(details))

    def _address(self, instance: Instance) -> str:
        node = self._node_by_name.get(instance.node)
        return host_of(instance, node) if node else instance.inventory_entry.address

    def _details(self, instance: Instance) -> Details:
        node = self._node_by_name.get(instance.node)
        entry = instance.inventory_entry
        address = self._address(instance)
        labels = node.labels if node else entry.labels
        return Details(
            id=instance.id,
            url=f"http://{host_port_text(address, instance.port)}" if address else "",
            node=instance.node,
            model=entry.model,
            engine=entry.engine or "auto",
            state=STATE_BY_PHASE[instance.phase],
            developer=instance.developer,
            started=(instance.started_s or None) if instance.phase in HAS_STARTED else None,
            health=self._health_by_pool.get(instance.pool, HealthCheck.POLL),
            labels={"pool": instance.pool, **dict(labels)},
            pool=instance.pool,
            port=instance.port,
            phase=instance.phase,
            phase_since_s=instance.phase_since_s,
            generation=instance.generation,
            workload=instance.workload,
            reason=instance.reason,
            fault=instance.fault,
            n_failures=instance.n_failures,
            retry_at_s=instance.retry_at_s,
            is_replace_asked=instance.is_replace_asked,
        )


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
                "__meta_ollama_started": str(details.started or ""),
                "__meta_ollama_health": details.health,
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


MAX_EVENTS = 1_000
"""In one answer."""


def latest_events(rows: Iterable[Row], since_s: float) -> list[EventDocument]:
    """Return what has happened to instances after a time, the newest at most, oldest first."""
    found = (
        (event.at_s, instance.id, n, event)
        for instance in (row.stored.instance for row in rows)
        for n, event in enumerate(instance.history)
        if event.at_s > since_s
    )
    latest = nlargest(MAX_EVENTS, found)
    return [
        EventDocument(at_s, event.what, event.detail, event.generation, id=id_)
        for at_s, id_, _, event in reversed(latest)
    ]


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
