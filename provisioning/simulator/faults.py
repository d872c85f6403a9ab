"""Faults of simulated instances, parsed from text or JSON, and which instances have them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.tables import count_text
from provisioning.simulator.errors import FaultError
from provisioning.simulator.spec import RELEASE_BY_VERSION, Instance


class Kind(StrEnum):
    """What is wrong."""

    KILL = "kill"
    """Connections are reset, new ones at accept; healing starts a new process."""
    NODE_GONE = "node_gone"
    """Every instance of a node is killed."""
    HANG = "hang"
    """Connections are accepted and never answered."""
    SLOW = "slow"
    """Speed times `factor`, durations divided by it."""
    ERRORS = "errors"
    """Requests fail at `ratio`."""
    OOM_RESTART = "oom_restart"
    """Killed for memory once: counters at zero, loading for `seconds`."""
    OOM_KILL = "oom_kill"
    """Killed for memory for good; as kill."""
    LOADING = "loading"
    """The model is being loaded: 503."""
    GARBAGE = "garbage"
    """Status 200 with a body that is no JSON."""
    MALFORMED = "malformed"
    """Bytes that are no HTTP."""
    CLOSE = "close"
    """Connections are closed in the middle of an answer."""
    DELAY = "delay"
    """Every answer comes `seconds` late."""
    NO_METRICS = "no_metrics"
    """Health is fine, the metrics are not there, or broken."""
    SHRINK = "shrink"
    """The instances leave the inventory; they go on answering."""
    RUNNER_HANG = "runner_hang"
    """The model's process freezes, the server does not; a request has it replaced after a time."""
    RUNNER_KILL = "runner_kill"
    """The model's process is killed; a request starts another."""
    RUNNER_OOM = "runner_oom"
    """The model's process is killed for lack of memory, as is every other that is started."""
    UNLOAD = "unload"
    """A client unloads the models."""
    NO_MODEL = "no_model"
    """The store is empty."""
    PARTLY_CPU = "partly_cpu"
    """`ratio` of the model is not in the GPU's memory, which slows it down."""
    BUSY = "busy"
    """Other clients' requests come first: each request waits `seconds` for its turn."""
    RESTART = "restart"
    """The server is started again once, as `version` where one is given."""


class MetricsFailure(StrEnum):
    """How metrics fail under NO_METRICS."""

    NOT_FOUND = "404"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a choice of instances."""

    kind: Kind
    ids: tuple[str, ...] = ()
    node: str | None = None
    model: str | None = None
    count: int | None = None
    share: float | None = None
    """Of the instances that the other selectors leave, 0 < share <= 1."""
    factor: float = 0.7
    ratio: float = 0.05
    seconds: float = 5.0
    how: MetricsFailure = MetricsFailure.NOT_FOUND
    version: str | None = None
    """None: the one that it has."""

    def as_json(self) -> dict[str, object]:
        """Return the fault as the control API writes it: the keys that mean something for it."""
        keys = ("kind", *SELECTORS, *PARAMETERS_BY_KIND.get(self.kind, ()))
        return {key: value for key in keys if (value := getattr(self, key)) not in (None, ())}


SELECTORS = ("ids", "node", "model", "count", "share")
PARAMETERS_BY_KIND: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        Kind.RUNNER_HANG: ("seconds",),
        Kind.PARTLY_CPU: ("ratio",),
        Kind.BUSY: ("seconds",),
        Kind.RESTART: ("version",),
        Kind.SLOW: ("factor",),
        Kind.ERRORS: ("ratio",),
        Kind.OOM_RESTART: ("seconds",),
        Kind.DELAY: ("seconds",),
        Kind.NO_METRICS: ("how",),
    }
)
DEFAULTS_BY_KIND: Mapping[Kind, Mapping[str, float]] = MappingProxyType(
    {Kind.RUNNER_HANG: {"seconds": 20.0}, Kind.PARTLY_CPU: {"ratio": 0.5}}
)
"""Where they differ from a Fault's own; 20 s as a real server was seen to take."""


def parse_fault(text: str) -> Fault:
    """Read `kind:key=value,key=value`; several ids are joined by `+`."""
    kind, _, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    unclear = [f"{key!r} is no key=value" for key, equals, _ in pairs if not equals]
    if unclear:
        raise FaultError(unclear)
    values: dict[str, object] = {key.strip(): value.strip() for key, _, value in pairs}
    if "ids" in values:
        values["ids"] = str(values["ids"]).split("+")
    return read_fault({"kind": kind.strip(), **values})


def read_fault(values: Mapping[str, object]) -> Fault:
    """Read a fault from a JSON object, or raise FaultError with everything wrong in it."""
    kind = _kind(values.get("kind"))
    known = (*SELECTORS, *PARAMETERS_BY_KIND.get(kind, ()))
    problems = [
        f"unknown key {key!r} for {kind}{did_you_mean(key, known)}"
        for key in values
        if key not in known and key != "kind"
    ]
    read: dict[str, Any] = {}
    for key in known:
        if key in values:
            try:
                read[key] = _READERS[key](values[key])
            except ValueError as error:
                problems.append(f"{key}: {error}")
    problems += _unselected(kind, values)
    if problems:
        raise FaultError(problems)
    return Fault(kind=kind, **{**DEFAULTS_BY_KIND.get(kind, {}), **read})


