"""The words of the domain: instances, containers and the specification of a fleet."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Phase(StrEnum):
    """Where in its life an instance is, as the store keeps it."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and these are counted all the time

    STARTING = "starting"
    """It is placed; its container is being made, or made and not healthy yet."""
    RUNNING = "running"
    DRAINING = "draining"
    """It serves what it has begun, gets nothing new, and will be stopped."""
    STOPPING = "stopping"
    """Its container is being removed; then it starts again, or is gone for good."""
    FAILED = "failed"
    """It could not be started; see its fault, and when it is tried again."""


class Reason(StrEnum):
    """Why an instance is drained and stopped."""

    ROTATED = "rotated"
    CHANGED = "changed"
    """The specification asks for another workload."""
    REPLACED = "replaced"
    """A person asked for it."""
    DRAINED = "drained"
    """A person asked for it at once, whatever the limits."""
    UNHEALTHY = "unhealthy"
    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    """The kernel killed a process of its container, the first one or another; more memory helps."""
    NODE_LOST = "node_lost"
    NODE_REMOVED = "node_removed"
    SCALED_DOWN = "scaled_down"


FOR_GOOD = frozenset({Reason.SCALED_DOWN})
"""After these an instance does not start again."""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One line of an instance's history."""

    at_s: float
    what: str
    """`started`, `failed`, `rotated`, … as in `lifecycle`: a Reason, or what has ended."""
    detail: str = ""
    generation: int = 0


class Listing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an instance is found by, as it was when its container was ordered.

    The specification may have another workload since, or the node no more.
    """

    model: str = ""
    """Empty: the record is of a release that did not write it."""
    engine: str = ""
    address: str = ""
    """Of its node."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of its node, sorted by name."""


