"""What is said of a store that is away."""

from __future__ import annotations

import logging

import pytest

from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.eventlog import Outage
from tests.provisioning.virtual import VirtualClock, virtual_run

GONE = StoreUnavailableError("no answer")
AWAY, BLIND = "nothing is changed", "the view gets old"


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def outage() -> Outage:
    return Outage(VirtualClock(), logging.getLogger("test"), restored="it is back")


async def fail_for(one: Outage, n: int, consequence: str = AWAY) -> None:
    """Fail n times, once a second."""
    for _ in range(n):
        one.note_failed(consequence, GONE)
        await VirtualClock().sleep(1.0)


def test_it_is_told_at_once_then_once_a_minute_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        one = outage()
        await fail_for(one, 130)
        one.note_well()
        one.note_well()

    virtual_run(scene())

    assert [
        ("WARNING", "nothing is changed: no answer"),
        ("WARNING", "nothing is changed, for 60 s now: no answer"),
        ("WARNING", "nothing is changed, for 120 s now: no answer"),
        ("INFO", "it is back, after 130 s"),
    ] == told(caplog)


def test_nothing_is_told_while_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        outage().note_well()

    virtual_run(scene())

    assert [] == told(caplog)


def test_each_consequence_is_told_of_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        one = outage()
        await fail_for(one, 10)
        await fail_for(one, 10, BLIND)

    virtual_run(scene())

    assert ["nothing is changed: no answer", "the view gets old, for 10 s now: no answer"] == [
        words for _, words in told(caplog)
    ]


def test_a_store_that_comes_and_goes_is_told_of_once_a_minute_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        one = outage()
        for _ in range(59):
            await fail_for(one, 1)
            one.note_well()

    virtual_run(scene())

    assert ["nothing is changed: no answer", "it is back, after 1 s"] == [
        words for _, words in told(caplog)
    ]


def test_the_next_outage_counts_from_its_own_beginning(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        one = outage()
        await fail_for(one, 1)
        one.note_well()
        await VirtualClock().sleep(49.0)
        await fail_for(one, 15)
        one.note_well()

    virtual_run(scene())

    assert ["nothing is changed, for 10 s now: no answer", "it is back, after 15 s"] == [
        words for _, words in told(caplog)[2:]
    ]


def test_what_a_person_has_to_mend_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        outage().note_failed(AWAY, StoreError("permission denied"))

    virtual_run(scene())

    assert [("ERROR", "nothing is changed: permission denied")] == told(caplog)


def test_each_outage_is_counted_once_however_many_tries_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun: list[bool] = []

    async def scene() -> None:
        one = Outage(
            VirtualClock(),
            logging.getLogger("test"),
            restored="it is back",
            on_begin=lambda: begun.append(True),
        )
        one.note_well()
        assert [] == begun
        await fail_for(one, 10)
        await fail_for(one, 10, BLIND)
        assert 1 == len(begun)
        one.note_well()
        one.note_failed(AWAY, GONE)  # too soon to be told
        assert 2 == len(begun)

    virtual_run(scene())

    assert 3 == len(told(caplog))


def test_after_a_refusal_only_a_write_or_a_long_quiet_time_is_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        one = outage()
        for _ in range(3):
            one.note_failed(AWAY, StoreError("permission denied"))
            await VirtualClock().sleep(119.0)
            one.note_read()
        assert 3 == len(told(caplog))
        await VirtualClock().sleep(1.0)
        one.note_read()
        one.note_failed(AWAY, StoreError("permission denied"))
        one.note_well()
        one.note_failed(BLIND, GONE)
        one.note_read()

    virtual_run(scene())

    restored = [words for _, words in told(caplog)[3:] if words.startswith("it is back")]
    assert ["it is back, after 358 s", "it is back, after 0 s", "it is back, after 0 s"] == restored


def test_a_store_that_is_reached_again_is_back_without_a_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        one = outage()
        await fail_for(one, 1)
        one.note_read()

    virtual_run(scene())

    assert ("INFO", "it is back, after 1 s") == told(caplog)[-1]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the lines of the log, each with its level."""
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "test"]
