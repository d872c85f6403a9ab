"""Compare two states of the fleet.

In:   targets before and after, ids unique in each.
Out:  a Change. Pure.
Targets are compared by what there is to poll; where an entry stands (`origin`) does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exporter.model import Target


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two states, in their order; false when nothing does."""

    added: tuple[Target, ...] = ()
    removed: tuple[Target, ...] = ()
    changed: tuple[tuple[Target, Target], ...] = ()
    """(before, after) of instances that stay but are described otherwise."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        counts = len(self.added), len(self.removed), len(self.changed)
        return "{:,} added, {:,} removed, {:,} changed".format(*counts)


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
