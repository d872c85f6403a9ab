"""Say which nodes do not answer: when that begins, when they count as gone, when it is over.

In:   each report of a node; what each pass observes.
Out:  one line in the log for each of the three, and for a node that comes and goes one a minute.
Never fails.
"""

from __future__ import annotations

import logging

import msgspec

from provisioning.actions import Observed
from provisioning.clock import Clock
from provisioning.model import NodeReport, Phase
from provisioning.spec_model import Fleet, Limits
from provisioning.survey import NodeState, node_state
from provisioning.unwanted import is_leaving

log = logging.getLogger("provisioning.silences")

REPEAT_S = 60.0


class Silence(msgspec.Struct):
    """How long a node has not answered, and what of that was told."""

    since_s: float
    heard_s: float
    """When the node was asked what it answered last, by the monotonic clock; 0: never yet."""
    is_told: bool = False
    is_told_gone: bool = False


class Silences:
    """The nodes that do not answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._silence_by_node: dict[str, Silence] = {}
        self.gone: frozenset[str] = frozenset()
        """Nodes whose grace is over, as of the latest pass."""
        self._heard_s: dict[str, float] = {}
        """When each node last answered, by the monotonic clock."""
        self._next_s: dict[str, float] = {}
        """When a node's silence may be told again."""

    def take_report(self, report: NodeReport) -> bool:
        """Take note of a report; say whether its node answers again."""
        now_s = self._clock.monotonic_s()
        if report.is_reachable:
            self._heard_s[report.node] = now_s - max(0.0, self._clock.unix_s() - report.at_s)
            return self._end(report.node)
        heard_s = self._heard_s.get(report.node, 0.0)
        silence = self._silence_by_node.setdefault(report.node, Silence(now_s, heard_s))
        if not silence.is_told and now_s >= self._next_s.get(report.node, now_s):
            silence.is_told = True
            self._next_s[report.node] = now_s + REPEAT_S
            log.warning("node %s does not answer: %s", report.node, report.fault)
        return False

    def heard_s(self, node: str) -> float:
        """Return when a silent node last answered, by the monotonic clock; 0: never yet."""
        silence = self._silence_by_node.get(node)
        return silence.heard_s if silence else 0.0

    def note_gone(self, desired: Fleet, observed: Observed, *, now_s: float) -> None:
        """Tell of the nodes whose grace is over, each once until it answers again."""
        gone = set()
        for name, silence in self._silence_by_node.items():
            report = observed.reports.get(name)
            state = node_state(report, desired.limits, since_s=observed.since_s, now_s=now_s)
            if report is None or state is not NodeState.LOST:
                continue
            gone.add(name)
            if not silence.is_told_gone:
                silence.is_told = silence.is_told_gone = True
                _tell_gone(report, desired.limits, observed)
        self.gone = frozenset(gone)

    def forget(self, *, all_but: frozenset[str] = frozenset()) -> None:
        """Know nothing any more of nodes that are not asked."""
        for known in (self._silence_by_node, self._heard_s, self._next_s):
            for name in known.keys() - all_but:
                del known[name]
        self.gone &= all_but

    def _end(self, node: str) -> bool:
        silence = self._silence_by_node.pop(node, None)
        self.gone -= {node}
        if silence and silence.is_told:
            silent_s = self._clock.monotonic_s() - silence.since_s
            log.info("node %s answers again, after %.0f s", node, silent_s)
        return silence is not None


def _tell_gone(report: NodeReport, limits: Limits, observed: Observed) -> None:
    here = [one.instance for one in observed.stored.values() if one.instance.node == report.node]
    kept = [one for one in here if one.phase is Phase.RUNNING and one.id not in observed.ill]
    staying = [one for one in here if one.phase is not Phase.FAILED and not is_leaving(one)]
    log.warning(
        "node %s counts as gone, unheard for %g s (limits.node_grace): of its instances, %d are "
        "placed elsewhere, %d are kept as they still answer; last: %s",
        report.node,
        limits.node_grace_s,
        len(staying) - len(kept),
        len(kept),
        report.fault,
    )
