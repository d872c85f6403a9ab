"""`ollama-fleet instances events`: what has happened, and what happens from now on."""

from __future__ import annotations

import json

from provisioning.model import Event
from tests.provisioning.api.board import instance
from tests.provisioning.api.served import Served
from tests.provisioning.cli.running import CTRL_C, on_terminal, run

LATER = Event(2000.0, "failed", "no\nroom", 2)


def test_events_are_listed_in_their_order_with_instance_and_cause(served: Served) -> None:
    served.put(instance(1, "tiny", history=(LATER,)))

    words = run(served, "instances", "events").stdout.splitlines()
    data = json.loads(run(served, "instances", "events", "--pool=tiny", "--json").stdout)

    assert "1970-01-01 00:33:20Z  tiny-00001  failed no room" == words[-1]
    assert sorted(words) == words
    assert [("tiny-00002", 990.0), ("tiny-00002", 1000.0), ("tiny-00001", 2000.0)] == [
        (one["id"], one["at_s"]) for one in data
    ]
    assert 1 == run(served, "instances", "events", "--pool=tny").exit_code


def test_followed_events_come_once_each_until_ctrl_c(served: Served) -> None:
    """The second one is older than the first: it was written later."""
    old = instance(2, history=(*instance(2).history, Event(1999.0, "left", "late", 2)))

    def happen(screen: bytes) -> None:
        if b"no room" in screen:
            served.put(old)
        elif b"tiny-00002" in screen:
            served.put(instance(1, "tiny", history=(LATER,)))

    words = ("instances", "events", "--follow", "--node=n1")
    status, screen = on_terminal(served, words, CTRL_C, happen, question=b"left late")

    assert 130 == status, screen
    assert [1, 1, 1] == [screen.count(text) for text in ("no room", "left late", "llama-00003  st")]
