"""The description of a simulated fleet: its nodes, models, releases of Ollama and instances."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count, islice
from types import MappingProxyType

from provisioning.simulator.errors import SpecError

FIRST = int(ipaddress.IPv4Address("127.1.0.1"))
"""Clear of 127.0.0.1, where the machine's own services live."""
MAX_INSTANCES = int(ipaddress.IPv4Address("127.255.255.254")) - FIRST + 1


@dataclass(frozen=True, slots=True)
class Layout:
    """How many instances share an address, on ports that follow one another."""

    first_port: int = 0
    """Means nothing where an instance has its address for itself."""
    n_ports: int = 1

    @property
    def ports(self) -> range:
        """Return the ports that the instances of an address listen on."""
        return range(self.first_port, self.first_port + self.n_ports)

    def index_of(self, address: str, port: int) -> int:
        """Return the number of the instance at an address and a port; negative below the first."""
        return index_of(address) * self.n_ports + (port - self.first_port) % self.n_ports


def address_of(index: int) -> str:
    """Return the address of the instance number `index`, counted from 0."""
    return str(ipaddress.IPv4Address(FIRST + index))


def index_of(address: str) -> int:
    """Return the number of the instance at an IPv4 address; negative below the first one."""
    return int(ipaddress.IPv4Address(address)) - FIRST


def is_loopback(address: str) -> bool:
    """Say whether an IPv4 address lies in 127.0.0.0/8."""
    return address.startswith("127.")


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the server."""

    version: str
    fleet_weight: int
    """How common it is among fleet-mode instances, against the others."""
    stock_weight: int
    """How common it is among stock Ollama instances."""
    runner_step_ns: int
    """`prompt_eval_duration` and `eval_duration` are multiples of it; a zero is left out."""
    refuses_methods: bool
    """A known path with a wrong method: 405 where true, 404 where false."""
    has_status: bool
    """Whether it serves /api/status."""
    ps_has_context_length: bool
    tags_have_capabilities: bool
    show_has_capabilities: bool
    max_queue: int | None
    """Requests that may wait for a loaded model before 503; None: any number."""
    ignores_case_of_host: bool
    embeds_with_any_model: bool
    """False: 501 from a model that is not made for embedding, as all of the simulation's are."""


RELEASES = (
    Release(
        version="0.4.7",
        fleet_weight=9,
        stock_weight=1,
        runner_step_ns=1_000_000,
        refuses_methods=False,
        has_status=False,
        ps_has_context_length=False,
        tags_have_capabilities=False,
        show_has_capabilities=False,
        max_queue=512,
        ignores_case_of_host=False,
        embeds_with_any_model=True,
    ),
    Release(
        version="0.23.0",
        fleet_weight=1,
        stock_weight=7,
        runner_step_ns=1,
        refuses_methods=True,
        has_status=True,
        ps_has_context_length=True,
        tags_have_capabilities=False,
        show_has_capabilities=True,
        max_queue=None,
        ignores_case_of_host=True,
        embeds_with_any_model=False,
    ),
    Release(
        version="0.32.15",
        fleet_weight=0,
        stock_weight=2,
        runner_step_ns=1_000,
        refuses_methods=True,
        has_status=True,
        ps_has_context_length=True,
        tags_have_capabilities=True,
        show_has_capabilities=True,
        max_queue=None,
        ignores_case_of_host=True,
        embeds_with_any_model=False,
    ),
)


RELEASE_BY_VERSION: Mapping[str, Release] = MappingProxyType(
    {release.version: release for release in RELEASES}
)


N_DEVELOPERS = 1_200
INSTANCES_PER_NODE = 100
ROTATION_S = 7 * 24 * 3600
P50_S = 0.062
P99_S = 0.089
ERROR_RATIO = 0.003
KEEP_ALIVE_S = 300.0
"""How long a model stays loaded after a request that does not say, where the server does not."""


class Mode(StrEnum):
    """Which server the instances pretend to be."""

    FLEET = "fleet"
    OLLAMA = "ollama"


class InventoryEngine(StrEnum):
    """What the inventory says about the instances' kind: the mode's own name, or find out."""

    MODE = "mode"
    AUTO = "auto"


class Hardware(StrEnum):
    """What a node is made of."""

    EPYC_9654 = "epyc-9654"
    XEON_8380 = "xeon-8380"
    GPU = "gpu"


