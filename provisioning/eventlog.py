"""Log what goes on for long once a minute: outages, silent nodes, floods."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ollama_fleet.clock import Clock
from provisioning.actions import Observed
from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.model import Fleet, Limits, NodeReport, Phase
from provisioning.reconcile import is_leaving
from provisioning.state import NodeState, node_state

WINDOW_S = 60.0
MAX_KINDS = 100
"""More kinds than this within a window share one: a kind may hold what differs each time."""
OTHER = "other"


class RateLimit(logging.Filter):
    """As a filter of a logger or handler: the kind of a record is the first line of its message."""

    def __init__(self, clock: Clock, *, window_s: float = WINDOW_S) -> None:
        super().__init__()
        self._clock = clock
        self._window_s = window_s
        self._next_s: dict[str, float] = {}
        self._n_held: dict[str, int] = {}

    def admit(self, kind: str) -> int | None:
        """Return how many lines were held back since the last one; None: hold this one back."""
        now_s = self._clock.monotonic_s()
        if kind not in self._next_s and len(self._next_s) >= MAX_KINDS:
            self._forget_old(now_s)
            kind = kind if len(self._next_s) < MAX_KINDS else OTHER
        if now_s < self._next_s.get(kind, now_s):
            self._n_held[kind] = self._n_held.get(kind, 0) + 1
            return None
        self._next_s[kind] = now_s + self._window_s
        return self._n_held.pop(kind, 0)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is logged; the first one after others were not tells how many."""
        head, line_end, rest = str(record.msg).partition("\n")
        n_held = self.admit(f"{record.name} {head}")
        if n_held:
            record.msg = f"{head} (held_back={n_held}){line_end}{rest}"
        return n_held is not None

    def _forget_old(self, now_s: float) -> None:
        old = [kind for kind, next_s in self._next_s.items() if next_s <= now_s]
        for kind in old:
            del self._next_s[kind]
            self._n_held.pop(kind, None)


REPEAT_S = 60.0
SURE_S = 120.0
"""A store that refused a write may be read all the time; it is well if so long nothing failed."""


class Outage:
    """What one part of a provisioner says of a store that it cannot use."""

    def __init__(
        self,
        clock: Clock,
        log: logging.Logger,
        *,
        restored: str,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the words for its end, as `the store is back`, and who is told that one begins."""
        self._clock = clock
        self._log = log
        self._restored = restored
        self._on_begin = on_begin
        self._since_s: float | None = None
        """None: all is well."""
        self._refused_s: float | None = None
        """When the store last refused something, in this outage."""
        self._is_told = False
        self._next_s: dict[str, float] = {}
        """When each consequence may be told again."""

    def note_failed(self, consequence: str, error: StoreError) -> None:
        """Take note of a try that failed, and tell of it unless that was told just now."""
        now_s = self._clock.monotonic_s()
        if self._since_s is None:
            self._since_s = now_s
            self._on_begin()
        is_passing = isinstance(error, StoreUnavailableError)
        if not is_passing:
            self._refused_s = now_s
        if now_s < self._next_s.get(consequence, now_s):
            return
        self._is_told = True
        self._next_s[consequence] = now_s + REPEAT_S
        away_s = now_s - self._since_s
        level = logging.WARNING if is_passing else logging.ERROR
        if away_s:
            self._log.log(level, "%s, for %.0f s now: %s", consequence, away_s, error)
        else:
            self._log.log(level, "%s: %s", consequence, error)

    def note_read(self) -> None:
        """Take note of a try that went well without a write: where one was refused, it may again.

        Whoever leads anew looks around before there is anything to write.
        """
        if self._refused_s is None or self._clock.monotonic_s() - self._refused_s >= SURE_S:
            self.note_well()

    def note_well(self) -> None:
        """Take note of a try that went well, and tell of it if it was told that others failed."""
        if self._since_s is not None and self._is_told:
            away_s = self._clock.monotonic_s() - self._since_s
            self._log.info("%s, after %.0f s", self._restored, away_s)
        self._since_s = self._refused_s = None
        self._is_told = False


log = logging.getLogger("provisioning.eventlog")


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
