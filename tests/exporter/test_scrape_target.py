"""An instance while its models change, and what is logged of those that fail."""

from __future__ import annotations

import ssl
from dataclasses import replace
from itertools import cycle, islice

import pytest

from exporter.catalogue import Condition
from exporter.engines.base import Answers, Engine
from exporter.instance_client import TransportConfig
from exporter.model import Answer, LoadedModel, Outcome, Status, Values, Verdict
from exporter.resolver import Resolver
from exporter.scrape_target import (
    MAX_LINES,
    LastFailure,
    PollCounts,
    PollOptions,
    ScrapeTarget,
    failure_lines,
)
from tests.exporter.fleets import render, snapshot, text_of
from tests.exporter.inventory.fakes import HeldClock
from tests.exporter.pollers import PATIENCE_S, Polled, hastily_polling, polling, target
from tests.exporter.servers import answering, hanging, serving
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
    return [line[0] % line[1:] for line in failure_lines(scrape_targets, WINDOW_S)]


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


async def test_an_instance_that_is_away_is_not_in_the_log() -> None:
    async with polling(target("a", 1), transient="all") as polled:
        await eventually(lambda: polled.status("a") is Status.AWAY)

        assert [] == lines(watched(polled))


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


def read_toy(answers: Answers) -> Verdict:
    """Read a count of tokens and the names of the loaded models; nothing is a bad answer."""
    answer = answers["/ps"]
    assert isinstance(answer, Answer)
    if not answer.body:
        return Verdict(Outcome.HTTP_STATUS)
    tokens, *models = answer.body.decode().split()
    loaded = tuple(
        [
            LoadedModel(name.removesuffix("@cpu"), 8.0, 0.0 if "@" in name else 8.0, None, 4096.0)
            for name in models
        ]
    )
    told = Values(
        models=tuple(models), version="1", generated_tokens_total=float(tokens), loaded=loaded
    )
    return Verdict(Outcome.OK, values=told)


def toy_options(clock: HeldClock) -> PollOptions:
    engine = Engine("toy", ("/ps",), read_toy, (), lambda _: False)
    return PollOptions(
        health_timeout_s=PATIENCE_S,
        metrics_timeout_s=PATIENCE_S,
        identify_interval_s=3600.0,
        loading_timeout_s=600.0,
        starting_timeout_s=900.0,
        max_tokens_per_second=1e6,
        engines={"toy": engine},
        transport=TransportConfig(Resolver(clock), ssl.create_default_context()),
        clock=clock,
    )


def series_of(scrape_target: ScrapeTarget) -> dict[str, str]:
    """Return the values of the instance's series, by name and labels."""
    page = text_of(render(snapshot(scrape_target.row))).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in page if line.startswith("ollama_instance_"))


SWAPS = (("a",), ("a", "b"), ("b",), ("b", "c"), ("c", "b"), ("d",))
OF_MODELS = ("ollama_instance_model_", "ollama_instance_info")


async def test_models_swapped_for_an_hour_end_and_begin_no_other_series_of_the_instance() -> None:
    """The inventory names no model. Tokens go on from where they were, whichever model it is."""
    clock, body = HeldClock(), {"/ps": b""}
    async with serving(answering(body)) as port:
        scrape_target = ScrapeTarget(target("i", port, engine="toy"), toy_options(clock))
        seen: list[dict[str, str]] = []
        for n, models in enumerate(islice(cycle(SWAPS), 360)):
            body["/ps"] = " ".join((str(n), *models)).encode()
            await scrape_target.poll(scrape_target.start_poll())
            seen.append(series_of(scrape_target))
            await clock.sleep(10.0)
        scrape_target.close()

    steady = [{name for name in each if not name.startswith(OF_MODELS)} for each in seen]
    assert all(names == steady[0] for names in steady)
    assert "359.0" == seen[-1]['ollama_instance_generated_tokens_total{instance_id="i",node=""}']
    loaded = [[name[-3] for name in each if "model_loaded" in name] for each in seen[:6]]
    assert [list(models) for models in SWAPS] == loaded


async def test_what_one_instance_has_on_a_gpu_another_should_not_have_on_the_cpu() -> None:
    clock, body = HeldClock(), {"/ps": b""}
    options, seen = toy_options(clock), []
    async with serving(answering(body)) as port:
        scrape_targets = [ScrapeTarget(target(i, port, engine="toy"), options) for i in "ij"]
        for n, said in enumerate((b"0 a@cpu", b"0 a", b"0 a@cpu")):
            body["/ps"] = said
            await scrape_targets[n % 2].poll(scrape_targets[n % 2].start_poll())
            seen.append(scrape_targets[n % 2].row.conditions)
        for scrape_target in scrape_targets:
            scrape_target.close()

    assert [(), (), (Condition.ON_CPU,)] == seen


async def test_an_instance_that_comes_and_goes_is_flapping_until_it_stays() -> None:
    """Also when the inventory says something new of it meanwhile."""
    clock, body = HeldClock(), {"/ps": b"0 a"}
    async with serving(answering(body)) as port:
        scrape_target = ScrapeTarget(target("i", port, engine="toy"), toy_options(clock))
        await poll_each(scrape_target, body, b"0 a", b"", b"0 a", b"", b"0 a", b"")
        conditions = [scrape_target.row.conditions]
        scrape_target = scrape_target.successor(replace(scrape_target.target, model="a"))
        for later_s in (0.0, 901.0):
            await clock.sleep(later_s)
            await poll_each(scrape_target, body, b"")
            conditions.append(scrape_target.row.conditions)
        scrape_target.close()

    assert [(Condition.FLAPPING,), (Condition.FLAPPING,), ()] == conditions


async def poll_each(scrape_target: ScrapeTarget, body: dict[str, bytes], *answers: bytes) -> None:
    for body["/ps"] in answers:
        await scrape_target.poll(scrape_target.start_poll())


async def test_the_model_of_an_instance_stays_while_it_is_loaded() -> None:
    clock, body = HeldClock(), {"/ps": b""}
    known = []
    async with serving(answering(body)) as port:
        scrape_target = ScrapeTarget(target("i", port, engine="toy"), toy_options(clock))
        for models in SWAPS:
            body["/ps"] = " ".join(("0", *models)).encode()
            await scrape_target.poll(scrape_target.start_poll())
            (info,) = [name for name in series_of(scrape_target) if "_info" in name]
            known.append(info.partition('model="')[2][0])
        scrape_target.relabel(replace(scrape_target.target, model="listed"))
        scrape_target.close()

    assert ["a", "a", "b", "b", "b", "d"] == known
    assert "listed" == scrape_target.row.counters.model
