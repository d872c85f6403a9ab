"""Follow what happens to instances, and write it for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from provisioning.api.routes import EventDocument
from provisioning.cli.listing import event_text, moment
from provisioning.client import Client

FOLLOW_S = 1.0
LATE_S = 60.0
"""An event is written this long after it has happened, at most: another may be there before it."""


def following(
    client: Client, filters: Mapping[str, Sequence[str]], known: Sequence[EventDocument]
) -> Iterator[EventDocument]:
    """Yield the known events, then each that is new, without an end."""
    yield from known
    while True:
        time.sleep(FOLLOW_S)
        newest_s = max((event.at_s for event in known), default=0.0)
        found = client.events(filters, since_s=max(0.0, newest_s - LATE_S))
        seen = set(known)
        yield from (event for event in found if event not in seen)
        known = found or known


def event_line(event: EventDocument) -> str:
    """Return an event on one line: time, instance, what has happened."""
    return f"{moment(event.at_s)}  {event.id}  {event_text(event)}"
