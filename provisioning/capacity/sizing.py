"""Compute how many nodes a fleet needs, and what binds; each step with its numbers.

Three resources limit a node. Memory and cores: each instance takes its part of them whether it is
busy or not. Speed: an instance reads all weights from memory for each token, so the memory's
bandwidth says how many can generate at once without slowing each other down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent
from provisioning.capacity.errors import ImpossibleError

DAY_S = 86_400.0
DAYS_PER_MONTH = 30.0
GB = 1e9
MILLION = 1e6
ROUNDING = 1e-9
"""Of quotients such as 7.8 / 0.1, which are whole numbers."""


class Resource(StrEnum):
    """What may bind."""

    MEMORY = "memory"
    CORES = "cores"
    SPEED = "speed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A kind of node."""

    memory_bytes: float
    reserved_bytes: float = 0.0
    cores: float | None = None
    bandwidth_bytes: float | None = None
    """Of its memory, each second; None: speed is not looked at."""
    price_per_month: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance with its model."""

    memory_bytes: float
    tokens_per_second: float
    """While it generates and has the node's memory to itself."""
    cores: float = 0.0
    """That are kept for it; 0: instances share all cores."""
    weights_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What developers ask of the fleet."""

    developers: float
    requests_per_day: float
    """Of each developer."""
    peak_factor: float
    """The rate at peak against the mean of the day."""
    tokens_per_request: float
    wait_s: float = 0.0
    """Time to first token, during which the instance is busy too."""
    max_refused: float = 0.001

    @property
    def tokens_per_month(self) -> float:
        """Return what is generated."""
        a_day = self.developers * self.requests_per_day * self.tokens_per_request
        return a_day * DAYS_PER_MONTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: for a count of instances, a demand, or both."""

    node: Node
    instance: Instance
    n_instances: int = 0
    demand: Demand | None = None
    spare_nodes: int = 0
    given_nodes: int | None = None
    """Judge these instead of what is needed."""
    api_price: float | None = None
    """Of a million tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the arithmetic."""

    what: str
    working: str
    value: float
    unit: str


