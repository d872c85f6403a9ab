"""Whether the units that no record tells of are swept, or the store is doubted.

In:   a Fleet and an Observed.
Out:  whether such units are kept, how many, and whether instances may be made; a warning in the
      log. Never fails.

A few units without a record, beside more instances that are known, are leftovers. If they are more
than the records, or many, then the store is empty, was restored from an old backup, or is another
fleet's: to sweep them would end what people use, and nothing would bring it back. They are kept,
and hold their room, until a person says that they may go: with limits.unavailable 1 all are swept.

A unit that is newer than its instance's record is no more known than one without: the record is of
an older backup. Where the instance is, that unit is adopted; elsewhere nobody knows its port, nor
where the record has failed: then nothing is tried again that would make a leftover of that unit.

While they are more than the records nothing is made either: the records of new instances would
soon be many enough for the strangers to look like leftovers.

Nothing of this can be said before each node was asked: what one tells may be a few beside what all
know, and what another will tell may be a fleet. A node that hangs is waited for until its first
look is over, once; whoever has answered or failed before is never waited for again.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from provisioning.fleet.actions import Observed
from provisioning.fleet.clock import Clock
from provisioning.fleet.fleet import Fleet
from provisioning.fleet.model import FoundUnit, UnitState
from provisioning.fleet.survey import is_newer_in_place

log = logging.getLogger("provisioning.fleet.strangers")

FEW = 10
"""So many are swept, where there are as many records at least."""
ALL = 1.0
"""The limits.unavailable by which a person says that they may go."""
WARNING_EVERY_S = 60.0


class Strangers(NamedTuple):
    """What comes of the running units that have no record."""

    n_kept: int
    """So many are told of."""
    may_sweep: bool
    may_place: bool
    """Whether instances may be made that have no record yet."""


class StrangerWarning:
    """Says that units are kept without a record, again and again while they are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_s = 0.0

    def give(self, strangers: Strangers) -> None:
        """Log it, if it is time and there are any."""
        now_s = self._clock.monotonic_s()
        if strangers.n_kept and now_s >= self._next_s:
            self._next_s = now_s + WARNING_EVERY_S
            log.error(
                "%d units run that the store has no record of: they are kept%s, for it may be the "
                "wrong store, an empty one, or an old backup; stop the provisioner and bring the "
                "right one back, or, if they are to go, set limits.unavailable to 100%% until they "
                "are gone",
                strangers.n_kept,
                "" if strangers.may_place else ", and no instance is made",
            )


def strangers_of(desired: Fleet, observed: Observed) -> Strangers:
    """Return what comes of the running units that have no record."""
    if desired.limits.unavailable_ratio >= ALL:
        return Strangers(0, may_sweep=True, may_place=True)
    if not _is_every_node_asked(desired, observed):
        return Strangers(0, may_sweep=False, may_place=False)
    n_running, n_strangers = _count_running(desired, observed)
    n_allowed = max(FEW, math.floor(desired.limits.unavailable_ratio * n_running + 1e-9))
    is_doubted = n_strangers > len(observed.stored)
    may_sweep = not is_doubted and n_strangers <= n_allowed
    return Strangers(
        n_kept=0 if may_sweep else n_strangers, may_sweep=may_sweep, may_place=not is_doubted
    )


def is_known(unit: FoundUnit, observed: Observed) -> bool:
    """Say whether a record tells of a unit, or of one that came after it."""
    stored = observed.stored.get(unit.instance_id)
    return stored is not None and unit.generation <= stored.instance.generation


def _count_running(desired: Fleet, observed: Observed) -> tuple[int, int]:
    """Return how many units run, and how many of them are strangers."""
    listed = {node.name for node in desired.nodes}
    n_running = n_strangers = 0
    for report in observed.reports.values():
        if report.node not in listed and not report.is_reachable:
            continue  # what was last heard of a node that has left for good is no news
        for unit in report.units:
            if unit.state is UnitState.RUNNING:
                n_running += 1
                n_strangers += _is_strange(unit, report.node, observed)
    return n_running, n_strangers


def _is_strange(unit: FoundUnit, node: str, observed: Observed) -> bool:
    stored = observed.stored.get(unit.instance_id)
    if stored is None:
        return True
    is_newer = unit.generation > stored.instance.generation
    return is_newer and not is_newer_in_place(unit, stored.instance, node)


def _is_every_node_asked(desired: Fleet, observed: Observed) -> bool:
    """Say whether each node has answered once, or is known not to."""
    reports = (observed.reports.get(node.name) for node in desired.nodes)
    return all(report is not None and (report.at_s > 0 or report.fault) for report in reports)
