"""What repeats is logged once per window; an outage with its counts, and when it ends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest

from provisioning.eventlog import MAX_KEYS, EventLog, RateLimit
from tests.provisioning.virtual import VirtualClock, virtual_run

LOG = logging.getLogger("tests.eventlog")
FAILS, BACK = "store unavailable", "store available"


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def play(scene: Callable[[EventLog], Awaitable[None]]) -> None:
    async def run() -> None:
        await scene(EventLog(LOG, VirtualClock()))

    virtual_run(run())


async def fail(events: EventLog, n: int, message: str = FAILS) -> list[bool]:
    """Fail n times, once a second."""
    begun = []
    for _ in range(n):
        begun.append(events.failed("store", message, "no answer"))
        await VirtualClock().sleep(1.0)
    return begun


def test_an_event_is_logged_burst_times_a_window_and_then_with_what_was_held_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(events: EventLog) -> None:
        for _ in range(61):
            events.event("a", "fails instance=%s: %s", "a-1", "gone", burst=2)
            await VirtualClock().sleep(1.0)
        events.event("b", "another key does not wait", level=logging.ERROR)

    play(scene)

    assert [
        (logging.WARNING, "fails instance=a-1: gone"),
        (logging.WARNING, "fails instance=a-1: gone"),
        (logging.WARNING, "fails instance=a-1 held_back=58: gone"),
        (logging.ERROR, "another key does not wait"),
    ] == [(one.levelno, one.getMessage()) for one in caplog.records]


def test_keys_without_end_share_one() -> None:
    async def scene(events: EventLog) -> None:
        first = [events.admit(f"key {number}") for number in range(10 * MAX_KEYS)]
        assert MAX_KEYS + 1 == first.count(0)
        await VirtualClock().sleep(60.0)
        assert MAX_KEYS == [events.admit(f"key {number}") for number in range(MAX_KEYS)].count(0)

    play(scene)


def test_an_outage_is_logged_at_once_at_growing_intervals_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(events: EventLog) -> None:
        assert not events.succeeded("store", BACK)
        assert [True, *[False] * 299] == await fail(events, 300)
        assert [True, False] == [events.succeeded("store", BACK) for _ in range(2)]

    play(scene)

    assert [
        "store unavailable failed=1 of=1 for_s=0: no answer",
        "store unavailable failed=60 of=60 for_s=60: no answer",
        "store unavailable failed=60 of=60 for_s=120: no answer",
        "store unavailable failed=120 of=120 for_s=240: no answer",
        "store available after_s=300",
    ] == caplog.messages


def test_the_interval_grows_to_an_hour_at_most(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(events: EventLog) -> None:
        for _ in range(24 * 60):
            events.failed("n1", "node does not answer", "refused")
            await VirtualClock().sleep(60.0)

    play(scene)

    assert 24 + 5 <= len(caplog.messages) <= 24 + 7


def test_what_fails_and_recovers_is_logged_once_a_window_with_its_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(events: EventLog) -> None:
        for _ in range(31):
            await fail(events, 1)
            events.succeeded("store", BACK)
            await VirtualClock().sleep(1.0)

    play(scene)

    assert [
        "store unavailable failed=1 of=1 for_s=0: no answer",
        "store available after_s=1",
        "store unavailable failed=30 of=59 for_s=0: no answer",
        "store available after_s=1",
    ] == caplog.messages


def test_another_consequence_of_an_outage_does_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(events: EventLog) -> None:
        await fail(events, 10)
        assert [False] == await fail(events, 1, "cannot lead, 100% sure")

    play(scene)

    words = "cannot lead, 100% sure failed=10 of=10 for_s=10: no answer"
    assert words == caplog.messages[-1]


def test_an_outage_may_end_only_after_a_quiet_time(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(events: EventLog) -> None:
        await fail(events, 1)
        assert not events.succeeded("store", BACK, quiet_s=120.0)
        await VirtualClock().sleep(119.0)
        assert events.succeeded("store", BACK, quiet_s=120.0)

    play(scene)

    assert "store available after_s=120" == caplog.messages[-1]


def test_what_is_forgotten_was_never_away(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(events: EventLog) -> None:
        for name in ("n1", "n2"):
            events.failed(name, f"node={name}", "refused")
        events.keep_only(frozenset({"n2"}))
        assert [False, True] == [events.succeeded(name, "back") for name in ("n1", "n2")]
        events.forget()
        assert events.failed("n1", "node=n1", "refused")

    play(scene)

    assert ["node=n1", "node=n2", "back", "node=n1"] == [one.split()[0] for one in caplog.messages]


def test_a_filter_holds_back_records_alike_and_keeps_what_follows_their_first_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(_events: EventLog) -> None:
        LOG.addFilter(limit := RateLimit(VirtualClock()))
        for _ in range(100):
            LOG.error("no %s\nfd=7", "files")
            LOG.error("no memory")
        await VirtualClock().sleep(60.0)
        LOG.error("no %s\nfd=8", "files")
        LOG.removeFilter(limit)

    play(scene)

    assert ["no files\nfd=7", "no memory", "no files held_back=99\nfd=8"] == caplog.messages
