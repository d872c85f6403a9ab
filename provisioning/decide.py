"""Decide what is to be done next, so that the fleet becomes what it is to be.

In:   a Fleet, an Observed, and the time.
Out:  Actions; none when nothing is wrong. Pure, and total: whatever is observed has an answer.

Deciding again and again, with each action done in between, leads to the desired fleet. What cannot
be done now, for want of room, operations or permitted kills, is not decided yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from provisioning.actions import Action, Observed
from provisioning.draft import Draft
from provisioning.model import FoundUnit, Instance
from provisioning.retries import in_turn
from provisioning.spec_model import Fleet, Pool, Rotation
from provisioning.survey import NodeState
from provisioning.unwanted import is_leaving, part_with
from provisioning.wanted import PoolPass

MOST_KEPT = 300
"""For so many that wait is room sought in a pass, each time on all nodes, before a healthy instance
is moved. While more wait none is: a pass must not take seconds."""


def decide(desired: Fleet, observed: Observed, now_s: float) -> tuple[Action, ...]:
    """Return what is to be done now; at most one action that changes any one instance's unit."""
    draft = Draft(desired, observed, now_s=now_s)
    pool_by_name = {pool.name: pool for pool in desired.pools}
    staying, leaving = _sort(observed)
    passes = [PoolPass(draft, pool, staying.pop(pool.name, ())) for pool in desired.pools]
    for instances in staying.values():  # of pools that the specification does not have any more
        leaving += instances
    for pool_pass in passes:
        leaving += pool_pass.surplus
    _put_right(draft, passes)
    for instance in leaving:
        part_with(draft, instance, _rotation(pool_by_name.get(instance.pool)))
    for pool_pass in passes:
        pool_pass.complete(may_place=draft.orphans.may_place)
    # Last: however many removals hang, they take no operation from what somebody waits for.
    for node, unit in draft.survey.unwanted:
        if _may_sweep(draft, node, unit):
            draft.sweep(node, unit.name)
    return tuple(draft.actions)


def _put_right(draft: Draft, passes: Sequence[PoolPass]) -> None:
    """Let all pools mend what was healthy before any has an operation for what never was."""
    for pool_pass in passes:
        pool_pass.mend()
    failed = [one for pool_pass in passes for one in pool_pass.retries()]
    for retry in in_turn(failed, now_s=draft.now_s):
        draft.renew(retry.instance, retry.pool, retry.reason)
    may_move = _keep_room(passes)
    for pool_pass in passes:
        pool_pass.replace(may_move=may_move)


def _keep_room(passes: Sequence[PoolPass]) -> bool:
    """Keep room for those that wait for it; say whether others may give up their place now."""
    if not any(pool_pass.has_to_move for pool_pass in passes):
        return False
    n_left = MOST_KEPT
    for pool_pass in passes:
        n_left -= pool_pass.keep_room(at_most=n_left)
    return n_left > 0


def _rotation(pool: Pool | None) -> Rotation:
    return pool.rotation if pool else Rotation()


def _sort(observed: Observed) -> tuple[dict[str, list[Instance]], list[Instance]]:
    """Return the instances by pool, and apart from them those on their way out."""
    staying: defaultdict[str, list[Instance]] = defaultdict(list)
    leaving: list[Instance] = []
    for stored in observed.stored.values():
        instance = stored.instance
        (leaving if is_leaving(instance) else staying[instance.pool]).append(instance)
    return dict(staying), leaving


def _may_sweep(draft: Draft, node: str, unit: FoundUnit) -> bool:
    if draft.survey.state(node) is not NodeState.REACHABLE:
        return False
    if (node, unit.name) in draft.observed.sweeping or (node, unit.name) in draft.orphans.kept:
        return False
    stored = draft.observed.stored.get(unit.instance_id)
    # An outdated report may tell of what has gone since.
    return stored is None or not draft.survey.is_outdated(node, stored.instance)
