"""Estimate how fast hardware ages: percent of speed that is lost in a month.

Each instance is compared with itself only, within stretches of one model, engine and version that
no jump of the level interrupts: neither a swapped model nor a replaced machine looks like ageing.
Its slope is the median of the slopes between all pairs of its weeks (Theil and Sen), weighted by
their distance, so that single bad weeks do not count. A node's slope is the weighted median of its
instances', the fleet's that of its nodes. Instances of a node share its weather: the interval comes
from drawing whole nodes again (bootstrap).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import special

from exporter.warehouse.errors import WarehouseError
from exporter.warehouse.schema import INSTANCE_HOURS
from exporter.warehouse.storage import Warehouse

Numbers = NDArray[np.float64]
SPEED = "tokens_per_second_median"


class Unit(NamedTuple):
    """An instance at one place: what ages is the hardware under it."""

    cluster: str
    instance_id: str
    node: str
    hardware: str


class Identity(NamedTuple):
    """What an instance runs; another one has another speed."""

    model: str
    engine: str
    version: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """The daily speeds of one unit with one identity."""

    unit: Unit
    identity: Identity
    days: Numbers
    """Since the begin of the period, ascending."""
    logs: Numbers
    """Natural logarithms of tokens/s."""


COLUMNS = (*Unit._fields, *Identity._fields)


def days_since(store: Warehouse, since_s: float) -> list[date]:
    """Return the days of the period that ends with the last day of the warehouse.

    Raises:
        WarehouseError: The warehouse has no day.
    """
    days = store.days()
    if not days:
        raise WarehouseError(
            f"{store.url} has no instance_hours; `ollama-fleet warehouse export` writes them"
        )
    return [day for day in days if day > days[-1] - timedelta(seconds=since_s)]


def stretches(store: Warehouse, days: Iterable[date]) -> list[Stretch]:
    """Return the daily speeds, each the geometric mean of the hours' medians."""
    points = defaultdict[tuple[str, ...], list[tuple[float, float]]](list)
    listed = list(days)
    for day, table in store.read(INSTANCE_HOURS, [*COLUMNS, SPEED], listed):
        at = float((day - listed[0]).days)
        for key, log in _of_day(table):
            points[key].append((at, log))
    n = len(Unit._fields)
    return [
        Stretch(Unit(*key[:n]), Identity(*key[n:]), *np.array(found, dtype=np.float64).T)
        for key, found in sorted(points.items())
    ]


def _of_day(table: Any) -> Iterable[tuple[tuple[str, ...], float]]:
    known = table.filter(pc.greater(table[SPEED], 0.0))
    logs = known.append_column("log", pc.ln(known[SPEED]))
    rolled = logs.group_by(list(COLUMNS)).aggregate([("log", "mean")])
    keys = zip(*(rolled[name].to_pylist() for name in COLUMNS), strict=True)
    return zip(keys, rolled["log_mean"].to_pylist(), strict=True)


