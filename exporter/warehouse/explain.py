"""Find the labels that explain outliers: which values slow, failing or ageing instances share.

Instances of one node are not independent: one slow node with 800 instances would make every label
of that node significant. So each node counts once for what it has of a value, and once for what it
has without it (Fisher's exact test over nodes). Where a value differs within nodes, instances are
compared with others of their own node only (exact test of 2 × 2 tables by node), which no fault of
a node can feign. All p-values are corrected together for the number of values looked at (Holm).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from exporter.warehouse.errors import WarehouseError
from exporter.warehouse.schema import INSTANCE_HOURS
from exporter.warehouse.storage import Warehouse
from exporter.warehouse.trend import NodeTrend, Numbers, holm

SLOW_BELOW = 0.85
"""Share of the median of its peers."""
FAILING_BELOW = 0.99
"""Uptime."""
MIN_PEERS = 5
QUANTISATION = re.compile(
    r"(?:^|[-:_.])((?:iq|q)\d(?:_[0-9a-z]+)*|fp16|f16|bf16|fp8|int[48])\b", re.IGNORECASE
)
OWN = ("model", "engine", "version", "hardware")
COLUMNS = ("cluster", "instance_id", "node", *OWN, "labels", "uptime_ratio")
SPEED = "tokens_per_second_median"


@dataclass(slots=True)
class Seen:
    """One instance, over the hours of the period."""

    row: dict[str, Any]
    """Of its last hour."""
    speeds: list[float] = field(default_factory=list)
    uptimes: list[float] = field(default_factory=list)


IsOutlier = Callable[[Seen], bool]


def seen(store: Warehouse, days: Iterable[date]) -> list[Seen]:
    """Return the instances of the period.

    Raises:
        WarehouseError: There is none.
    """
    found: dict[tuple[str, str, str], Seen] = {}
    for _, table in store.read(INSTANCE_HOURS, [*COLUMNS, SPEED], list(days)):
        for batch in table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                _add(found, row)
    if not found:
        raise WarehouseError(f"{store.url} has no instance in the period")
    return [found[key] for key in sorted(found)]


def _add(found: dict[tuple[str, str, str], Seen], row: dict[str, Any]) -> None:
    key = (row["cluster"], row["instance_id"], row["node"])
    one = found.setdefault(key, Seen(row))
    if any(one.row[name] != row[name] for name in OWN):
        one.speeds.clear()  # another model has another speed
    one.row = row
    if row[SPEED]:
        one.speeds.append(row[SPEED])
    one.uptimes.append(row["uptime_ratio"])


def slow(instances: Sequence[Seen], below: float) -> IsOutlier:
    """Return whether one is slower than its peers: same cluster, model, engine and hardware.

    What peers have in common is the same for all of them, and explains nothing here.
    """
    speeds = defaultdict[tuple[str, ...], list[float]](list)
    for one in instances:
        if one.speeds:
            speeds[_kind(one)].append(median(one.speeds))
    limits = {kind: below * median(some) for kind, some in speeds.items() if len(some) >= MIN_PEERS}
    return lambda one: bool(one.speeds) and median(one.speeds) < limits.get(_kind(one), 0.0)


def _kind(one: Seen) -> tuple[str, ...]:
    return tuple(one.row[name] for name in ("cluster", "model", "engine", "hardware"))


def failing(below: float) -> IsOutlier:
    """Return whether one was healthy for too small a share of the period."""
    return lambda one: fmean(one.uptimes) < below


def subjects(instances: Iterable[Seen], is_outlier: IsOutlier) -> list[Subject]:
    """Return what is compared: each instance with all that it is labelled with."""
    return [
        Subject(
            one.row["cluster"],
            one.row["instance_id"],
            one.row["node"],
            _labels(one.row),
            is_outlier(one),
        )
        for one in instances
    ]


def _labels(row: dict[str, Any]) -> dict[str, str]:
    labels = {**dict(row["labels"] or ()), **{name: row[name] for name in OWN if row[name]}}
    if match := QUANTISATION.search(row["model"]):
        labels.setdefault("quantisation", match[1].lower())
    return labels


def ageing(nodes: Iterable[NodeTrend]) -> IsOutlier:
    """Return whether one is on a node that ages faster than its peers."""
    places = {(one.cluster, one.node) for one in nodes}
    return lambda one: (one.row["cluster"], one.row["node"]) in places


Counts = NDArray[np.signedinteger]

ALPHA = 0.01
"""Chance of a false explanation among all values together."""
MIN_NODES = 2
"""Nodes with a value, for it to be more than a name of its node."""
NODE = "node"
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Subject:
    """One instance in the period."""

    cluster: str
    instance_id: str
    node: str
    labels: Mapping[str, str]
    """What it has of the inventory, and model, engine, version, hardware, quantisation."""
    is_outlier: bool

    @property
    def place(self) -> tuple[str, str]:
        """Return its node among those of all clusters."""
        return self.cluster, self.node


class Value(NamedTuple):
    """One value of one label."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """How much a value of a label says about outliers."""

    value: Value
    n_outliers: int
    """Outliers that have it."""
    n_instances: int
    n_nodes: int
    support: float
    """Share of all outliers that have it."""
    lift: float
    """How many times more often an instance with it is an outlier than any instance."""
    p_value: float
    """Corrected for all values looked at."""
    same_as: tuple[Value, ...] = ()
    """Values of exactly the same instances: nothing here distinguishes them."""


def explanations(subjects: Sequence[Subject]) -> list[Explanation]:
    """Return the values that explain the outliers, the most probable first.

    Each next one explains what instances without the former ones have, so that a value of more
    instances, such as the vendor of all machines with a bad BIOS, is not named as well. A node's
    own name comes last: only of nodes that no other value explains.
    """
    found: list[Explanation] = []
    left = list(subjects)
    while best := next(iter(_significant(left, _members(left))), None):
        label, text = best.value
        members = [i for i, one in enumerate(subjects) if one.labels.get(label) == text]
        whole = _described(subjects, members, [best.value, *best.same_as])
        found.append(replace(whole, p_value=best.p_value))
        left = [one for one in left if one.labels.get(label) != text]
    return found + _nodes(subjects, left)


def _members(subjects: Sequence[Subject]) -> dict[Value, frozenset[int]]:
    members = defaultdict[Value, set[int]](set)
    for index, one in enumerate(subjects):
        for label, text in one.labels.items():
            members[Value(label, text)].add(index)
    return {value: frozenset(some) for value, some in sorted(members.items())}


def _significant(
    subjects: Sequence[Subject], by_value: Mapping[Value, frozenset[int]]
) -> list[Explanation]:
    same = defaultdict[frozenset[int], list[Value]](list)
    for value, members in by_value.items():
        places = {subjects[index].place for index in members}
        if len(places) >= MIN_NODES and len(members) < len(subjects):
            same[members].append(value)
    # Values of the same instances are one question.
    tested = [
        (_described(subjects, members, values), _p_value(subjects, members))
        for members, values in same.items()
    ]
    corrected = holm([p for _, p in tested])
    found = [
        replace(one, p_value=p) for (one, _), p in zip(tested, corrected, strict=True) if p < ALPHA
    ]
    return sorted(found, key=lambda one: (one.p_value, -one.lift, one.value))


def _described(
    subjects: Sequence[Subject], members: Collection[int], values: Sequence[Value]
) -> Explanation:
    n_all = sum(one.is_outlier for one in subjects)
    n_outliers = sum(subjects[index].is_outlier for index in members)
    rate = n_all / len(subjects)
    return Explanation(
        values[0],
        n_outliers,
        len(members),
        len({subjects[index].place for index in members}),
        n_outliers / n_all if n_all else 0.0,
        n_outliers / len(members) / rate if rate else 0.0,
        math.nan,
        tuple(values[1:]),
    )


class _Counts:
    """Outliers and instances of one node, with a value and without it."""

    __slots__ = ("n_with", "n_without", "with_", "without")

    def __init__(self) -> None:
        self.with_ = self.n_with = self.without = self.n_without = 0


def _p_value(subjects: Sequence[Subject], members: Collection[int]) -> float:
    """Return how improbable it is that outliers have a value so often by chance, uncorrected."""
    counts = defaultdict[tuple[str, str], _Counts](_Counts)
    for index, one in enumerate(subjects):
        node = counts[one.place]
        if index in members:
            node.n_with += 1
            node.with_ += one.is_outlier
        else:
            node.n_without += 1
            node.without += one.is_outlier
    nodes = list(counts.values())
    mixed = [one for one in nodes if one.n_with and one.n_without]
    between = _between_nodes(nodes)
    # Two looks at a value that differs within nodes cost a factor of two.
    return min(1.0, 2 * min(between, _within_nodes(mixed))) if mixed else between


def _between_nodes(nodes: Sequence[_Counts]) -> float:
    """Return Fisher's p-value: each node is an outlier where half of its instances are."""
    with_ = [one.with_ / one.n_with >= HALF for one in nodes if one.n_with]
    without = [one.without / one.n_without >= HALF for one in nodes if one.n_without]
    return _exact(sum(with_), len(with_), sum(without), len(without))