@dataclass(slots=True)
class Working:
    """All steps so far, in their order."""

    steps: list[Step] = field(default_factory=list)

    def add(self, what: str, working: str, value: float, unit: str) -> float:
        """Note a step; return its value."""
        self.steps.append(Step(what, working, value, unit))
        return value

    def count(self, what: str, working: str, value: float, unit: str) -> int:
        """Note a step that gives a whole number; return it."""
        return int(self.add(what, working, value, unit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """In dollars; None where a price is not known, or no demand."""

    per_month: float | None = None
    per_million_tokens: float | None = None
    """Of those that the demand takes, else of those that the fleet can generate."""
    is_of_demand: bool = False
    api_per_month: float | None = None
    break_even_million_tokens_per_month: float | None = None
    """From here on the hosted API costs more."""
    break_even_of_possible: float | None = None
    """As a share of what the fleet can generate; above 1 the API is always cheaper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer."""

    n_instances: int
    """That are wanted, or that the demand takes."""
    needed_nodes: int
    """Without spare ones."""
    nodes: int
    spare_nodes: int
    binds: Resource
    nodes_by_resource: Mapping[Resource, int]
    per_node: int
    """Instances that a node holds."""
    at_full_speed: int | None
    """Instances of a node that can generate at once without slowing each other down."""
    tokens_per_second: float
    """Of all nodes, with as many instances busy as run at full speed."""
    costs: Costs
    steps: tuple[Step, ...]

    @property
    def held(self) -> int:
        """Return the instances that the nodes hold."""
        return self.nodes * self.per_node

    @property
    def held_without_spare(self) -> int:
        """Return the instances that are held while as many nodes are lost as are spare."""
        return max(self.nodes - self.spare_nodes, 0) * self.per_node

    @property
    def is_enough(self) -> bool:
        """Return whether the nodes do what is asked, with as many lost as are spare."""
        return self.needed_nodes <= self.nodes - self.spare_nodes


def plan(asked: Question) -> Plan:
    """Return how many nodes it takes.

    Raises:
        ImpossibleError: A node cannot hold one instance, or not at the stated speed.
    """
    working = Working()
    busy = _busy(asked.demand, asked.instance, working) if asked.demand else 0
    wanted = max(asked.n_instances, busy)
    limits = _limits(asked, working)
    full_speed = _at_full_speed(asked, working)
    counts = {resource: (wanted, limit) for resource, limit in limits.items()}
    if busy and full_speed:
        counts[Resource.SPEED] = (busy, full_speed)
    nodes_by = {one: _nodes(one, *count, working) for one, count in counts.items()}
    needed = max(nodes_by.values())
    nodes = _total(asked, needed, wanted, working)
    running = min(wanted, nodes * min(limits.values()), nodes * (full_speed or wanted))
    speed = working.add(
        "speed of the fleet",
        f"{running:,} instances at once × {asked.instance.tokens_per_second:g}",
        running * asked.instance.tokens_per_second,
        "tokens/s",
    )
    return Plan(
        n_instances=wanted,
        needed_nodes=needed,
        nodes=nodes,
        spare_nodes=asked.spare_nodes,
        binds=max(nodes_by, key=lambda one: nodes_by[one]),
        nodes_by_resource=nodes_by,
        per_node=min(limits.values()),
        at_full_speed=full_speed,
        tokens_per_second=speed,
        costs=_costs(asked, nodes, speed, working),
        steps=tuple(working.steps),
    )


def _busy(demand: Demand, instance: Instance, working: Working) -> int:
    """Return the instances that serve the demand at its peak."""
    rate = working.add(
        "requests at peak",
        f"{demand.developers:,g} developers × {demand.requests_per_day:,g} a day × "
        f"{demand.peak_factor:g} / 86,400 s",
        demand.developers * demand.requests_per_day * demand.peak_factor / DAY_S,
        "requests/s",
    )
    wait = f"{duration_text(demand.wait_s)} + " if demand.wait_s else ""
    duration_s = working.add(
        "duration",
        f"{wait}{demand.tokens_per_request:,g} tokens / {instance.tokens_per_second:g} tokens/s",
        demand.wait_s + demand.tokens_per_request / instance.tokens_per_second,
        "s",
    )
    running = working.add(
        "requests at once",
        f"{figure(rate)} requests/s × {figure(duration_s)} s (Little's law)",
        concurrency(rate, duration_s),
        "requests",
    )
    return working.count(
        "instances at peak",
        f"the fewest that refuse at most {percent(demand.max_refused)} of {figure(running)} "
        "requests at once (Erlang B)",
        instances_for(running, demand.max_refused),
        "instances",
    )


def _limits(asked: Question, working: Working) -> dict[Resource, int]:
    """Return how many instances a node holds, by the resource that limits them."""
    node, instance = asked.node, asked.instance
    free_bytes = node.memory_bytes - node.reserved_bytes
    words = f"({gigabytes(node.memory_bytes)} - {gigabytes(node.reserved_bytes)} for the system)"
    words += f" / {gigabytes(instance.memory_bytes)}"
    limits = {
        Resource.MEMORY: _limit(Resource.MEMORY, words, free_bytes, instance.memory_bytes, working)
    }
    if instance.cores and node.cores:
        words = f"{node.cores:g} cores / {instance.cores:g}"
        limits[Resource.CORES] = _limit(Resource.CORES, words, node.cores, instance.cores, working)
    return limits


def _limit(what: Resource, words: str, there: float, each: float, working: Working) -> int:
    if there < each:
        raise ImpossibleError(
            f"a node has too little {what} for one instance: {words} is below 1; "
            "take larger nodes or a smaller model"
        )
    return working.count(
        f"by {what}", words, math.floor(there / each + ROUNDING), "instances a node"
    )


def _at_full_speed(asked: Question, working: Working) -> int | None:
    """Return how many instances of a node can generate at once at the stated speed."""
    node, instance = asked.node, asked.instance
    if node.bandwidth_bytes is None or instance.weights_bytes is None:
        return None
    words = (
        f"{gigabytes(node.bandwidth_bytes)}/s of memory / ({instance.tokens_per_second:g} tokens/s "
        f"× {gigabytes(instance.weights_bytes)} of weights)"
    )
    n = math.floor(
        node.bandwidth_bytes / (instance.weights_bytes * instance.tokens_per_second) + ROUNDING
    )
    if not n:
        most = node.bandwidth_bytes / instance.weights_bytes
        raise ImpossibleError(
            f"the node's memory is too slow for one instance at this speed: {words} is below 1, "
            f"and at most {figure(most)} tokens/s are possible; check --tokens-per-second, "
            "--weights and --memory-bandwidth"
        )
    return working.count("at full speed", words, n, "instances a node at once")


def _nodes(resource: Resource, n: int, limit: int, working: Working) -> int:
    return working.count(
        f"nodes by {resource}", f"{n:,} / {limit:,}", math.ceil(n / limit), "nodes"
    )


def _total(asked: Question, needed: int, wanted: int, working: Working) -> int:
    """Return the nodes that are given, or that are needed with the spare ones."""
    if (nodes := asked.given_nodes) is None:
        words = f"{needed:,} + {asked.spare_nodes:,} spare"
        return working.count("nodes", words, needed + asked.spare_nodes, "nodes")
    each = working.count(
        f"on each of {nodes:,}", f"{wanted:,} / {nodes:,}", math.ceil(wanted / nodes), "instances"
    )
    words = f"{each:,} × {gigabytes(asked.instance.memory_bytes)}"
    working.add("memory for them", words, each * asked.instance.memory_bytes / GB, "GB a node")
    return nodes


def _costs(asked: Question, nodes: int, speed: float, working: Working) -> Costs:
    """Return what the nodes cost, and what a hosted API would."""
    demand, price, api = asked.demand, asked.node.price_per_month, asked.api_price
    possible = working.add(
        "can generate",
        f"{figure(speed)} tokens/s × {DAYS_PER_MONTH:g} days",
        speed * DAYS_PER_MONTH * DAY_S / MILLION,
        "million tokens a month",
    )
    used = possible
    if demand:
        used = working.add(
            "do generate",
            f"{demand.developers:,g} × {demand.requests_per_day:,g} × "
            f"{demand.tokens_per_request:,g} tokens × {DAYS_PER_MONTH:g} days",
            demand.tokens_per_month / MILLION,
            "million tokens a month",
        )
    api_cost = None
    if api is not None and demand:
        words = f"{figure(used)} million × {api:g} $"
        api_cost = working.add("hosted API", words, used * api, "$ a month")
    if price is None:
        return Costs(api_per_month=api_cost)
    cost = working.add("cost", f"{nodes:,} × {price:,g} $", nodes * price, "$ a month")
    each = working.add(
        "cost of tokens", f"{figure(cost)} $ / {figure(used)} million", cost / used, "$ a million"
    )
    even = None
    if api is not None:
        words = f"{figure(cost)} $ / {api:g} $ a million"
        even = working.add("break-even", words, cost / api, "million tokens a month")
    return Costs(
        per_month=cost,
        per_million_tokens=each,
        is_of_demand=demand is not None,
        api_per_month=api_cost,
        break_even_million_tokens_per_month=even,
        break_even_of_possible=even and even / possible,
    )


def gigabytes(n_bytes: float) -> str:
    """Return a size as the data have it: `7.8 GB`."""
    return f"{figure(n_bytes / GB)} GB"


def figure(value: float) -> str:
    """Return a number with as many digits as anyone reads: `16,876`, `921.6`, `0.5`."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return number(float(f"{value:.4g}"))


MAX_CONCURRENCY = 1e6
"""More requests at once than any fleet has instances for."""


def concurrency(requests_per_second: float, duration_s: float) -> float:
    """Return how many requests run at once on average, by Little's law: L = λ × W."""
    return requests_per_second * duration_s


def instances_for(offered: float, max_refused: float) -> int:
    """Return the fewest instances, at least one, that refuse at most a share of the requests.

    By Erlang's loss formula, which holds for requests that come independently of each other: an
    instance runs one at a time, and the gateway refuses what finds none free.

    Raises:
        ImpossibleError: The load is beyond any fleet.
    """
    if offered > MAX_CONCURRENCY:
        raise ImpossibleError(
            f"{offered:,.0f} requests run at once, more than {MAX_CONCURRENCY:,.0f}: check "
            "--developers, --requests-per-day, --peak-factor and --tokens-per-request"
        )
    n, inverse = 1, 1 + 1 / offered
    while inverse * max_refused < 1:
        n += 1
        inverse = 1 + inverse * n / offered
    return n
