"""Turn actions into operations on units, and keep those until their outcome is written down.

In:   Actions whose records are written; reports of nodes.
Out:  Operations that have ended, with their outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioning.actions import Action, Place, Renew, Start, Stop, Sweep
from provisioning.clock import Clock
from provisioning.executor import Executor
from provisioning.lifecycle import Outcome, Result
from provisioning.model import Instance, NodeReport, UnitState
from provisioning.nodes import Nodes
from provisioning.operations import Ended, Kind, Operation, Operations
from provisioning.rests import Rests
from provisioning.runtime.base import ProberOf
from provisioning.spec_index import SpecIndex
from provisioning.spec_model import Limits
from provisioning.store.base import Stored
from provisioning.survey import ending_words
from provisioning.writing import subject_id


class Work:
    """The operations of one reconciler."""

    def __init__(
        self,
        nodes: Nodes,
        prober_of: ProberOf,
        clock: Clock,
        *,
        dice: Callable[[], float],
        leads: Callable[[], bool],
        on_end: Callable[[], None],
    ) -> None:
        self._nodes = nodes
        self._executor = Executor(nodes.runtime, prober_of, clock, dice=dice, leads=leads)
        self._operations = Operations(on_end=on_end)
        self._rests = Rests(clock)

    def __repr__(self) -> str:
        return f"{self._operations!r}"

    @property
    def n_running(self) -> int:
        """Return how many operations are going on."""
        return self._operations.n_running

    @property
    def ended(self) -> Ended:
        """Return the operations whose outcome was not written down yet."""
        return self._operations.ended

    def working(self) -> frozenset[str]:
        """Return the ids of instances that an operation is about."""
        return self._operations.working()

    def starting(self) -> frozenset[str]:
        """Return the ids of instances that are being started."""
        return self._operations.starting()

    def sweeping(self) -> frozenset[tuple[str, str]]:
        """Return the nodes and units that are being removed without a record."""
        return self._operations.sweeping()

    def resting(self) -> frozenset[str]:
        """Return the units that could just not be removed, and are left alone for a while."""
        return self._rests.resting()

    def take(self, n: int) -> None:
        """Forget the first n outcomes: they are written down."""
        self._operations.take(n)

    async def cancel(self) -> None:
        """Leave everything as it is, and return when nothing goes on any more."""
        await self._operations.cancel()
        self._rests.clear()

    def take_report(self, report: NodeReport) -> None:
        """Tell starts of units that have ended already."""
        for unit in report.units:
            if unit.state is UnitState.EXITED:
                self._executor.note_ended(unit.name, ending_words(unit), at_s=report.at_s)

    def begin(self, action: Action, spec_index: SpecIndex, stored: Mapping[str, Stored]) -> None:
        """Begin what an action does to a unit, if it does anything."""
        limits = spec_index.fleet.limits
        known = stored.get(subject_id(action))
        match action:
            case Sweep(node, unit):
                operation = Operation(Kind.SWEEP, node, unit)
                self._operations.begin(operation, self._remove(operation, limits))
            case Stop() if known:
                operation = _operation(Kind.STOP, known.instance)
                self._operations.begin(operation, self._stop(operation, limits))
            case Place() | Start() | Renew() if known:
                operation = _operation(Kind.START, known.instance)
                self._operations.begin(operation, self._start(known.instance, spec_index))

    async def _stop(self, operation: Operation, limits: Limits) -> Outcome:
        """Remove an instance's unit; a start that goes on has to end first, or would make it."""
        await self._operations.call_off(operation.id)
        return await self._remove(operation, limits)

    async def _remove(self, operation: Operation, limits: Limits) -> Outcome:
        outcome = await self._executor.remove(operation.node, operation.unit, limits)
        if outcome.result is Result.DONE:
            self._nodes.forget_unit(operation.node, operation.unit)
            self._rests.note_removed(operation.unit)
        else:
            self._rests.note_failed(operation.unit)
        return outcome

    async def _start(self, instance: Instance, spec_index: SpecIndex) -> Outcome:
        order = spec_index.start_request(instance)
        if order is None:
            return Outcome(Result.UNREACHABLE, f"{instance.node} is not in the specification")
        return await self._executor.start(order, spec_index.fleet.limits)


def _operation(kind: Kind, instance: Instance) -> Operation:
    return Operation(kind, instance.node, instance.unit, instance.id, instance.generation)
