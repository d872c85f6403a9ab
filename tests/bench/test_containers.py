"""The containers' part of the benchmark measures what it says, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from provisioning.demo.errors import ProgramError
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import Daemon
from provisioning.runtime.containerd.runtime import namespace_of
from tests.bench import containers
from tests.bench.bench import Bench, BenchError
from tests.bench.containers import (
    CRUN,
    RUNC,
    Taken,
    Turn,
    added,
    fetched_archive,
    in_turns,
    measure_containers,
    parse_pss_bytes,
    race,
    race_sentence,
    runtimes_sentence,
    taken_by_both,
)
from tests.bench.contestants import (
    CTR,
    OURS,
    Contestant,
    Ctr,
    Ours,
    at_once,
    container_names,
    opened,
    operations,
)
from tests.containerd import Containerd, busybox_archive, running_containerd
from tests.waiting import eventually

ROLLUP = """\
55d0c2a00000-7ffd1b3fe000 ---p 00000000 00:00 0                          [rollup]
Rss:               20712 kB
Pss:                4300 kB
Pss_Dirty:          4100 kB
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with running_containerd(tmp_path_factory.mktemp("containerd")) as running:
        yield running


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_archive(tmp_path_factory.mktemp("image"))


# Real containers


async def test_a_race_makes_and_removes_every_container(daemon: Containerd, archive: Path) -> None:
    ours, ctr = await race(daemon, archive, n_containers=3)

    for turn in (ours, ctr):
        assert 6 == turn.n_containers
        assert turn.start_s > 0
        assert turn.removal_s > 0
    await eventually(lambda: not daemon.shims())


async def test_each_contestant_runs_as_many_containers_as_it_is_told(
    daemon: Containerd, archive: Path
) -> None:
    names = container_names("real", 3)
    async with opened(daemon, OURS, CRUN, archive) as ours, opened(daemon, CTR, CRUN, archive):
        for contestant in (Ours(ours), Ctr(daemon)):
            await contestant.start(names)
            assert 3 == len(daemon.shims())

            await contestant.remove(names)
            await eventually(lambda: not daemon.shims())


async def test_no_container_outlives_an_interruption(daemon: Containerd, archive: Path) -> None:
    with pytest.raises(asyncio.CancelledError):
        await start_and_be_interrupted(daemon, archive)

    await eventually(lambda: not daemon.shims())


async def start_and_be_interrupted(daemon: Containerd, archive: Path) -> None:
    async with opened(daemon, OURS, CRUN, archive) as ours, opened(daemon, CTR, CRUN, archive):
        for contestant in (Ours(ours), Ctr(daemon)):
            await contestant.start(container_names("interrupted", 2))
        assert 4 == len(daemon.shims())
        raise asyncio.CancelledError


