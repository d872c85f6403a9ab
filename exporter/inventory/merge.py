"""Merge the lists of all sources, keep this shard's part, and say what changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import NamedTuple

from exporter.inventory.entries import repetition
from exporter.model import Target
from exporter.steps import run_with_pauses, sorted_in_steps, with_pauses
from ollama_fleet.problems import MAX_PROBLEMS, Problem


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two states, in their order; false when nothing does."""

    added: tuple[Target, ...] = ()
    removed: tuple[Target, ...] = ()
    changed: tuple[tuple[Target, Target], ...] = ()
    """(before, after) of instances that stay but are described otherwise."""
    appeared: frozenset[str] = frozenset()
    """Ids of added ones that are not of the first list of their source: they are new."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        counts = len(self.added), len(self.removed), len(self.changed)
        return "added={} removed={} changed={}".format(*counts)


NO_CHANGE = Change()


def diff(before: Iterable[Target], after: Iterable[Target]) -> Change:
    """Return what has to be done to get from `before` to `after`."""
    old_by_id = {target.id: target for target in before}
    new_by_id = {target.id: target for target in after}
    pairs = ((old_by_id.get(key), new) for key, new in new_by_id.items())
    return Change(
        added=tuple(new for key, new in new_by_id.items() if key not in old_by_id),
        removed=tuple(old for key, old in old_by_id.items() if key not in new_by_id),
        changed=tuple((old, new) for old, new in pairs if old is not None and old != new),
    )


def keep_identity(before: Iterable[Target], after: Iterable[Target]) -> tuple[Target, ...]:
    """Return `after` with each target that is equal to one in `before` replaced by that one."""
    old_by_id = {target.id: target for target in before}
    return tuple(_same_or_new(old_by_id.get(target.id), target) for target in after)


def _same_or_new(old: Target | None, new: Target) -> Target:
    return old if old is not None and old == new else new


SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)
HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`: 0 <= index < count."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard {self} does not exist: shards of {self.count} are counted from 0"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that `i/n` names.

        Raises:
            ValueError: The text is not two whole numbers, or i is not below n.
        """
        found = SHARD.fullmatch(text)
        if found is None:
            raise ValueError(f"shard must be i/n such as 0/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def holds(self, instance_id: str) -> bool:
        """Return whether an instance belongs to this shard."""
        hashed = hashlib.blake2b(instance_id.encode(), digest_size=HASH_BYTES).digest()
        return int.from_bytes(hashed, "big") % self.count == self.index


WHOLE = Shard(0, 1)
"""The shard that holds every instance."""


Listed = tuple[Target, ...]


class Conflict(NamedTuple):
    """One id that two sources list, each with its own entry."""

    sources: tuple[int, int]
    targets: tuple[Target, Target]

    def problem_for(self, source: int) -> Problem:
        """Return the problem as the owner of `source` should read it: own place first."""
        own = self.sources.index(source)
        one, other = self.targets[own], self.targets[1 - own]
        return repetition(one.id, one.origin, other.origin)


class Resolution(NamedTuple):
    """What becomes of the new lists, by the index of their source."""

    taken: frozenset[int]
    refused: Mapping[int, tuple[Problem, ...]]


def resolve(active: Sequence[Listed], new: Mapping[int, Listed]) -> Resolution:
    """Decide which new lists go together with each other and with the lists they do not replace.

    All are tried at once, so that an instance may move from one source to another in one step.
    Where two lists claim an id, the new one is refused; of two new ones, the later source's.
    """
    taken = set(new)
    refused: dict[int, tuple[Problem, ...]] = {}
    while True:
        found = conflicts([new[i] if i in taken else old for i, old in enumerate(active)])
        if not found:
            return Resolution(frozenset(taken), refused)
        for loser in {max(taken.intersection(conflict.sources)) for conflict in found}:
            own = (conflict.problem_for(loser) for conflict in found if loser in conflict.sources)
            refused[loser] = tuple(islice(own, MAX_PROBLEMS))
            taken.remove(loser)


def conflicts(lists: Sequence[Listed]) -> list[Conflict]:
    """Return every id that stands in two lists; ids are unique within each."""
    found: list[Conflict] = []
    first_by_id: dict[str, tuple[int, Target]] = {}
    for index, targets in enumerate(lists):
        for target in targets:
            first_index, first = first_by_id.setdefault(target.id, (index, target))
            if first is not target:
                found.append(Conflict((first_index, index), (first, target)))
    return found


def repeated_urls(lists: Sequence[Listed]) -> list[tuple[str, str]]:
    """Return the pairs of ids that stand for one URL, at most some of them."""
    id_by_url: dict[tuple[str, int, str], str] = {}
    pairs = (
        (id_by_url.setdefault((target.host, target.port, target.path), target.id), target.id)
        for target in with_pauses(chain.from_iterable(lists))
    )
    return list(islice(((one, other) for one, other in pairs if one != other), MAX_PROBLEMS))


def merge(
    before: Listed, lists: Sequence[Listed], shard: Shard, first_lists: Iterable[int] = ()
) -> tuple[Listed, Change]:
    """Return this shard's part of all lists, sorted by id, and how it differs from `before`.

    Targets that are equal to one in `before` are that very object. `first_lists` are the indexes of
    those whose sources gave none before.
    """
    held = [target for target in chain.from_iterable(lists) if shard.holds(target.id)]
    target_by_id = {target.id: target for target in held}
    ids = run_with_pauses(sorted_in_steps(target_by_id))
    after = keep_identity(before, (target_by_id[id_] for id_ in ids))
    is_same = len(before) == len(after) and all(map(_is, before, after))
    if is_same:
        return before, NO_CHANGE
    change = diff(before, after)
    known = {target.id for index in first_lists for target in lists[index]}
    new = frozenset(target.id for target in change.added if target.id not in known)
    return after, replace(change, appeared=new)


def _is(one: Target, other: Target) -> bool:
    return one is other
