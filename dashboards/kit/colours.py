"""Colours with a meaning, the same on every dashboard.

Distinguishable without seeing red and green: after Okabe and Ito.
"""

from __future__ import annotations

GOOD = "#009E73"
BAD = "#D55E00"
WARNING = "#E69F00"
NEUTRAL = "#999999"
LIMIT = "#E02F44"
"""Of the dashed lines that alerts compare with."""
PLAIN = "#56B4E9"

STATUSES = {
    "healthy": GOOD,
    "unhealthy": BAD,
    "unreachable": WARNING,
    "loading": "#F0E442",
    "starting": PLAIN,
    "provisioning": "#0072B2",
    "draining": "#CC79A7",
    "away": "#C7C7C7",
    "unknown": NEUTRAL,
}
"""In the order in which they are stacked."""

CANARY = "#CC79A7"
"""Of what canaries found, beside real requests."""
CANARY_OUTCOMES = {
    "ok": GOOD,
    "stalled": BAD,
    "error": WARNING,
    "skipped_busy": "#0072B2",
    "skipped_not_loaded": NEUTRAL,
}

SEVERITIES = {"critical": BAD, "warning": WARNING, "info": PLAIN}
