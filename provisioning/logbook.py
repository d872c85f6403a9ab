"""What the passes of a leader say in the log.

In:   what each pass observes; what it did.
Out:  a line for each pass that did something, and warnings of what fares badly. Never fails.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from provisioning.actions import Action, Observed
from provisioning.clock import Clock
from provisioning.lifecycle import Outcome
from provisioning.mishaps import Mishaps
from provisioning.operations import Operation
from provisioning.orphans import OrphanWarning, orphan_policy
from provisioning.report import Report
from provisioning.silences import Silences
from provisioning.spec_model import Fleet
from provisioning.store.base import Stored

log = logging.getLogger("provisioning.passes")


class Logbook:
    """Tells of each thing once, or once a minute while it lasts."""

    def __init__(self, clock: Clock, silences: Silences) -> None:
        self._silences = silences
        self._orphans = OrphanWarning(clock)
        self._mishaps = Mishaps(clock)

    def note_seen(self, desired: Fleet, observed: Observed, *, now_s: float) -> None:
        """Take note of what a pass decides on."""
        self._orphans.give(orphan_policy(desired, observed))
        self._silences.note_gone(desired, observed, now_s=now_s)
        self._mishaps.look(observed)

    def note_done(
        self,
        report: Report,
        ended: Sequence[tuple[Operation, Outcome]],
        begun: Sequence[Action],
        stored: Mapping[str, Stored],
    ) -> None:
        """Take note of what a pass did."""
        log.log(logging.DEBUG if report.is_quiet else logging.INFO, "%s", report)
        self._mishaps.tell(ended, begun, stored)
