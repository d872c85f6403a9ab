"""One line says what was found of a fleet, and comes again only when the problems change much."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from exporter.counters import CounterState
from exporter.fleet_log import FleetSummary, log_fleet
from exporter.model import Outcome, State, Status, Target
from exporter.snapshot import Row
from ollama_fleet.clock import SystemClock
from tests.exporter.fleets import reading, row
from tests.exporter.pollers import target, watching
from tests.exporter.servers import answering, serving
from tests.ports import free_port
from tests.waiting import eventually


def rows(
    n: int, outcome: Outcome = Outcome.OK, *, version: str = "", prefix: str = ""
) -> list[Row]:
    """Return instances that were polled with one outcome."""
    made = [row(Target(f"{prefix or outcome}-{k}", "h", 1), reading(outcome)) for k in range(n)]
    return [msgspec.structs.replace(one, counters=CounterState(version=version)) for one in made]


def summary(*parts: list[Row]) -> FleetSummary:
    summed = FleetSummary()
    for part in parts:
        summed.add(part)
    return summed


def test_a_fleet_is_summed_up_by_servers_and_problems() -> None:
    found = summary(
        rows(41, version="0.23.0"),
        rows(14, version="0.22.1", prefix="old"),
        rows(4, Outcome.REFUSED),
        rows(1, Outcome.HTTP_STATUS),
    )

    assert (
        "55 of 60 instances healthy: 41 fleet 0.23.0, 14 fleet 0.22.1; "
        "4 refused (refused-0, refused-1, refused-2, …), 1 http_status (http_status-0)"
    ) == str(found)
    assert "1 of 1 instance healthy: 1 fleet" == str(summary(rows(1)))
    assert "0 of 0 instances healthy" == str(summary())


def test_who_need_not_serve_counts_by_status_and_so_does_who_was_not_polled() -> None:
    draining = Target("d", "h", 1, state=State.DRAINING)
    stalled = msgspec.structs.replace(rows(1)[0], status=Status.UNHEALTHY)

    found = summary([row(draining, reading(Outcome.REFUSED)), row(Target("n", "h", 1)), stalled])

    assert {"draining": 1, "unknown": 1, "unhealthy": 1} == found.problems


def test_however_odd_a_fleet_is_it_takes_one_short_line() -> None:
    odd = [rows(1, outcome, prefix="i" * 256) for outcome in Outcome if outcome != Outcome.OK]
    many = [rows(1, version=f"{k}" * 256) for k in range(50)]

    found = summary(*many, *odd, rows(5, Outcome.REFUSED))

    assert len(str(found)) < 2000
    assert ", 44 other; 6 refused (" in str(found)
    assert str(found).endswith(" other")


@pytest.mark.parametrize(
    ("before", "after", "is_much"),
    [
        ((60, 0, 0), (60, 0, 0), False),
        ((60, 0, 0), (58, 2, 0), False),
        ((60, 0, 0), (57, 3, 0), True),
        ((55, 5, 0), (58, 2, 0), True),
        ((55, 5, 0), (55, 3, 2), True),
        ((6, 0, 0), (5, 1, 0), True),
        ((10_000, 0, 0), (9_501, 499, 0), False),
        ((60, 0, 0), (90, 0, 0), False),
    ],
)
def test_problems_have_changed_much_with_a_twentieth_of_the_fleet(
    before: tuple[int, int, int], after: tuple[int, int, int], is_much: bool
) -> None:
    first, second = (
        summary(rows(n), rows(n_refused, Outcome.REFUSED), rows(n_tls, Outcome.TLS))
        for n, n_refused, n_tls in (before, after)
    )

    assert is_much == second.differs_much(first)


async def test_the_log_says_what_the_first_cycle_found_and_when_that_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "exporter")
    port = free_port()
    healthy = answering({"/health": b"{}", "/api/metrics": b"{}"})
    async with serving(healthy) as good, watching(target("a", good), target("b", port)) as polled:
        task = asyncio.create_task(log_fleet(polled.poller, SystemClock(), window_s=0.01))
        await eventually(lambda: "fleet polled" in caplog.text)
        await polled.polled_again("b")
        async with serving(healthy, port):
            await eventually(lambda: polled.poller.scrape_targets["b"].row.status == "healthy")
            await eventually(lambda: "problems=none" in caplog.text)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    assert [
        "fleet polled healthy=1 instances=2 servers=1 fleet problems=1 refused (b)",
        "fleet polled healthy=2 instances=2 servers=2 fleet problems=none",
    ] == [one.getMessage() for one in caplog.records if one.msg.startswith("fleet polled")]