MONTH_DAYS = 365.25 / 12
WEEK_DAYS = 7
MIN_WEEKS = 4
WINDOW_DAYS = 14
"""On each side of a jump."""
JUMP_SIGMAS = 5.0
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median, by that of a mean."""
MIN_PEERS = 5
"""Nodes of the same hardware, for one to age faster than its peers."""
MIN_EXCESS = 0.1
"""Points a month by which it ages faster, at least: less is of no consequence."""
ALPHA = 0.01
"""Chance of a false finding among all nodes together."""
MIN_CLUSTERS = 8
"""Nodes to draw again; of fewer, instances are drawn."""
N_DRAWS = 1000
HUBER = 1.345
"""Standard deviations from which on a value counts as an outlier: 95 % as good as the mean."""
N_STEPS = 10
N_POLISHES = 4
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Slope:
    """Change of the logarithm of speed in a day, and its weight: the spread of its weeks."""

    per_day: float
    weight: float

    @property
    def percent(self) -> float:
        """Return the change in percent a month."""
        return percent_a_month(self.per_day)


@dataclass(frozen=True, slots=True)
class NodeTrend:
    """How fast one node ages."""

    cluster: str
    node: str
    hardware: str
    slope: Slope
    instances: tuple[Slope, ...]
    since_day: float
    """Begin of the stretch that lasts: the first day, or the last replacement."""
    p_value: float = math.nan
    """That its peers would be as bad by chance, corrected for all nodes; NaN: too few peers."""
    excess: float = 0.0
    """Points a month by which it loses more than its peers."""

    @property
    def ages_faster(self) -> bool:
        """Return whether it loses clearly more than its peers."""
        return self.p_value < ALPHA and self.excess >= MIN_EXCESS


@dataclass(frozen=True, slots=True)
class Estimate:
    """Percent a month of some nodes, with the 95 % interval."""

    percent: float
    low: float
    high: float
    n_nodes: int
    n_instances: int

    def months_until(self, share: float) -> tuple[float, float, float]:
        """Return when speed is down to a share of new: at the estimate, soonest, latest."""
        low, middle, high = (
            math.log(share) / math.log1p(rate / 100) if rate < 0 else math.inf
            for rate in (self.low, self.percent, self.high)
        )
        return middle, low, high


@dataclass(frozen=True, slots=True)
class Trend:
    """What there is to say of a period."""

    first: date
    last: date
    fleet: Estimate
    by_hardware: Mapping[str, Estimate]
    nodes: tuple[NodeTrend, ...]

    @property
    def ageing(self) -> list[NodeTrend]:
        """Return the nodes that age faster than their peers, fastest first."""
        return sorted([one for one in self.nodes if one.ages_faster], key=lambda n: -n.excess)

    def falls_on(self, node: NodeTrend, share: float) -> date | None:
        """Return when a node is down to a share of new; None if not within a century."""
        if node.slope.per_day >= 0:
            return None
        days = node.since_day + math.log(share) / node.slope.per_day
        return self.first + timedelta(days=days) if days < 36_525 else None


def percent_a_month(per_day: float) -> float:
    """Return a change of the logarithm in a day as percent in a month."""
    return 100 * math.expm1(per_day * MONTH_DAYS)


def trend(found: Sequence[Stretch], first: date, last: date) -> Trend:
    """Return the trend of a period.

    Raises:
        WarehouseError: No instance is there long enough.
    """
    by_node = defaultdict[tuple[str, str, str], list[Stretch]](list)
    for one in found:
        by_node[one.unit.cluster, one.unit.node, one.unit.hardware].append(one)
    nodes = [node for key, group in sorted(by_node.items()) if (node := _node(key, group))]
    if not nodes:
        raise WarehouseError(
            f"no instance has speeds in {MIN_WEEKS} weeks between {first} and {last}; a trend "
            "needs months"
        )
    by_hardware = defaultdict[str, list[NodeTrend]](list)
    for node in nodes:
        by_hardware[node.hardware].append(node)
    return Trend(
        first,
        last,
        _estimate(nodes),
        {name: _estimate(group) for name, group in sorted(by_hardware.items())},
        tuple(_compared(nodes)),
    )


def _node(key: tuple[str, str, str], group: Sequence[Stretch]) -> NodeTrend | None:
    cuts = _node_jumps(group)
    by_unit = defaultdict[Unit, list[tuple[Numbers, Numbers]]](list)
    for one in group:
        by_unit[one.unit] += _pieces(one, cuts)
    slopes = [slope for parts in by_unit.values() if (slope := unit_slope(parts))]
    if not slopes:
        return None
    slope = Slope(_common(slopes), math.hypot(*[one.weight for one in slopes]))
    first = min(one.days[0] for one in group)
    return NodeTrend(*key, slope, tuple(slopes), float(max([first, *cuts])))


def _node_jumps(group: Sequence[Stretch]) -> list[float]:
    """Return the days at which the whole node jumps: what single instances hide in their noise.

    The node's level on each day is what its instances have in common that day, whichever of them
    were there (Tukey's median polish).
    """
    days = np.unique(np.concatenate([one.days for one in group]))
    logs = np.full((len(group), len(days)), np.nan)
    for row, one in zip(logs, group, strict=True):
        row[np.searchsorted(days, one.days)] = one.logs
    level = np.zeros(len(days))
    for _ in range(N_POLISHES):
        own = np.nanmedian(logs - level, axis=1, keepdims=True)
        level = np.nanmedian(logs - own, axis=0)
    return jumps(days, level)


def _pieces(one: Stretch, cuts: Iterable[float]) -> list[tuple[Numbers, Numbers]]:
    """Return a stretch in pieces without jumps."""
    edges = np.searchsorted(one.days, sorted({*cuts, *jumps(one.days, one.logs)}))
    parts = zip(np.split(one.days, edges), np.split(one.logs, edges), strict=True)
    return [(days, logs) for days, logs in parts if len(days)]


def jumps(days: Numbers, logs: Numbers) -> list[float]:
    """Return the days from which on the level is another, as a median of two weeks shows."""
    n = len(days)
    if n < 2 * WINDOW_DAYS:
        return []
    noise = NORMAL_MAD * float(np.median(np.abs(np.diff(logs)))) / math.sqrt(2)
    levels = np.median(np.lib.stride_tricks.sliding_window_view(logs, WINDOW_DAYS), axis=1)
    change = levels[WINDOW_DAYS:] - levels[:-WINDOW_DAYS]
    size = np.abs(change - np.median(change))  # ageing is no jump
    limit = JUMP_SIGMAS * max(noise, 1e-6) * MEDIAN_ERROR * math.sqrt(2 / WINDOW_DAYS)
    found: list[float] = []
    while size.size and size.max() > limit:
        best = int(size.argmax())
        found.append(float(days[best + WINDOW_DAYS]))
        size[max(0, best - WINDOW_DAYS + 1) : best + WINDOW_DAYS] = 0.0
    return sorted(found)


def unit_slope(parts: Iterable[tuple[Numbers, Numbers]]) -> Slope | None:
    """Return the slope that the pieces of one instance share; None if they are too short."""
    slopes: list[Numbers] = []
    spans: list[Numbers] = []
    spread, n_weeks = 0.0, 0
    for days, logs in parts:
        at, level = _weeks(days, logs)
        i, j = np.triu_indices(len(at), 1)
        span = at[j] - at[i]
        slopes.append((level[j] - level[i]) / span)
        spans.append(span)
        spread += float(((at - at.mean()) ** 2).sum())
        n_weeks = max(n_weeks, len(at))
    if n_weeks < MIN_WEEKS:
        return None
    return Slope(_weighted_median(np.concatenate(slopes), np.concatenate(spans)), spread**0.5)


def _weeks(days: Numbers, logs: Numbers) -> tuple[Numbers, Numbers]:
    """Return the mean day and the median level of each week that has days."""
    edges = np.flatnonzero(np.diff((days - days[0]) // WEEK_DAYS)) + 1
    at = np.array([part.mean() for part in np.split(days, edges)])
    return at, np.array([np.median(part) for part in np.split(logs, edges)])


def _common(slopes: Sequence[Slope]) -> float:
    """Return the slope that some have in common."""
    return float(huber_mean(*_arrays(slopes)))


def _arrays(slopes: Sequence[Slope]) -> tuple[Numbers, Numbers]:
    return (
        np.array([one.per_day for one in slopes]),
        np.array([one.weight for one in slopes]),
    )


def huber_mean(values: Numbers, weights: Numbers) -> Numbers:
    """Return the robust mean along the last axis: an outlier counts no more than a near one.

    Args:
        values: Estimates of one thing.
        weights: The inverse of the standard error of each, in any unit.
    """
    middle = np.median(values, axis=-1, keepdims=True)
    scale = np.median(np.abs(values - middle) * weights, axis=-1, keepdims=True)
    bound = HUBER * np.maximum(NORMAL_MAD * scale, 1e-12)
    for _ in range(N_STEPS):
        distance = np.maximum(np.abs(values - middle) * weights, 1e-300)
        used = weights**2 * np.minimum(1.0, bound / distance)
        middle = (used * values).sum(axis=-1, keepdims=True) / used.sum(axis=-1, keepdims=True)
    return np.asarray(middle[..., 0])


def _weighted_median(values: Numbers, weights: Numbers) -> float:
    order = np.argsort(values, kind="stable")
    ordered, total = values[order], np.cumsum(weights[order])
    return float(np.interp(total[-1] / 2, total - weights[order] / 2, ordered))


def _estimate(nodes: Sequence[NodeTrend]) -> Estimate:
    instances = [slope for node in nodes for slope in node.instances]
    drawn = [one.slope for one in nodes] if len(nodes) >= MIN_CLUSTERS else instances
    values, weights = _arrays(drawn)
    random = np.random.default_rng(0)
    choices = (random.integers(0, len(drawn), len(drawn)) for _ in range(N_DRAWS))
    means = [float(huber_mean(values[some], weights[some])) for some in choices]
    low, high = (percent_a_month(float(edge)) for edge in np.percentile(means, INTERVAL))
    middle = percent_a_month(_common(drawn))
    return Estimate(middle, min(low, middle), max(high, middle), len(nodes), len(instances))


def _compared(nodes: Sequence[NodeTrend]) -> list[NodeTrend]:
    """Return nodes with how improbable each is among its peers, corrected for their number.

    What is usual comes from the nodes' own spread: it holds whatever noise they have in common.
    """
    peers = defaultdict[str, list[float]](list)
    for one in nodes:
        peers[one.hardware].append(one.slope.percent)
    tested = [one for one in nodes if len(peers[one.hardware]) >= MIN_PEERS]
    if not tested:
        return list(nodes)
    excess = np.array([np.median(peers[one.hardware]) - one.slope.percent for one in tested])
    weights = np.array([one.slope.weight for one in tested])
    scaled = excess * weights  # one with fewer instances or days scatters more
    spread = max(NORMAL_MAD * float(np.median(np.abs(scaled))), 1e-12)
    p_values = holm([float(p) for p in special.stdtr(len(tested) - 1, -scaled / spread)])
    judged = {
        id(one): replace(one, p_value=p, excess=float(more))
        for one, p, more in zip(tested, p_values, excess, strict=True)
    }
    return [judged.get(id(one), one) for one in nodes]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold for all of them together, whatever depends on what."""
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = worst
    return corrected
