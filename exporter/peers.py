"""The speed of a node's peers: nodes of the same hardware, or else of the same class of speed."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import log
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class NodeKey(NamedTuple):
    """What a node's speed is kept apart by."""

    node: str
    model: str
    engine: str


MIN_PEERS = 3
"""Nodes of a kind, itself included, for a node to be compared, and in a class of speed."""
CLASS_SHARE = 0.02
"""Least share of the nodes in a class of speed: fewer are rather slow than another kind."""
CLASS_RATIO = 1.6
"""Least ratio of two classes' medians: a batch of nodes that is 30 % slower differs by 1.43."""
CLASS_WIDTH = 1.25
"""A node that is faster than the median of a class by more than this is a slow one of the next.

Faults make a node slower than its kind, hardly ever faster.
"""


def peers_speeds(
    speed_by_key: Mapping[NodeKey, float], hardware_by_node: Mapping[str, str]
) -> dict[NodeKey, float]:
    """Return the median speed of each node's peers, itself included, as far as it has any.

    Args:
        speed_by_key: Tokens/s per instance; above 0.
        hardware_by_node: What the inventory calls it; nodes without are sorted by their speed.
    """
    kinds: dict[tuple[str, str, str], list[NodeKey]] = {}
    for key in speed_by_key:
        hardware = hardware_by_node.get(key.node, "")
        kinds.setdefault((key.model, key.engine, hardware), []).append(key)
    peers: dict[NodeKey, float] = {}
    for (_, _, hardware), keys in kinds.items():
        if len(keys) >= MIN_PEERS:
            ordered = sorted([speed_by_key[key] for key in keys])
            medians = [median(ordered)] if hardware else class_medians(ordered)
            widest = [speed * CLASS_WIDTH for speed in medians[:-1]]
            peers |= {key: medians[bisect_left(widest, speed_by_key[key])] for key in keys}
    return peers


def class_medians(ordered: Sequence[float]) -> list[float]:
    """Return the medians of the classes of speed, slowest first."""
    return _medians(ordered, max(MIN_PEERS, int(CLASS_SHARE * len(ordered))))


def _medians(ordered: Sequence[float], least: int) -> list[float]:
    """Split a class where it falls apart most, as long as its parts' medians are far apart.

    Neighbours' distances would not do: noise closes the gap between two classes of many nodes, as
    one slow node between them does.
    """
    cut = _natural_break(ordered, least)
    low, high = ordered[:cut], ordered[cut:]
    if not cut or median(high) < CLASS_RATIO * median(low):
        return [median(ordered)]
    return _medians(low, least) + _medians(high, least)


def _natural_break(ordered: Sequence[float], least: int) -> int:
    """Return the number of slowest ones to split off; 0 if all are about as fast, or too few.

    This leaves the two parts the least variance of log speeds (Jenks' natural breaks, Otsu).
    """
    if ordered[-1] < CLASS_RATIO * ordered[0]:
        return 0
    slowest, n_all = log(ordered[0]), len(ordered)
    sums = (0.0, *accumulate([log(speed) - slowest for speed in ordered]))
    total = sums[-1]
    return max(
        range(least, n_all - least + 1),
        key=lambda n: (n_all * sums[n] - n * total) ** 2 / (n * (n_all - n)),
        default=0,
    )