def _exact(hits: int, n: int, other_hits: int, n_other: int) -> float:
    return float(min(1.0, _hypergeometric(n + n_other, hits + other_hits, n)[hits:].sum()))


def _hypergeometric(n: int, hits: int, drawn: int) -> Numbers:
    """Return how probable each number of hits is among those that are drawn of n, from none on."""
    possible = np.arange(min(hits, drawn) + 1)
    ways = np.add(_log_choices(hits, possible), _log_choices(n - hits, drawn - possible))
    return np.asarray(np.exp(np.subtract(ways, _log_choices(n, drawn))))


def _log_choices(n: int, chosen: Counts | int) -> Numbers:
    """Return the logarithm of the binomial coefficient, which is minus infinity for zero ways."""
    of_chosen = special.gammaln(np.add(chosen, 1)) + special.gammaln(np.subtract(n + 1, chosen))
    return np.asarray(special.gammaln(n + 1) - of_chosen)


def _within_nodes(mixed: Sequence[_Counts]) -> float:
    """Return the p-value of the outliers with a value, given how many each node has.

    Their number is a sum of hypergeometric ones, whose distribution is computed.
    """
    chances = np.ones(1)
    total = 0
    for one in mixed:
        n, hits = one.n_with + one.n_without, one.with_ + one.without
        chances = np.convolve(chances, _hypergeometric(n, hits, one.n_with))
        total += one.with_
    return float(min(1.0, chances[total:].sum()))


def _nodes(subjects: Sequence[Subject], left: Sequence[Subject]) -> list[Explanation]:
    """Return the nodes that have far more outliers than what is left; instances count here."""
    members = defaultdict[str, set[int]](set)
    for index, one in enumerate(left):
        members[one.node].add(index)
    n_all = sum(one.is_outlier for one in left)
    tested = []
    for name, some in sorted(members.items()):
        hits = sum(left[index].is_outlier for index in some)
        p = _exact(hits, len(some), n_all - hits, len(left) - len(some))
        all_of = {i for i, one in enumerate(subjects) if one.node == name}
        tested.append((_described(subjects, all_of, [Value(NODE, name)]), p))
    corrected = holm([p for _, p in tested])
    found = [
        replace(one, p_value=p) for (one, _), p in zip(tested, corrected, strict=True) if p < ALPHA
    ]
    return sorted(found, key=lambda one: (one.p_value, one.value))
