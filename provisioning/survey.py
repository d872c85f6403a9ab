"""What a pass sees of nodes and units, put in order once.

In:   a Fleet and an Observed.
Out:  how each node is, which unit each instance has, which units nobody wants. Pure; never fails.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from enum import Enum, auto

from provisioning.actions import Observed
from provisioning.model import FoundUnit, Instance, NodeReport, Phase, UnitState
from provisioning.spec_model import Fleet, Limits
from provisioning.usage import Size, largest_size, size_of


class NodeState(Enum):
    """How a node is, as far as it can be said."""

    REACHABLE = auto()
    SILENT = auto()
    """It does not answer, but may come back soon: nothing is done about it."""
    LOST = auto()
    """It has not answered for the grace period; or it cannot be asked for as long, for the
    specification does not have it any more, and this provisioner never knew it."""


class Survey:
    """A fleet's nodes and units, as of one pass."""

    def __init__(self, desired: Fleet, observed: Observed, *, now_s: float) -> None:
        self.observed = observed
        self.now_s = now_s
        self._desired = desired
        self._node_names = frozenset(node.name for node in desired.nodes)
        self.states = {
            name: self._state(observed.reports.get(name))
            for name in {*self._node_names, *observed.reports}
        }
        self.current: dict[str, FoundUnit] = {}
        """The unit of each instance's present generation, by instance id."""
        self.unwanted: list[tuple[str, FoundUnit]] = []
        """Units that no record wants, with their nodes: leftovers, and orphans."""
        for report in observed.reports.values():
            self._sort(report)

    @property
    def reachable(self) -> frozenset[str]:
        """Return the names of the nodes that answer."""
        return frozenset(
            name for name, state in self.states.items() if state is NodeState.REACHABLE
        )

    def state(self, node: str) -> NodeState:
        """Return how a node is."""
        return self.states.get(node) or self._state(None)

    def is_listed(self, node: str) -> bool:
        """Say whether the specification has the node."""
        return node in self._node_names

    def ending(self, instance: Instance) -> str:
        """Say in words how the unit of a running instance has ended; empty: it has not."""
        if self.is_outdated(instance.node, instance):
            return ""
        unit = self.current.get(instance.id)
        return ending_words(unit) if unit else "its unit is gone; how it ended is not known"

    def is_out_of_memory(self, instance: Instance) -> bool:
        """Say whether the kernel killed a process of an instance's unit for want of memory."""
        unit = self.current.get(instance.id)
        is_hit = unit is not None and unit.is_out_of_memory
        return is_hit and not self.is_outdated(instance.node, instance)

    def unwanted_sizes(self) -> Iterator[tuple[str, Size]]:
        """Yield what the units that no record wants hold, with their nodes.

        That is a guess, upwards: such a unit may be of a specification long gone.
        """
        largest = largest_size(self._desired)
        for node, unit in self.unwanted:
            if unit.state is not UnitState.EXITED:
                stored = self.observed.stored.get(unit.instance_id)
                yield node, largest.or_more(size_of(stored.instance)) if stored else largest

    def generations(self) -> dict[str, int]:
        """Return the newest generation of each instance that has a unit anywhere."""
        newest: dict[str, int] = {}
        for report in self.observed.reports.values():
            for unit in report.units:
                newest[unit.instance_id] = max(newest.get(unit.instance_id, 0), unit.generation)
        return newest

    def is_outdated(self, node: str, instance: Instance) -> bool:
        """Say whether a node was asked before an instance's last change, such as an earlier try.

        A report of later than now is from before the clock was set back; an instance that has
        changed later than now did so before that as well.
        """
        at_s = self.observed.reports[node].at_s
        return at_s > self.now_s or at_s < instance.since_s <= self.now_s

    def _state(self, report: NodeReport | None) -> NodeState:
        limits, since_s = self._desired.limits, self.observed.since_s
        return node_state(report, limits, since_s=since_s, now_s=self.now_s)

    def _sort(self, report: NodeReport) -> None:
        for unit in report.units:
            stored = self.observed.stored.get(unit.instance_id)
            is_going = (report.node, unit.name) in self.observed.sweeping
            if stored and not is_going and _is_wanted(unit, stored.instance, report.node):
                self.current[unit.instance_id] = unit
            else:
                self.unwanted.append((report.node, unit))


def node_state(
    report: NodeReport | None, limits: Limits, *, since_s: float, now_s: float
) -> NodeState:
    """Return how a node is; before `since_s`, its silence says nothing."""
    if report is not None and report.is_reachable:
        return NodeState.REACHABLE
    at_s = report.at_s if report else 0.0
    heard_s = max(since_s, at_s if at_s <= now_s else 0.0)
    return NodeState.LOST if now_s - heard_s >= limits.node_grace_s else NodeState.SILENT


def _is_wanted(unit: FoundUnit, instance: Instance, node: str) -> bool:
    return (
        unit.generation == instance.generation
        and node == instance.node
        and instance.phase is not Phase.FAILED
    )


def ending_words(unit: FoundUnit) -> str:
    """Say in words how a unit has ended; empty: it runs."""
    if unit.state is UnitState.RUNNING:
        return ""
    if unit.state is UnitState.CREATED:
        return "its unit was made, but does not run"
    memory = "; it ran out of memory" if unit.is_out_of_memory else ""
    return f"its unit has exited, status {_status_words(unit.exit_status)}{memory}"


def _status_words(status: int | None) -> str:
    if status is None:
        return "not known"
    try:
        return f"{status} ({signal.Signals(-status).name})"
    except ValueError:  # it exited by itself, or the signal has no name
        return f"{status}"
