"""How fast everything goes: the shipped intervals and windows, or short ones made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from alerts.settings import LOOKBACK_SCRAPES, Windows

LONGEST_SHORTENED_S = 900
"""Alerts that hold for longer are about hours and days: they stay as they are."""
LONGEST_SHORT_KEEP_S = 12
SHORT_HOLD_S = {
    "OllamaFleetMetricsAbsent": 30,
    "OllamaModelUnavailable": 9,
    "OllamaFleetTokenThroughputLow": 12,
}
"""Polls are not made as much faster as windows are, so what waits for them must wait for longer.

An exporter says nothing until it has polled every instance. Instances that an inventory lists again
are not healthy until they are polled. And what others mute must still come after those.
"""


class PaceName(StrEnum):
    """Which intervals and windows."""

    SHORT = "short"
    SHIPPED = "shipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Intervals in seconds, and by what the shipped windows and holds are divided."""

    name: PaceName
    poll_s: int
    grace_s: int
    """For how long the exporter calls a failure recent."""
    refresh_s: int
    """Between two looks at the inventory."""
    scrape_s: int
    scrape_timeout_s: int
    evaluation_s: int
    group_wait_s: int
    ticket_group_wait_s: int
    group_interval_s: int
    switch_s: int
    """Between two signs of life for the dead man's switch."""
    divisor: int
    quiet_s: float
    """How long a healthy fleet is watched before its first fault."""
    slack_s: float
    """How much later than the sum of all intervals a message may come."""

    @property
    def is_shipped(self) -> bool:
        """Return whether nothing is shortened."""
        return self.divisor == 1


SHIPPED = Pace(
    name=PaceName.SHIPPED,
    poll_s=10,
    grace_s=90,
    refresh_s=10,
    scrape_s=15,
    scrape_timeout_s=10,
    evaluation_s=15,
    group_wait_s=30,
    ticket_group_wait_s=600,
    group_interval_s=300,
    switch_s=60,
    divisor=1,
    quiet_s=180.0,
    slack_s=30.0,
)
SHORT = Pace(
    name=PaceName.SHORT,
    poll_s=3,
    grace_s=6,
    refresh_s=1,
    scrape_s=3,
    scrape_timeout_s=3,
    evaluation_s=3,
    group_wait_s=1,
    ticket_group_wait_s=9,
    group_interval_s=1,
    switch_s=4,
    divisor=60,
    quiet_s=3.0,
    slack_s=100.0,
)
PACES: Mapping[PaceName, Pace] = {pace.name: pace for pace in (SHIPPED, SHORT)}

WINDOWS = ("rate", "canary", "out_of_memory", "inventory", "telemetry")
"""The windows that a short pace divides; those of trends stay as they are."""


def settings(
    pace: Pace, alerts: Sequence[Mapping[str, Any]], *, routing: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of rules and routing; `routing` says who is told of what."""
    told = dict(routing)
    if pace.is_shipped:
        # Nothing but the receivers differs from what is shipped.
        return {"routing": told}
    told |= {
        "group_wait": f"{pace.group_wait_s}s",
        "ticket_group_wait": f"{pace.ticket_group_wait_s}s",
        "group_interval": f"{pace.group_interval_s}s",
    }
    shipped = Windows()
    return {
        "prometheus": {
            "scrape_interval": f"{pace.scrape_s}s",
            "scrape_timeout": f"{pace.scrape_timeout_s}s",
            "evaluation_interval": f"{pace.evaluation_s}s",
        },
        "windows": {name: _window(pace, getattr(shipped, name)) for name in WINDOWS},
        "alerts": {
            alert["name"]: _shortened(pace, alert)
            for alert in alerts
            if 0 < alert["for_seconds"] <= LONGEST_SHORTENED_S
        },
        "routing": told,
    }


def _window(pace: Pace, shipped_s: float) -> str:
    # One scrape longer than the least: some rules ask what was there before the last few scrapes.
    least_s = (LOOKBACK_SCRAPES + 1) * pace.scrape_s
    return f"{max(least_s, round(shipped_s / pace.divisor))}s"


def _shortened(pace: Pace, alert: Mapping[str, Any]) -> dict[str, str]:
    hold_s = SHORT_HOLD_S.get(alert["name"], alert["for_seconds"] / pace.divisor)
    keep_s = min(alert["keep_firing_for_seconds"] / pace.divisor, LONGEST_SHORT_KEEP_S)
    # Alerts change at evaluations only. Which of two ends first must stay: some mute others.
    n_hold, n_keep = math.ceil(hold_s / pace.evaluation_s), math.floor(keep_s / pace.evaluation_s)
    return {
        "for": f"{max(1, n_hold) * pace.evaluation_s}s",
        "keep_firing_for": f"{max(1, n_keep) * pace.evaluation_s}s",
    }
