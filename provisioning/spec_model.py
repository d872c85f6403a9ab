"""What a fleet is to be: the specification once it has been read, checked and completed.

spec (YAML) ─► Fleet ─► store, as JSON ─► decide
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from provisioning.model import Workload

DAY_S = 86_400.0


class RuntimeKind(StrEnum):
    """How a node runs units."""

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
    """Units made or removed at once, over the fleet."""
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
    """Between asking a unit to end and killing it."""


class Fleet(msgspec.Struct, frozen=True):
    """The whole specification. Names of nodes and of pools are unique."""

    name: str
    nodes: tuple[Node, ...]
    pools: tuple[Pool, ...]
    limits: Limits = Limits()
