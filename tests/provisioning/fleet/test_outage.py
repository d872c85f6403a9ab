"""What is said of a store that is away."""

from __future__ import annotations

import logging

import pytest

from provisioning.fleet.errors import StoreError, StoreUnavailableError
from provisioning.fleet.outage import Outage
from tests.provisioning.fleet.virtual import VirtualClock, virtual_run

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


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the lines of the log, each with its level."""
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "test"]
