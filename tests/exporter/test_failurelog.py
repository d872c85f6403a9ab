from __future__ import annotations

from collections.abc import Iterator

import pytest

from exporter.model import Outcome
from exporter.scrape_target import MAX_LINES, LastFailure, Tally, Watch, failure_lines
from tests.exporter.pollers import Polled, hastily_polling, polling, target
from tests.exporter.servers import hanging, serving
from tests.waiting import eventually

WINDOW_S = 60.0


def watched(polled: Polled) -> list[Watch]:
    return list(polled.poller.watches.values())


def fail(watch: Watch, *, failed: int = 6, tried: int = 6) -> None:
    watch.tally = Tally(tried, failed)
    watch.last_failure = LastFailure(Outcome.TIMEOUT, "no answer within 2 s", 1_800_000_000.0)


async def some_watches(n: int) -> list[Watch]:
    """Return watches that nothing polls."""
    async with polling(*[target(f"i{k:03}", 1) for k in range(n)], interval_s=1000.0) as polled:
        return watched(polled)


def lines(watches: list[Watch]) -> list[str]:
    return list(failure_lines(watches, WINDOW_S))


async def test_a_failing_instance_has_one_line_that_says_how_often_and_why() -> None:
    good, bad = await some_watches(2)
    good.tally = Tally(6, 0)
    fail(bad, failed=4)

    assert [
        "i001 (http://127.0.0.1:1) failed 4 of 6 polls in the last 60 s; "
        "last: timeout, no answer within 2 s"
    ] == lines([good, bad])


async def test_tallies_begin_anew_with_each_window() -> None:
    watches = await some_watches(2)
    fail(watches[0])
    watches[1].tally = Tally(6, 0)

    assert 1 == len(lines(watches))

    assert [] == lines(watches)
    assert [Tally(), Tally()] == [watch.tally for watch in watches]


async def test_what_failed_last_stays_known_after_it_was_logged() -> None:
    (watch,) = await some_watches(1)
    fail(watch)
    lines([watch])

    watch.tally = Tally(6, 1)

    assert lines([watch])[0].endswith("failed 1 of 6 polls in the last 60 s; "
                                      "last: timeout, no answer within 2 s")  # fmt: skip


@pytest.mark.parametrize(
    ("n_failing", "summary"),
    [
        (MAX_LINES, []),
        (
            MAX_LINES + 5,
            ["5 more instances failed polls in the last 60 s; see /instances"],
        ),
        (
            MAX_LINES + 1500,
            ["1,500 more instances failed polls in the last 60 s; see /instances"],
        ),
    ],
)
async def test_many_failing_instances_do_not_flood_the_log(
    n_failing: int, summary: list[str]
) -> None:
    watches = await some_watches(n_failing)
    for watch in watches:
        fail(watch)

    written = lines(watches)

    assert [f"i{k:03}" for k in range(MAX_LINES)] == [line[:4] for line in written[:MAX_LINES]]
    assert summary == written[MAX_LINES:]
    assert [] == lines(watches)


async def test_polls_are_counted_as_they_fail() -> None:
    async with serving(hanging) as port, hastily_polling(target("a", port)) as polled:
        (watch,) = watched(polled)

        def has_hung_twice() -> bool:
            return watch.tally.failed >= 2 and polled.outcome("a") == Outcome.TIMEOUT

        await eventually(has_hung_twice)
        n_failed = watch.tally.failed
        (line,) = lines([watch])

    assert "a (http://127.0.0.1:" in line
    assert f"failed {n_failed} of {n_failed} polls" in line
    assert "last: timeout, " in line


def test_without_instances_there_is_nothing_to_say() -> None:
    nothing: Iterator[str] = failure_lines((), WINDOW_S)

    assert [] == list(nothing)
