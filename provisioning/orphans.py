"""Orphans: containers and processes of this fleet that the store has no record of.

In:   a Fleet and an Observed.
Out:  the orphans, which of them are kept, and whether instances may be made. Pure; never fails.

A few orphans beside more records are garbage, and are deleted. Many, or more than there are
records, mean that the store is empty, was restored from an old backup, or is another fleet's: to
delete them would end what people use, and nothing would bring it back. They are counted and kept
until a person orders to delete them. While they are more than the records nothing is made either:
the records of new instances would soon be many enough for the orphans to look like garbage.

What is newer than its instance's record is an orphan too: records are written before anything is
started, so that record is of an older backup. While it runs it is kept, be it the only one, and
nothing is done to that instance.

None of this can be said before each node was asked: what one has may be a few beside what all
have. A node that hangs is waited for until its first look is over, once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from provisioning.actions import Observed
from provisioning.clock import Clock
from provisioning.model import FoundUnit, UnitState
from provisioning.spec_model import Fleet

log = logging.getLogger("provisioning.orphans")

MOST_DELETED = 10
"""Running orphans that are deleted without an order; more are no accident of one operation."""
WARNING_EVERY_S = 60.0
LIST_COMMAND = "ollama-fleet provisioner orphans list"
DELETE_COMMAND = "ollama-fleet provisioner orphans delete"


class Orphan(NamedTuple):
    """A container or process without a record, or newer than its record."""

    node: str
    unit: FoundUnit

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells it from all others."""
        return self.node, self.unit.name


class OrphanPolicy(NamedTuple):
    """What becomes of the orphans."""

    n_refused: int
    """Running orphans that are kept until a person orders to delete them."""
    kept: frozenset[tuple[str, str]]
    """Node and name of those that are not deleted now."""
    kept_ids: frozenset[str]
    """Their instances; some may have an older record."""
    may_place: bool
    """Whether instances may be made that have no record yet."""


class OrphanWarning:
    """Logs that orphans are kept, once a minute while they are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_s = 0.0

    def give(self, policy: OrphanPolicy) -> None:
        """Log it, if it is time and there are any."""
        now_s = self._clock.monotonic_s()
        if policy.n_refused and now_s >= self._next_s:
            self._next_s = now_s + WARNING_EVERY_S
            log.error(
                "orphans=%d: they run without a record in the store, or with an older one, and are "
                "not deleted%s; the store may be the wrong one, empty, or an old backup: then stop "
                "the provisioner and restore the right store; otherwise see `%s` and `%s`",
                policy.n_refused,
                "" if policy.may_place else "; no instance is made",
                LIST_COMMAND,
                DELETE_COMMAND,
            )


def find_orphans(desired: Fleet, observed: Observed) -> tuple[Orphan, ...]:
    """Return the orphans on all nodes."""
    return tuple(
        Orphan(node, unit)
        for node, unit in _seen_units(desired, observed)
        if not _is_recorded(unit, observed)
    )


def orphan_policy(desired: Fleet, observed: Observed) -> OrphanPolicy:
    """Return what becomes of the orphans; those that a person gave up are deleted."""
    orphans = [
        one for one in find_orphans(desired, observed) if one.key not in observed.deletable_orphans
    ]
    n_running = sum(one.unit.state is UnitState.RUNNING for one in orphans)
    is_doubted = n_running > len(observed.stored)
    if not is_every_node_asked(desired, observed):
        return _keeping(orphans, n_refused=0, may_place=False)
    if is_doubted or n_running > MOST_DELETED:
        return _keeping(orphans, n_refused=n_running, may_place=not is_doubted)
    newer = [one for one in orphans if _is_newer_and_runs(one.unit, observed)]
    return _keeping(newer, n_refused=len(newer), may_place=True)


def is_every_node_asked(desired: Fleet, observed: Observed) -> bool:
    """Say whether each node has answered once, or is known not to."""
    reports = (observed.reports.get(node.name) for node in desired.nodes)
    return all(report is not None and report.is_asked for report in reports)


def count_by_node(orphans: Sequence[Orphan]) -> dict[str, int]:
    """Return how many orphans each node has, sorted by name."""
    return dict(sorted(Counter(one.node for one in orphans).items()))


def _keeping(orphans: Sequence[Orphan], *, n_refused: int, may_place: bool) -> OrphanPolicy:
    return OrphanPolicy(
        n_refused=n_refused,
        kept=frozenset(one.key for one in orphans),
        kept_ids=frozenset(one.unit.instance_id for one in orphans),
        may_place=may_place,
    )


def _seen_units(desired: Fleet, observed: Observed) -> Iterator[tuple[str, FoundUnit]]:
    listed = {node.name for node in desired.nodes}
    for report in observed.reports.values():
        # What was last heard of a node that has left for good is no news.
        if report.node in listed or report.is_reachable:
            yield from ((report.node, unit) for unit in report.units)


def _is_newer_and_runs(unit: FoundUnit, observed: Observed) -> bool:
    """Say whether what runs here proves that its instance's record is old; of an orphan."""
    return unit.state is UnitState.RUNNING and unit.instance_id in observed.stored


def _is_recorded(unit: FoundUnit, observed: Observed) -> bool:
    """Say whether a record tells of a unit, or of one that came after it."""
    stored = observed.stored.get(unit.instance_id)
    return stored is not None and unit.generation <= stored.instance.generation
