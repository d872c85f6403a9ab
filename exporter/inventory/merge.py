"""Make one fleet of the lists of several sources.

In:   each source's list in force, and the new lists of those that changed.
Out:  which new lists can be taken, and for the others the ids that are in the way. Pure.
A list is taken whole or not at all; lists in force never contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

from exporter.errors import Problem
from exporter.inventory.diff import NO_CHANGE, Change, diff, keep_identity
from exporter.inventory.entries import repetition
from exporter.inventory.faults import MAX_PROBLEMS
from exporter.inventory.shard import Shard
from exporter.leisure import run_gently, sorted_in_steps
from exporter.model import Target

Listed = tuple[Target, ...]


class Claim(NamedTuple):
    """One id that two sources list, each with its own entry."""

    sources: tuple[int, int]
    targets: tuple[Target, Target]

    def problem_for(self, source: int) -> Problem:
        """Return the problem as the owner of `source` should read it: own place first."""
        own = self.sources.index(source)
        one, other = self.targets[own], self.targets[1 - own]
        return repetition(one.id, one.origin, other.origin)


class Settlement(NamedTuple):
    """What becomes of the new lists, by the index of their source."""

    taken: frozenset[int]
    refused: Mapping[int, tuple[Problem, ...]]


def settle(in_force: Sequence[Listed], new: Mapping[int, Listed]) -> Settlement:
    """Decide which new lists go together with each other and with the lists they do not replace.

    All are tried at once, so that an instance may move from one source to another in one step.
    Where two lists claim an id, the new one is refused; of two new ones, the later source's.
    """
    taken = set(new)
    refused: dict[int, tuple[Problem, ...]] = {}
    while True:
        found = claims([new[i] if i in taken else old for i, old in enumerate(in_force)])
        if not found:
            return Settlement(frozenset(taken), refused)
        for loser in {max(taken.intersection(claim.sources)) for claim in found}:
            own = (claim.problem_for(loser) for claim in found if loser in claim.sources)
            refused[loser] = tuple(islice(own, MAX_PROBLEMS))
            taken.remove(loser)


def claims(lists: Sequence[Listed]) -> list[Claim]:
    """Return every id that stands in two lists; ids are unique within each."""
    found: list[Claim] = []
    first_by_id: dict[str, tuple[int, Target]] = {}
    for index, targets in enumerate(lists):
        for target in targets:
            first_index, first = first_by_id.setdefault(target.id, (index, target))
            if first is not target:
                found.append(Claim((first_index, index), (first, target)))
    return found


def merge(before: Listed, lists: Iterable[Listed], shard: Shard) -> tuple[Listed, Change]:
    """Return this shard's part of all lists, sorted by id, and how it differs from `before`.

    Targets that are equal to one in `before` are that very object.
    """
    held = [target for target in chain.from_iterable(lists) if shard.holds(target.id)]
    target_by_id = {target.id: target for target in held}
    ids = run_gently(sorted_in_steps(target_by_id))
    after = keep_identity(before, (target_by_id[id_] for id_ in ids))
    is_same = len(before) == len(after) and all(map(_is, before, after))
    return (before, NO_CHANGE) if is_same else (after, diff(before, after))


def _is(one: Target, other: Target) -> bool:
    return one is other
