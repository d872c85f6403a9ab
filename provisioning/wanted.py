"""What becomes of the instances that a pool is to have.

In:   a Draft, a Pool, and its instances, those on their way out excepted.
Out:  actions on the Draft: what is broken is mended, what is missing is made, what is out of date
      is replaced, slowly. Pure; never fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from provisioning.actions import Illness
from provisioning.assignment import Assignment
from provisioning.draft import Draft
from provisioning.keeping import Keeping
from provisioning.limits import Tally, kills_of_ill, replacements
from provisioning.model import Instance, Phase, Reason, UnitState
from provisioning.placement import is_suitable
from provisioning.retries import Retry, is_due, why_anew
from provisioning.rotation import schedule_of
from provisioning.spec_model import Pool
from provisioning.survey import NodeState
from provisioning.units import workload_digest
from provisioning.unwanted import LEAVING, has_drained

URGENCY = {Reason.REPLACED: 0, Reason.NODE_REMOVED: 1, Reason.CHANGED: 2, Reason.ROTATED: 3}
"""In which order instances that serve well are replaced."""
KILLED_WORDS = "the kernel killed a process of it for want of memory; raise the pool's `memory`"


class PoolPass:
    """One pass over the instances of one pool."""

    def __init__(self, draft: Draft, pool: Pool, instances: Sequence[Instance]) -> None:
        self._draft = draft
        self._pool = pool
        self._digest = workload_digest(pool.workload)
        self._suitable = frozenset(
            node.name for node in draft.desired.nodes if is_suitable(node, pool)
        )
        self._serving_nodes = self._suitable & draft.survey.reachable
        self._schedule = schedule_of(pool, draft.desired.limits)
        self._tally = Tally()
        self._ill: list[Instance] = []
        self._failed: list[Instance] = []
        self._waiting: list[Instance] = []
        """Those that need another place, now or once they have stopped."""
        self._outdated: list[tuple[Reason, Instance]] = []
        self.kept: Sequence[Instance] = instances
        self.surplus: Sequence[Instance] = ()
        if len(instances) > pool.count:
            ranked = self._ranked(instances)
            self.kept, self.surplus = ranked[: pool.count], ranked[pool.count :]

    def mend(self) -> None:
        """Go on with what has been begun, and put right what is broken but has run."""
        earliest_start_s = self._draft.now_s - self._schedule.earliest_s
        for instance in self.kept:
            if instance.started_s <= earliest_start_s or not self._is_fine(instance):
                self._mend(instance)
        self._stop_ill()

    def retries(self) -> Iterator[Retry]:
        """Yield what could not be started, and may be tried again now."""
        for instance in self._failed:
            reason = why_anew(instance, self._digest)
            if reason or self._is_due(instance):
                yield Retry(instance, self._pool, reason)

    @property
    def has_to_move(self) -> bool:
        """Say whether any instance that serves well has to leave its node, and may do so now."""
        return Reason.NODE_REMOVED in dict(self._outdated) and self._n_replaceable > 0

    def keep_room(self, *, at_most: int) -> int:
        """Reserve room for those that wait for it already, before more do; return for how many."""
        n_kept = 0
        for instance in self._waiting:
            if n_kept < at_most:
                n_kept += self._draft.keep_room(instance, self._pool)
        return n_kept

    def replace(self, *, may_move: bool) -> None:
        """Drain the instances whose replacement is most urgent, as many as may be."""
        n_allowed = self._n_replaceable
        ranked = sorted(
            self._outdated, key=lambda one: (URGENCY[one[0]], one[1].started_s, one[1].id)
        )
        for reason, instance in ranked:
            if n_allowed <= 0:
                return
            if reason is not Reason.NODE_REMOVED:
                self._draft.drain(instance, reason)
                n_allowed -= 1
            elif may_move and self._draft.move_away(instance, self._pool):
                n_allowed -= 1

    def complete(self, *, may_place: bool) -> None:
        """Make the instances that are missing, if they may be; give instances to developers."""
        assignment = Assignment(self._pool, self.kept)
        for assign in assignment.changes():
            self._draft.assign(assign)
        number = 0
        n_missing = self._pool.count - len(self.kept) if may_place else 0
        for _ in range(n_missing):
            if self._draft.is_full:
                return
            number = self._draft.free_number(self._pool, after=number)
            if not self._draft.place(self._pool, number, assignment.waiting):
                return
            assignment.serve()

    @property
    def _n_replaceable(self) -> int:
        return replacements(self._pool, self._draft.desired.limits, self._tally)

    def _ranked(self, instances: Sequence[Instance]) -> list[Instance]:
        """Return the instances, those in front that stay where there are too many."""
        keeping = Keeping(
            self._pool,
            self._draft.desired.nodes,
            serving_nodes=self._serving_nodes,
            ill=self._draft.observed.ill.keys(),
        )
        stored = self._draft.observed.stored.values()
        others = (one.instance for one in stored if one.instance.pool != self._pool.name)
        return keeping.ranked(instances, others)

    def _is_fine(self, instance: Instance) -> bool:
        """Say whether nothing is to be done about an instance, its age aside."""
        unit = self._draft.survey.current.get(instance.id)
        return (
            unit is not None
            and unit.state is UnitState.RUNNING
            and instance.phase is Phase.RUNNING
            and instance.workload == self._digest
            and instance.node in self._serving_nodes
            and instance.id not in self._draft.observed.ill
            and not unit.is_out_of_memory
            and not instance.is_replace_asked
        )

    def _mend(self, instance: Instance) -> None:
        state = self._draft.survey.state(instance.node)
        is_busy = instance.id in self._draft.observed.working
        self._tally.count(instance, is_down=self._is_down(instance, state))
        is_leaving = instance.phase in LEAVING and instance.node not in self._suitable
        if is_leaving and (is_busy or state is not NodeState.LOST):
            self._waiting.append(instance)
        if is_busy:
            if reason := self._why_in_vain(instance):
                self._draft.call_off(instance, reason)
        elif instance.id not in self._draft.orphans.kept_ids:
            self._mend_idle(instance, state)

    def _mend_idle(self, instance: Instance, state: NodeState) -> None:
        """Mend what no operation is about, and what has no newer unit that is kept."""
        if instance.phase is Phase.FAILED:
            self._failed.append(instance)
        elif state is NodeState.LOST:
            self._mend_lost(instance)
        elif state is NodeState.REACHABLE:
            self._RULES[instance.phase](self, instance)

    def _is_down(self, instance: Instance, state: NodeState) -> bool:
        if instance.id in self._draft.observed.ill:
            return True
        survey = self._draft.survey
        return state is NodeState.REACHABLE and (
            survey.is_out_of_memory(instance) or bool(survey.ending(instance))
        )

    def _mend_lost(self, instance: Instance) -> None:
        # Behind a node that is silent, an instance that still answers is not lost: it moves
        # where the node has left the specification, but no faster than any other.
        if instance.phase is not Phase.RUNNING or instance.id in self._draft.observed.ill:
            self._move(instance, Reason.NODE_LOST)
        elif not self._draft.survey.is_listed(instance.node):
            self._outdated.append((Reason.NODE_REMOVED, instance))

    def _mend_running(self, instance: Instance) -> None:
        is_out_of_memory = self._draft.survey.is_out_of_memory(instance)
        if ending := self._draft.survey.ending(instance):
            why = Reason.OUT_OF_MEMORY if is_out_of_memory else Reason.EXITED
            self._draft.stop(instance, why, ending)
        elif is_out_of_memory or instance.id in self._draft.observed.ill:
            self._ill.append(instance)
        elif reason := self._why_outdated(instance):
            self._outdated.append((reason, instance))

    def _mend_draining(self, instance: Instance) -> None:
        if has_drained(self._draft, instance, self._pool.rotation):
            ending = self._draft.survey.ending(instance)
            self._draft.stop(instance, instance.reason or Reason.REPLACED, ending)

    def _mend_stopping(self, instance: Instance) -> None:
        self._draft.stop(instance, instance.reason or Reason.REPLACED)

    def _mend_starting(self, instance: Instance) -> None:
        if instance.workload == self._digest and instance.node in self._suitable:
            self._draft.start(instance, self._pool)
        elif instance.id in self._draft.survey.current:
            self._draft.stop(instance, self._why_outdated(instance) or Reason.REPLACED)
        else:
            self._move(instance, self._why_outdated(instance))

    def _move(self, instance: Instance, reason: Reason | None = None) -> None:
        """Begin an instance's next generation; what waits for that has a claim to room."""
        if not self._draft.renew(instance, self._pool, reason):
            self._waiting.append(instance)

    def _is_due(self, instance: Instance) -> bool:
        return is_due(
            instance,
            self._draft.desired.limits,
            suitable=self._suitable,
            serving=self._serving_nodes,
            now_s=self._draft.now_s,
        )

    _RULES: ClassVar = {
        Phase.STARTING: _mend_starting,
        Phase.RUNNING: _mend_running,
        Phase.DRAINING: _mend_draining,
        Phase.STOPPING: _mend_stopping,
    }

    def _why_outdated(self, instance: Instance) -> Reason | None:
        """Return why an instance that serves well is replaced; None: it is not."""
        age_s = self._draft.age_s(instance)
        if instance.is_replace_asked:
            return Reason.REPLACED
        if instance.node not in self._suitable:
            return Reason.NODE_REMOVED
        if instance.workload != self._digest:
            return Reason.CHANGED
        if age_s >= self._schedule.due_age_s(instance.id):
            return Reason.ROTATED
        return None

    def _why_in_vain(self, instance: Instance) -> Reason | None:
        """Return why a start that goes on is called off; None: it is not.

        One on a node that it has to leave goes on: there may be no room elsewhere.
        """
        if instance.phase is Phase.STOPPING:
            return instance.reason or Reason.REPLACED
        return Reason.CHANGED if instance.workload != self._digest else None

    def _stop_ill(self) -> None:
        """Stop the instances that have been unhealthy for longest, as many as may be."""
        n_allowed = kills_of_ill(self._pool, self._draft.desired.limits, self._tally)
        ranked = sorted(self._ill, key=lambda one: (self._illness(one).since_s, one.id))
        for instance in ranked[: max(0, n_allowed)]:
            is_out_of_memory = self._draft.survey.is_out_of_memory(instance)
            reason = Reason.OUT_OF_MEMORY if is_out_of_memory else Reason.UNHEALTHY
            if self._draft.stop(instance, reason, self._illness(instance).fault):
                self._tally.n_moving += 1
                self._tally.n_down -= 1

    def _illness(self, instance: Instance) -> Illness:
        """Return what is wrong with an instance that runs; that it lacks memory says the most."""
        if self._draft.survey.is_out_of_memory(instance):
            return Illness(math.inf, KILLED_WORDS)
        return self._draft.observed.ill[instance.id]