def select(
    fault: Fault, instances: Sequence[Instance], *, taken: Collection[int], seed: int
) -> frozenset[int]:
    """Choose the instances that a fault befalls, the same ones every time.

    With `count` and `share` the choice is spread over the fleet, and instances that have another
    fault already (`taken`, by index) come last.

    Raises:
        FaultError: A node, model or id is unknown, or too few instances are left.
    """
    if not instances:
        raise FaultError(["there are no instances yet, so no fault can be applied"])
    problems = list(_unknown(fault, instances))
    if problems:
        raise FaultError(problems)
    wanted = set(fault.ids)
    left = [
        instance
        for instance in instances
        if (not wanted or instance.id in wanted)
        and fault.node in (None, instance.node)
        and fault.model in (None, instance.model.name)
    ]
    n_chosen = _n_chosen(fault, len(left))
    if n_chosen < len(left):
        left.sort(key=lambda one: (one.index in taken, _lot(fault.kind, one.id, seed), one.index))
    return frozenset(instance.index for instance in left[:n_chosen])


def _n_chosen(fault: Fault, n_left: int) -> int:
    if n_left == 0:
        raise FaultError([f"no instance matches {fault.as_json()}"])
    if fault.share is not None:
        return max(1, round(fault.share * n_left))
    if fault.count is None:
        return n_left
    if fault.count > n_left:
        raise FaultError(
            [f"count is {fault.count:,}, but only {count_text(n_left, 'instance')} can be chosen"]
        )
    return fault.count


def _lot(kind: Kind, instance_id: str, seed: int) -> int:
    return zlib.crc32(f"{seed}/{kind}/{instance_id}".encode())


def _unknown(fault: Fault, instances: Sequence[Instance]) -> Iterator[str]:
    nodes = {instance.node for instance in instances}
    if fault.node is not None and fault.node not in nodes:
        yield f"unknown node {fault.node!r}{did_you_mean(fault.node, nodes)}"
    models = {instance.model.name for instance in instances}
    if fault.model is not None and fault.model not in models:
        yield f"unknown model {fault.model!r}{did_you_mean(fault.model, models)}"
    if fault.ids:
        ids = {instance.id for instance in instances}
        for unknown in sorted(set(fault.ids) - ids):
            yield f"unknown id {unknown!r}; ids are {instances[0].id} to {instances[-1].id}"


def _unselected(kind: Kind, values: Mapping[str, object]) -> Iterator[str]:
    if kind is Kind.NODE_GONE:
        if set(SELECTORS) & set(values) != {"node"}:
            yield "node_gone takes node=NAME and no other selector"
    elif not set(SELECTORS) & set(values):
        yield f"{kind} needs a selector: {', '.join(SELECTORS)} (share=1 for the whole fleet)"
    if "count" in values and "share" in values:
        yield "give count or share, not both"


def _kind(value: object) -> Kind:
    try:
        return Kind(str(value))
    except ValueError:
        kinds = [kind.value for kind in Kind]
        raise FaultError(
            [f"unknown kind {value!r}; kinds: {', '.join(kinds)}{did_you_mean(str(value), kinds)}"]
        ) from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a name, got {value!r}")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of ids, got {value!r}")
    return tuple(_text(one) for one in value)


def _count(value: object) -> int:
    number = _number(value)
    if number < 1 or number != int(number):
        raise ValueError(f"expected a whole number of 1 or more, got {value!r}")
    return int(number)


def _ratio(value: object) -> float:
    number = _number(value)
    if not 0 < number <= 1:
        raise ValueError(f"expected a number above 0 and up to 1, got {value!r}")
    return number


def _positive(value: object) -> float:
    number = _number(value)
    if not 0 < number <= MAX_NUMBER:
        raise ValueError(f"expected a number above 0 and up to {MAX_NUMBER:,}, got {value!r}")
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number, got {value!r}")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"expected a number, got {value!r}") from None


def _how(value: object) -> MetricsFailure:
    try:
        return MetricsFailure(str(value))
    except ValueError:
        raise ValueError(f"expected {' or '.join(MetricsFailure)}, got {value!r}") from None


def _version(value: object) -> str:
    if value not in RELEASE_BY_VERSION:
        raise ValueError(f"expected {' or '.join(RELEASE_BY_VERSION)}, got {value!r}")
    return str(value)


MAX_NUMBER = 1_000_000
_READERS: Mapping[str, Callable[[object], object]] = MappingProxyType(
    {
        "ids": _texts,
        "node": _text,
        "model": _text,
        "count": _count,
        "share": _ratio,
        "factor": _positive,
        "ratio": _ratio,
        "seconds": _positive,
        "how": _how,
        "version": _version,
    }
)
