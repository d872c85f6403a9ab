"""Find instances in the pods and endpoints that Kubernetes' API lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from exporter.errors import SourceError
from exporter.inventory.discovery import Entry, described
from exporter.model import State
from exporter.steps import with_pauses

ItemT = TypeVar("ItemT")
Found = tuple[str, Entry]
"""An instance and its id."""
ENDED = ("Succeeded", "Failed")


class _Object(msgspec.Struct, rename="camel", gc=False):
    """A part of what the API answers, as far as it matters here; it may be null as in Go."""


class _Meta(_Object):
    name: str
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None

    def described(self) -> Entry:
        """Return what labels and annotations say of an instance; annotations go first."""
        return described({**(self.labels or {}), **(self.annotations or {})}, "/")


class _ContainerPort(_Object):
    port: int = msgspec.field(name="containerPort")
    name: str | None = None
    protocol: str | None = None


class _Container(_Object):
    name: str
    ports: list[_ContainerPort] | None = None


class _PodSpec(_Object):
    containers: list[_Container]
    node_name: str = ""


class _Running(_Object):
    started_at: str | None = None


class _ContainerState(_Object):
    running: _Running | None = None


class _ContainerStatus(_Object):
    name: str
    state: _ContainerState = msgspec.field(default_factory=_ContainerState)


class _PodStatus(_Object):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    container_statuses: list[_ContainerStatus] | None = None


class _Pod(_Object):
    metadata: _Meta
    spec: _PodSpec
    status: _PodStatus


class _EndpointPort(_Object):
    port: int | None = None
    name: str | None = None
    protocol: str | None = None


class _Conditions(_Object):
    terminating: bool | None = None


class _TargetRef(_Object):
    kind: str = ""
    name: str = ""


class _Endpoint(_Object):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)
    node_name: str | None = None
    target_ref: _TargetRef | None = None


class _Slice(_Object):
    metadata: _Meta
    address_type: str = ""
    endpoints: list[_Endpoint] | None = None
    ports: list[_EndpointPort] | None = None


class _ListMeta(_Object):
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, Generic[ItemT], gc=False):
    metadata: _ListMeta
    items: list[ItemT] | None


class Page(NamedTuple):
    """What one answer of the API holds."""

    found: list[Found]
    faults: list[str]
    n_objects: int
    next_token: str
    """Empty on the last page."""


def read_pods(body: bytes, namespace: str, port: str) -> Page:
    """Return the instances of a PodList.

    Raises:
        SourceError: It is none.
    """
    page = _decoded(body, _Page[_Pod])
    return _page(page, page.items or [], lambda pod: _pod(pod, namespace, port))


def read_slices(body: bytes, namespace: str, port: str) -> Page:
    """Return the instances of an EndpointSliceList, by IPv4 before IPv6.

    Raises:
        SourceError: It is none.
    """
    page = _decoded(body, _Page[_Slice])
    slices = sorted(page.items or [], key=lambda item: item.address_type)
    return _page(page, slices, lambda item: _endpoints(item, namespace, port))


def _decoded(body: bytes, kind: type[ItemT]) -> ItemT:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SourceError(f"answered what is no list of Kubernetes: {error}") from error


def _page(
    page: _Page[ItemT], items: Iterable[ItemT], instances: Callable[[ItemT], Iterator[Found]]
) -> Page:
    found: list[Found] = []
    faults: list[str] = []
    for item in with_pauses(items):
        try:
            found += instances(item)
        except ValueError as error:
            faults.append(str(error))
    return Page(found, faults, len(page.items or []), page.metadata.continue_)


def _pod(pod: _Pod, namespace: str, wanted: str) -> Iterator[Found]:
    """Yield the instance of a pod, or none while it has no address or when it has ended."""
    if not pod.status.pod_ip or pod.status.phase in ENDED:
        return
    id_ = f"{namespace}/{pod.metadata.name}"
    port = _chosen(_container_ports(pod), wanted, f"pod {id_}")
    entry: Entry = {
        "host": pod.status.pod_ip,
        "port": port,
        "node": pod.spec.node_name,
        "started": _started(pod, port),
    }
    yield id_, _with_state(entry | pod.metadata.described(), pod.metadata.deletion_timestamp)


def _container_ports(pod: _Pod) -> Iterator[_ContainerPort]:
    for container in pod.spec.containers:
        yield from container.ports or ()


def _started(pod: _Pod, port: int) -> str | None:
    """Return when the container of the port was started; of a lone one, whatever its ports are."""
    is_lone = len(pod.spec.containers) == 1
    names = {
        container.name
        for container in pod.spec.containers
        if is_lone or any(one.port == port for one in container.ports or ())
    }
    for status in pod.status.container_statuses or ():
        if status.name in names and status.state.running:
            return status.state.running.started_at
    return None


def _endpoints(item: _Slice, namespace: str, wanted: str) -> Iterator[Found]:
    """Yield the instances of a slice. Those that are not ready are asked as well: it may be why."""
    if not item.endpoints:
        return
    port = _chosen(item.ports or (), wanted, f"EndpointSlice {namespace}/{item.metadata.name}")
    described_by_service = item.metadata.described()
    for endpoint in item.endpoints:
        host, pod = endpoint.addresses[0], endpoint.target_ref
        entry: Entry = {"host": host, "port": port, "node": endpoint.node_name}
        id_ = f"{namespace}/{pod.name}" if pod and pod.kind == "Pod" else f"{host}:{port}"
        yield id_, _with_state(entry | described_by_service, endpoint.conditions.terminating)


def _with_state(entry: Entry, ends: object) -> Entry:
    return entry | {"state": State.DRAINING.value} if ends else entry


def _chosen(ports: Iterable[_ContainerPort | _EndpointPort], wanted: str, whose: str) -> int:
    """Return the port of a name or number; where none is wanted, the only one.

    Raises:
        ValueError: None or several are declared.
    """
    if wanted.isdecimal():
        return int(wanted)
    declared = {
        one.port
        for one in ports
        if one.port and one.protocol in (None, "TCP") and wanted in ("", one.name)
    }
    if len(declared) == 1:
        return declared.pop()
    what = f"port {wanted!r}" if wanted else "TCP port"
    n = f"{len(declared)} of {what}" if declared else f"no {what}"
    raise ValueError(f"{whose} declares {n}; give it in the URL as port=NAME or port=NUMBER")