class Instance(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instance: a place in a pool that outlives the containers which fill it.

    One a generation.
    """

    id: str
    pool: str
    node: str
    port: int
    """Unique among the instances of a node; the store sees to it."""
    generation: int
    """Grows by one with each container that is made for the instance; the first is 1."""
    phase: Phase
    since_s: float
    """When it entered its phase."""
    workload: str
    """Digest of what it runs; differs from the pool's once the specification has changed."""
    started_s: float = 0.0
    """When this generation was first healthy; 0: never."""
    reason: Reason | None = None
    """While it drains or stops: why."""
    developer: str = ""
    n_failures: int = 0
    """Starts in a row that failed, each after all its tries."""
    failed_on: tuple[str, ...] = ()
    """The nodes of those starts, the latest last."""
    retry_at_s: float = 0.0
    """While failed: when it is tried again."""
    fault: str = ""
    """The last error, in words; empty once it runs."""
    is_replace_asked: bool = False
    history: tuple[Event, ...] = ()
    """The latest events, oldest first; see `history.MAX_EVENTS`."""
    cpus: float = 0.0
    """What its container holds of its node: the workload's.

    As it was when the container was ordered.
    """
    memory_bytes: int = 0
    listing: Listing = Listing()
    has_served: bool = False
    """It was healthy with this workload, on this node or another one."""
    n_stop_tries: int = 0
    """Tries to remove this generation's container that have failed."""

    @property
    def container(self) -> str:
        """Return the name of this generation's container.

        No two containers of a fleet share one.
        """
        return container_name(self.id, self.generation)


def container_name(instance_id: str, generation: int) -> str:
    """Return the name of a container, fit for containerd: at most 76 of letters, digits, `.-_`."""
    return f"{instance_id}.{generation}"


class Probe(msgspec.Struct, frozen=True):
    """How to see over HTTP that an instance is healthy: it answers 200."""

    path: str = "/health"
    interval_s: float = 10.0
    timeout_s: float = 2.0
    n_failures: int = 3
    """So many in a row make a running instance unhealthy."""


class RequestsPage(msgspec.Struct, frozen=True):
    """Where an engine says how many requests run and wait."""

    path: str
    names: tuple[str, ...]
    """Keys of its JSON, or names of its Prometheus samples; all 0: nothing is under way."""


class WarmUp(msgspec.Struct, frozen=True):
    """Requests that load the model before the first user waits for it; each must answer 200."""

    path: str
    body: str = ""
    """JSON, sent by POST; empty: a GET."""
    timeout_s: float = 300.0
    """0: as long as the whole warm-up may take; see `Limits`."""


class Workload(msgspec.Struct, frozen=True):
    """What every instance of a pool runs; its digest tells whether an instance is up to date."""

    model: str
    engine: str
    """What the exporter calls the server kind: auto, fleet, ollama, llamacpp."""
    image: str = ""
    """For containers."""
    command: tuple[str, ...] = ()
    """Arguments may hold {port}, {host}, {id}, {model}."""
    environment: tuple[tuple[str, str], ...] = ()
    """Sorted by name; values may hold the same."""
    mounts: tuple[tuple[str, str], ...] = ()
    """Read-only bind mounts for containers: source on the node, target."""
    cpus: float = 2.0
    memory_bytes: int = 8192 * 2**20
    probe: Probe = Probe()
    warm_up: tuple[WarmUp, ...] = ()


class ContainerSpec(msgspec.Struct, frozen=True):
    """An order to a runtime: one generation of one instance, all its placeholders filled in."""

    name: str
    fleet: str
    instance_id: str
    generation: int
    pool: str
    host: str
    """The address to listen on and to be reached at."""
    port: int
    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[tuple[str, str], ...]
    cpus: float
    memory_bytes: int
    archive: str = ""
    """An OCI archive of the image on this machine, for where the image is missing."""
    model: str = ""
    """For simulated containers; real ones learn it from command, environment or warm-up."""


class ContainerState(StrEnum):
    """What a runtime says about a container."""

    CREATED = "created"
    """Made, never started: whoever was making it died."""
    RUNNING = "running"
    EXITED = "exited"


class ObservedContainer(msgspec.Struct, frozen=True):
    """A container that a runtime has, by its own account."""

    name: str
    instance_id: str
    generation: int
    state: ContainerState
    exit_status: int | None = None
    """Negative for a signal; None: it runs, or nobody knows."""
    is_out_of_memory: bool = False
    """The kernel has killed a process of it for want of memory, and it runs on or has ended so."""


class NodeReport(msgspec.Struct, frozen=True):
    """What was last heard of a node."""

    node: str
    at_s: float
    """When it last answered; 0: never yet."""
    containers: tuple[ObservedContainer, ...] = ()
    """As of then; only those that carry this fleet's name."""
    fault: str = ""
    """Why it does not answer now; empty: it does."""

    @property
    def is_asked(self) -> bool:
        """Say whether it was asked yet."""
        return bool(self.fault) or self.at_s > 0

    @property
    def is_reachable(self) -> bool:
        """Say whether it answered the last time it was asked."""
        return not self.fault and self.at_s > 0


DAY_S = 86_400.0


class RuntimeKind(StrEnum):
    """How a node runs containers."""

    CONTAINERD = "containerd"
    PROCESS = "process"
    SIMULATED = "simulated"


class Spread(StrEnum):
    """Which of the nodes that have room gets an instance."""

    SPREAD = "spread"
    """The one with the smallest used share."""
    PACK = "pack"
    """The fullest one, so that others stay empty."""


class Node(msgspec.Struct, frozen=True):
    """A machine that runs instances."""

    name: str
    runtime: RuntimeKind
    address: str = "127.0.0.1"
    """Where its instances listen and are reached."""
    endpoint: str = ""
    """Of containerd: `unix:///run/…` or `https://host:port`; empty for the other runtimes."""
    cpus: float = 1.0
    memory_bytes: int = 0
    max_instances: int = 0
    """0: as many as CPUs, memory and ports allow."""
    first_port: int = 20_000
    last_port: int = 29_999
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by name; pools select nodes by them."""
    is_cordoned: bool = False
    """Nothing new is placed on it; what it has is moved away."""


class Placement(msgspec.Struct, frozen=True):
    """On which nodes a pool's instances may be."""

    strategy: Spread = Spread.SPREAD
    max_per_node: int = 0
    """Instances of the pool; 0: no limit."""
    selector: tuple[tuple[str, str], ...] = ()
    """Labels that a node must have, all of them."""


class Rotation(msgspec.Struct, frozen=True):
    """How instances are replaced by fresh ones, as leaks of memory ask for."""

    every_s: float = 7 * DAY_S
    """0: never."""
    at_once: int = 10
    """Instances of the pool that may be on their way at the same time."""
    drain_s: float = 60.0
    """How long an instance serves what it has begun before it is stopped."""
    warm_up_s: float = 60.0
    """Expected time to load the model; counted in the arithmetic of the rotation."""


class Pool(msgspec.Struct, frozen=True):
    """Instances that are all alike."""

    name: str
    count: int
    workload: Workload
    placement: Placement = Placement()
    rotation: Rotation = Rotation()
    developers: tuple[str, ...] = ()
    """Who gets an instance of the pool for themselves, one each."""
    archive: str = ""
    """Where the provisioner's machine has the image, for nodes that lack it; no part of the
    workload: to have it elsewhere changes nothing that runs."""


class Limits(msgspec.Struct, frozen=True):
    """How fast the fleet may be changed, and when to give up on something."""

    operations: int = 50
    """Containers made or removed at once, over the fleet."""
    operations_per_node: int = 0
    """0: three for each of the node's CPUs."""
    unavailable_ratio: float = 0.05
    """Share of a pool that may be down at once by our own doing; one instance always may."""
    start_timeout_s: float = 30.0
    """From the order to the first healthy answer."""
    warm_up_timeout_s: float = 1800.0
    """From then on, until its model is fetched and loaded; later the try has failed."""
    tries: int = 3
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 30.0
    retry_failed_s: float = 600.0
    """An instance whose tries are used up is tried again so much later, elsewhere if it can be."""
    node_grace_s: float = 120.0
    """A node unheard of for so long is gone: its instances are placed elsewhere."""
    stop_grace_s: float = 10.0
    """Between asking a container to end and killing it."""


class Fleet(msgspec.Struct, frozen=True):
    """The whole specification. Names of nodes and of pools are unique."""

    name: str
    nodes: tuple[Node, ...]
    pools: tuple[Pool, ...]
    limits: Limits = Limits()
