"""What happened to an instance, told in its record: the latest events, each short.

In:   an Instance, and what has happened to it.
Out:  the Instance with a line more, or another last line. Pure; never fails.
"""

from __future__ import annotations

from collections.abc import Container

from msgspec.structs import replace

from provisioning.model import Event, Instance

MAX_EVENTS = 20
"""How many events of an instance's history are kept."""
MAX_DETAIL = 300
"""Letters of an event's detail: a history must stay small, 10,000 of them are stored."""


def told(instance: Instance, at_s: float, what: str, detail: str = "") -> Instance:
    """Return the instance with one more event, the oldest ones forgotten."""
    event = Event(at_s, str(what), detail[:MAX_DETAIL], instance.generation)
    return replace(instance, history=(*instance.history, event)[-MAX_EVENTS:])


def told_again(instance: Instance, at_s: float, what: str, detail: str) -> Instance:
    """Return the instance with an event in place of the last one, where that is of its kind.

    What fails again and again would else push out what led to it.
    """
    history = instance.history
    if history and (what, instance.generation) == (history[-1].what, history[-1].generation):
        instance = replace(instance, history=history[:-1])
    return told(instance, at_s, what, detail)


def told_more(instance: Instance, kinds: Container[str], more: str) -> Instance:
    """Return the instance with more said, in front, of its latest event of some kinds.

    That takes no line: by the crashes that a history has, the next wait is reckoned.
    """
    events = list(instance.history)
    for place, event in reversed(tuple(enumerate(events))):
        if event.what in kinds:
            events[place] = replace(event, detail=f"{more}: {event.detail}"[:MAX_DETAIL])
            break
    return replace(instance, history=tuple(events))


def tries(n: int) -> str:
    """Return a number of tries in words."""
    return f"{n:,} tries" if n != 1 else "1 try"
