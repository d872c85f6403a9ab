"""What is logged of failing instances, and when."""

from __future__ import annotations

import pytest

from exporter.model import Outcome
from exporter.scrape_target import MAX_LINES, LastFailure, PollCounts, ScrapeTarget, failure_lines
from tests.exporter.pollers import Polled, hastily_polling, polling, target
from tests.exporter.servers import hanging, serving
from tests.waiting import eventually

WINDOW_S = 60.0


def watched(polled: Polled) -> list[ScrapeTarget]:
    return list(polled.poller.scrape_targets.values())


def fail(scrape_target: ScrapeTarget, *, failed: int = 6, tried: int = 6) -> None:
    scrape_target.poll_counts = PollCounts(tried, failed)
    scrape_target.last_failure = LastFailure(
        Outcome.TIMEOUT, "no answer within 2 s", 1_800_000_000.0
    )


async def some_watches(n: int) -> list[ScrapeTarget]:
    """Return watches that nothing polls."""
    async with polling(*[target(f"i{k:03}", 1) for k in range(n)], interval_s=1000.0) as polled:
        return watched(polled)


def lines(scrape_targets: list[ScrapeTarget]) -> list[str]:
    return list(failure_lines(scrape_targets, WINDOW_S))


async def test_a_failing_instance_has_one_line_that_says_how_often_and_why() -> None:
    good, bad = await some_watches(2)
    good.poll_counts = PollCounts(6, 0)
    fail(bad, failed=4)

    assert [
        "instance fails id=i001 url=http://127.0.0.1:1 failed=4 polls=6 window=60s "
        "outcome=timeout: no answer within 2 s"
    ] == lines([good, bad])


@pytest.mark.parametrize(
    ("n_failing", "summary"),
    [
        (MAX_LINES, []),
        (
            MAX_LINES + 5,
            ["more instances fail, see /instances n=5 window=60s"],
        ),
        (
            MAX_LINES + 1500,
            ["more instances fail, see /instances n=1500 window=60s"],
        ),
    ],
)
async def test_many_failing_instances_do_not_flood_the_log(
    n_failing: int, summary: list[str]
) -> None:
    scrape_targets = await some_watches(n_failing)
    for scrape_target in scrape_targets:
        fail(scrape_target)

    written = lines(scrape_targets)

    ids = [line.split()[2] for line in written[:MAX_LINES]]
    assert [f"id=i{k:03}" for k in range(MAX_LINES)] == ids
    assert summary == written[MAX_LINES:]
    assert [] == lines(scrape_targets)


async def test_polls_are_counted_as_they_fail() -> None:
    async with serving(hanging) as port, hastily_polling(target("a", port)) as polled:
        (scrape_target,) = watched(polled)

        def has_hung_twice() -> bool:
            return scrape_target.poll_counts.failed >= 2 and polled.outcome("a") == Outcome.TIMEOUT

        await eventually(has_hung_twice)
        n_failed = scrape_target.poll_counts.failed
        (line,) = lines([scrape_target])

    assert line.startswith("instance fails id=a url=http://127.0.0.1:")
    assert f" failed={n_failed} polls={n_failed} " in line
    assert " outcome=timeout: " in line