async def test_our_turns_come_first(
    daemon: Containerd, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_of = {Ours: Turn(1, 1.0, 1.0), Ctr: Turn(2, 2.0, 2.0)}

    async def fixed_turns(
        contestants: Sequence[Contestant], *, n_containers: int
    ) -> list[tuple[Turn, ...]]:
        return [(turn_of[type(contestant)],) for contestant in contestants]

    monkeypatch.setattr(containers, "in_turns", fixed_turns)

    assert (turn_of[Ours], turn_of[Ctr]) == await race(daemon, archive, n_containers=3)


async def test_the_contestants_make_containers_with_one_runtime_and_the_same_limits(
    daemon: Containerd, archive: Path
) -> None:
    names = container_names("equal", 1)
    async with opened(daemon, OURS, CRUN, archive) as ours, opened(daemon, CTR, CRUN, archive):
        for contestant in (Ours(ours), Ctr(daemon)):
            await contestant.start(names)
        by_us = await settings(daemon, OURS, names[0])
        by_ctr = await settings(daemon, CTR, names[0])

    assert by_us == by_ctr
    assert 24 * 2**20 == by_us["memory"]
    assert 1.0 == by_us["quota"] / by_us["period"]


async def settings(daemon: Containerd, fleet: str, name: str) -> dict[str, Any]:
    """Return what a container's record says of its runtime and limits."""
    connection = Daemon(daemon.endpoint, namespace_of(fleet))
    try:
        reply = await connection.call(api.GET_CONTAINER, messages.ContainerId(id=name))
    finally:
        await connection.close()
    resources = msgspec.json.decode(reply.container.spec.value)["linux"]["resources"]
    options = messages.RuncOptions.FromString(reply.container.runtime.options.value)
    cpu = {key: resources["cpu"][key] for key in ("quota", "period", "shares")}
    return {"runtime": options.binary_name, "memory": resources["memory"]["limit"], **cpu}


async def test_a_command_of_the_loop_that_fails_is_told(daemon: Containerd) -> None:
    with pytest.raises(BenchError, match="no-such-container"):
        await Ctr(daemon).remove(["no-such-container"])


async def test_every_container_of_both_runtimes_is_measured(
    daemon: Containerd, archive: Path
) -> None:
    crun, runc = await taken_by_both(daemon, archive, n_containers=3)

    assert (CRUN, RUNC) == (crun.runtime, runc.runtime)
    for taken in (crun, runc):
        assert 3 == len(taken.start_s) == len(taken.shim_bytes)
        assert min(taken.start_s) > 0
        assert min(taken.shim_bytes) > 100_000
        assert (daemon.folder / f"runtime-{taken.runtime}" / namespace_of(taken.runtime)).exists()
    await eventually(lambda: not daemon.shims())


# What needs no containerd


@dataclass(slots=True)
class Recorder:
    """A contestant that only notes what it is asked."""

    name: str
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    async def start(self, names: Sequence[str]) -> None:
        self.asked.append((self.name, "start", len(names)))

    async def remove(self, names: Sequence[str]) -> None:
        self.asked.append((self.name, "remove", len(names)))


async def test_contestants_take_turns_after_a_round_that_does_not_count() -> None:
    asked: list[tuple[str, str, int]] = []
    contestants: list[Contestant] = [Recorder("a", asked), Recorder("b", asked)]

    turns = await in_turns(contestants, n_containers=100)

    n_warm = operations()
    assert [("a", n_warm), ("b", n_warm), ("a", 100), ("b", 100), ("a", 100), ("b", 100)] == [
        (name, n_names) for name, what, n_names in asked if what == "start"
    ]
    assert ["start", "remove"] * 6 == [what for _, what, _ in asked]
    assert [[100, 100], [100, 100]] == [[turn.n_containers for turn in of] for of in turns]


async def test_as_many_calls_are_under_way_as_a_node_bears_and_each_name_has_one() -> None:
    seen: list[str] = []
    under_way: set[str] = set()
    peaks: list[int] = []

    async def call(name: str) -> None:
        seen.append(name)
        under_way.add(name)
        peaks.append(len(under_way))
        await asyncio.sleep(0)
        under_way.remove(name)

    names = container_names("many", 5 * operations())
    await at_once(call, names)

    assert sorted(names) == sorted(seen)
    assert operations() == max(peaks)


def test_a_node_bears_three_operations_for_each_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    assert 24 == operations()


def test_turns_add_up() -> None:
    assert Turn(200, 3.5, 2.25) == added([Turn(100, 1.5, 1.25), Turn(100, 2.0, 1.0)])


def test_only_root_can_have_containers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ProgramError, match="containerd needs root; measure as root"):
        fetched_archive(bench)


async def test_without_programs_the_part_is_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found_nothing(_: Bench) -> Path:
        raise ProgramError("crun is not installed")

    monkeypatch.setattr(containers, "fetched_archive", found_nothing)

    assert ["containers: left out: crun is not installed"] == await measure_containers(bench)


def test_proportional_memory_is_read_from_a_rollup() -> None:
    assert 4300 * 1024 == parse_pss_bytes(ROLLUP)


def test_a_rollup_of_a_process_that_has_ended_is_refused() -> None:
    with pytest.raises(ValueError, match="the process has ended"):
        parse_pss_bytes("")


def test_the_sentence_on_the_race_gives_rates_and_ratios() -> None:
    assert (
        "containers: 200 started at 25.0/s and removed at 50.0/s by our runtime, 200 at 12.5/s and "
        "33.3/s by `ctr` in a shell loop, 6 at once, in turns: 2.00 and 1.50 times as fast, 1.83 "
        "times together (not slower)"
    ) == race_sentence(Turn(200, 8.0, 4.0), Turn(200, 16.0, 6.0), 6)


def test_the_sentence_on_the_race_says_where_we_are_slower() -> None:
    sentence = race_sentence(Turn(200, 8.0, 4.0), Turn(200, 8.0, 3.0), 6)

    assert "1.00 and 0.75 times as fast, 0.92 times together (SLOWER)" in sentence


def test_the_sentence_on_the_runtimes_gives_medians_beside_the_articles_figures() -> None:
    crun = Taken(CRUN, (0.060, 0.058, 0.9), (4_500_000, 4_600_000, 9_000_000))
    runc = Taken(RUNC, (0.073, 0.071, 0.9), (4_700_000, 4_600_000, 4_800_000))

    assert (
        "containers started one at a time until there are 6: crun takes 60 ms for one (the "
        "article: 1.1 s), and its shim 4.6 MB of memory (the article: 6 MB); runc takes 73 ms for "
        "one (the article: 1.8 s), and its shim 4.7 MB of memory (the article: 18 MB)"
    ) == runtimes_sentence(crun, runc)
