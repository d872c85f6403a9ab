"""Keep what is counted by name bounded, where the names come from instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

OTHER = "other"
"""Takes what comes under new names once there are too many."""


def bounded(name: str, known: Collection[str], limit: int) -> str:
    """Return the name to count under: itself if it is known or there are fewer than `limit`."""
    return name if name in known or len(known) < limit else OTHER
