"""What a provisioner says that waits to lead."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from provisioning.controller import Standby
from provisioning.store.tenure import Tenure
from tests.provisioning.virtual import VirtualClock, virtual_run

OURS = "http://ours:8080"
A, B = "http://a:8080", "http://b:8080"


class Leaders:
    """Leadership of which only is asked who has it."""

    holder = OURS

    def __init__(self, *leaders: str | None) -> None:
        self.leaders = list(leaders)
        """Who leads by the next answers; then as by the last."""

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[Tenure]:
        raise NotImplementedError
        yield

    async def leader(self) -> str | None:
        return self.leaders.pop(0) if len(self.leaders) > 1 else self.leaders[0]


@pytest.mark.parametrize(
    ("leaders", "expected"),
    [
        ([A], [A]),
        ([A, A, B, B], [A, B]),
        ([None, A, None, None, A], [A]),
        ([A, B, A], [A, B, A]),
        ([OURS], []),
        ([A, OURS, None], [A]),
        ([None], []),
    ],
    ids=["once", "changed", "interregnum", "and back", "we ourselves", "taking over", "nobody"],
)
def test_each_leader_is_told_of_once(
    leaders: list[str | None], expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        standby = Standby(Leaders(*leaders), VirtualClock(), on_answer=lambda: None)
        async with standby.telling():
            await VirtualClock().sleep(600.0)

    virtual_run(scene())

    assert [("INFO", f"stands by, {one} leads") for one in expected] == told(caplog)


def test_a_leader_is_told_of_at_once_and_a_change_within_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        leaders = Leaders(A)
        async with Standby(leaders, VirtualClock(), on_answer=lambda: None).telling():
            await VirtualClock().sleep(0.1)
            assert 1 == len(told(caplog))
            leaders.leaders = [B]
            await VirtualClock().sleep(5.0)
            assert 2 == len(told(caplog))

    virtual_run(scene())


def test_who_waits_again_repeats_nothing_unless_it_has_led_in_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        standby = Standby(Leaders(A), VirtualClock(), on_answer=lambda: None)
        await stand_by(standby)
        await stand_by(standby)
        assert 1 == len(told(caplog))

        standby.forget()
        await stand_by(standby)
        assert 2 == len(told(caplog))

    virtual_run(scene())


async def stand_by(standby: Standby) -> None:
    async with standby.telling():
        await VirtualClock().sleep(60.0)


def test_every_answer_of_the_store_is_passed_on() -> None:
    answers: list[float] = []

    async def scene() -> None:
        leaders = Leaders(None, None, A)
        clock = VirtualClock()
        standby = Standby(leaders, clock, on_answer=lambda: answers.append(clock.monotonic_s()))
        async with standby.telling():
            await clock.sleep(19.0)

    virtual_run(scene())

    assert [10.0, 15.0] == answers


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the lines of the log, each with its level."""
    return [(one.levelname, one.getMessage()) for one in caplog.records]