SPEED_BY_HARDWARE: Mapping[Hardware, float] = MappingProxyType(
    {Hardware.EPYC_9654: 42.0, Hardware.XEON_8380: 31.0, Hardware.GPU: 187.0}
)


@dataclass(frozen=True, slots=True)
class Model:
    """One model that some of the instances serve."""

    name: str
    family: str
    parameter_size: str
    size_bytes: int
    relative_speed: float
    """Against llama3.1:8b on the same hardware."""
    share: float
    """Share of the fleet's instances; the shares of all models sum to 1."""

    @property
    def digest(self) -> str:
        """Return a made-up digest in the form of a real one; copies under other names share it."""
        return hashlib.sha256(f"{self.family} {self.size_bytes}".encode()).hexdigest()


MODELS = (
    Model("llama3.1:8b", "llama", "8.0B", 4_661_230_766, 1.0, 0.86),
    Model("mistral:7b", "llama", "7.2B", 4_109_865_159, 1.08, 0.08),
    Model("gemma2:9b", "gemma2", "9.2B", 5_443_152_417, 0.83, 0.04),
    Model("qwen2.5-coder:14b", "qwen2", "14.8B", 8_988_124_069, 0.57, 0.02),
)
ALL_EPYC = ((Hardware.EPYC_9654, 1),)


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """A whole fleet in a few numbers."""

    n_instances: int = 100
    n_nodes: int | None = None
    """None: one node for every 100 instances."""
    mode: Mode = Mode.FLEET
    ollama_share: float = 0.0
    """Share of the instances, spread over all nodes, that are stock Ollama, whatever the mode."""
    seed: int = 1
    hardware: tuple[tuple[Hardware, int], ...] = ALL_EPYC
    """Kinds of hardware with their weights among the nodes."""
    inventory_engine: InventoryEngine = InventoryEngine.MODE
    article_metrics: bool = False
    """Give the article's three keys of /api/metrics and no others."""
    request_histogram: bool = False
    """Give the request durations in /api/metrics too: 17 buckets, so it is large."""
    time_scale: float = 1.0
    """Real seconds that a simulated second of generating takes; 0 answers at once."""
    installed_models: int = 1
    """How many models each instance has in its store; its own is the first and is loaded."""
    max_loaded_models: int = 3
    """Maximum models in memory of an instance; another one takes the place of an idle one."""
    keep_alive_s: float = KEEP_ALIVE_S
    """How long a model stays loaded after a request that does not say."""

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise SpecError("; ".join(problems))

    @property
    def nodes(self) -> int:
        """Return the number of nodes, the default resolved."""
        if self.n_nodes is not None:
            return self.n_nodes
        return -(-self.n_instances // INSTANCES_PER_NODE)

    def mode_of(self, index: int) -> Mode:
        """Return which server the instance number `index` pretends to be."""
        share = self.ollama_share
        is_stock = int((index + 1) * share) > int(index * share)
        return Mode.OLLAMA if is_stock else self.mode


@dataclass(frozen=True, slots=True)
class Instance:
    """One simulated server: who it is and how it does when nothing is wrong."""

    index: int
    id: str
    address: str
    node: str
    hardware: Hardware
    mode: Mode
    model: Model
    release: Release
    developer: str
    tokens_per_second: float
    latency_factor: float
    """Its request durations against the fleet's usual ones (p50 62 ms, p99 89 ms)."""
    requests_per_s: float
    error_ratio: float
    prompt_tokens_per_request: int
    age_s: float
    """How long it has been running when the simulation starts."""
    port: int = 0
    """0: the one port of the whole fleet."""
    n_installed: int = 1
    keep_alive_s: float = KEEP_ALIVE_S
    """How long a model stays loaded after a request that does not say."""

    @property
    def installed(self) -> tuple[Model, ...]:
        """Return the models in its store, its own first."""
        others = (model for model in MODELS if model != self.model)
        return (self.model, *islice(others, self.n_installed - 1))


def instances_of(spec: FleetSpec) -> tuple[Instance, ...]:
    """Make the fleet's instances, in the order of their addresses."""
    # Not for secrets: the fleet has to be the same one for the same seed.
    dice = random.Random(spec.seed)  # noqa: S311
    nodes = _nodes(spec)
    return tuple(
        _instance(
            spec, index, *nodes[index * len(nodes) // spec.n_instances], spec.mode_of(index), dice
        )
        for index in range(spec.n_instances)
    )


def hosted_instance(
    spec: FleetSpec,
    *,
    instance_id: str,
    index: int,
    number: int,
    port: int,
    node: str,
    hardware: Hardware,
    mode: Mode,
    model: Model,
) -> Instance:
    """Make one instance on the address number `number`; the same id gives the same character.

    It has no age and no developer: who ordered it knows those. All run their mode's most common
    release, as containers of one image do.
    """
    dice = random.Random(f"{spec.seed}/{instance_id}")  # noqa: S311 - as above
    made = _instance(spec, number, node, hardware, mode, dice)
    speed = made.tokens_per_second * model.relative_speed / made.model.relative_speed
    return replace(
        made,
        id=instance_id,
        index=index,
        port=port,
        model=model,
        release=max(RELEASES, key=WEIGHTS_BY_MODE[mode].__getitem__),
        tokens_per_second=speed,
        developer="",
        age_s=0.0,
    )


def dealt(weights: Mapping[Hardware, int]) -> Iterator[Hardware]:
    """Deal hardware out by weight, without end, so that small fleets get their mix too."""
    total = sum(weights.values())
    n_dealt = dict.fromkeys(weights, 0)
    for number in count(1):
        lag = {kind: weight / total * number - n_dealt[kind] for kind, weight in weights.items()}
        hardware = max(lag, key=lag.__getitem__)
        n_dealt[hardware] += 1
        yield hardware


WEIGHTS_BY_MODE: Mapping[Mode, Mapping[Release, int]] = MappingProxyType(
    {
        Mode.FLEET: {release: release.fleet_weight for release in RELEASES},
        Mode.OLLAMA: {release: release.stock_weight for release in RELEASES},
    }
)
"""Of the releases."""


def _instance(
    spec: FleetSpec,
    index: int,
    node: str,
    hardware: Hardware,
    mode: Mode,
    dice: random.Random,
) -> Instance:
    # Every instance throws the dice equally often, so that the first n do not depend on the rest.
    (model,) = dice.choices(MODELS, [model.share for model in MODELS])
    (release,) = dice.choices(RELEASES, [*WEIGHTS_BY_MODE[mode].values()])
    speed = SPEED_BY_HARDWARE[hardware] * model.relative_speed
    return Instance(
        index=index,
        id=f"llm-{index + 1:05}",
        address=address_of(index),
        node=node,
        hardware=hardware,
        mode=mode,
        model=model,
        release=release,
        developer=f"dev-{int(dice.random() * N_DEVELOPERS) + 1:04}",
        tokens_per_second=speed * dice.uniform(0.97, 1.03),
        latency_factor=dice.uniform(0.97, 1.03),
        requests_per_s=dice.uniform(0.2, 0.8),
        error_ratio=ERROR_RATIO * dice.uniform(0.6, 1.4),
        prompt_tokens_per_request=int(dice.uniform(200, 900)),
        age_s=dice.uniform(0.0, ROTATION_S),
        n_installed=spec.installed_models,
        keep_alive_s=spec.keep_alive_s,
    )


def _nodes(spec: FleetSpec) -> list[tuple[str, Hardware]]:
    """Name the nodes and deal hardware out to them."""
    names = (f"node-{number:03}" for number in range(1, spec.nodes + 1))
    return list(zip(names, dealt(dict(spec.hardware)), strict=False))


def _problems(spec: FleetSpec) -> Iterator[str]:
    if not 1 <= spec.n_instances <= MAX_INSTANCES:
        yield f"a fleet has 1 to {MAX_INSTANCES:,} instances, not {spec.n_instances:,}"
    elif not 1 <= spec.nodes <= spec.n_instances:
        yield (
            f"{spec.n_instances:,} instances fit on 1 to {spec.n_instances:,} nodes, "
            f"not {spec.nodes:,}"
        )
    if min((weight for _, weight in spec.hardware), default=0) <= 0:
        yield "every kind of hardware needs a weight of 1 or more, and there has to be one kind"
    if not 1 <= spec.installed_models <= len(MODELS):
        yield f"an instance has 1 to {len(MODELS)} models installed, not {spec.installed_models}"
    if spec.max_loaded_models < 1:
        yield f"an instance loads 1 model or more, not {spec.max_loaded_models}"
    if not 0 <= spec.ollama_share <= 1:
        yield f"the share of stock Ollama is 0 to 1, not {spec.ollama_share}"
    if not 0 <= spec.time_scale < math.inf:
        yield f"the time scale is 0 or more, not {spec.time_scale}"
