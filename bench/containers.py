"""Measure real containers: how fast ours are made and removed, and what each takes.

One containerd, one image, one machine: our runtime and a shell loop of `ctr` take turns, so that
whatever else the machine does falls on both. Left out without root or without the programs.
"""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import procfs
from bench.bench import Bench, BenchError
from bench.contestants import (
    CTR,
    OURS,
    Contestant,
    Ctr,
    Ours,
    container_names,
    new_container,
    opened,
    operations,
)
from bench.figures import Finding
from bench.nginx import find
from provisioning.demo import programs
from provisioning.demo.errors import ProgramError
from provisioning.errors import ContainerError
from provisioning.runtime.containerd.runtime import namespace_of
from tests.containerd import Containerd, busybox_archive, running_containerd

CRUN, RUNC = "crun", "runc"
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", CRUN, RUNC)
N_TURNS = 2
N_PER_TURN = 100
N_ALONE = 20
"""How many are started one at a time with each runtime."""
ARTICLE_START = {CRUN: "1.1 s", RUNC: "1.8 s"}
ARTICLE_MEMORY = {CRUN: "6 MB", RUNC: "18 MB"}


@dataclass(frozen=True, slots=True)
class Turn:
    """How long some containers took to be started, and then to be removed."""

    n_containers: int
    start_s: float
    removal_s: float

    @property
    def wall_s(self) -> float:
        """Return both together."""
        return self.start_s + self.removal_s


@dataclass(frozen=True, slots=True)
class Taken:
    """What each container of one runtime took: the time to start, and its shim's memory."""

    runtime: str
    start_s: Sequence[float]
    shim_bytes: Sequence[int]


async def measure_containers(bench: Bench) -> list[Finding]:
    """Let our runtime and ctr take turns; then hold crun beside runc."""
    try:
        archive = await asyncio.to_thread(fetched_archive, bench)
    except ProgramError as error:
        return [f"containers: left out: {error}"]
    try:
        with running_containerd(bench.run_dir / "containerd") as daemon:
            bench.say(f"containers: {N_TURNS * N_PER_TURN} by our runtime, and as many by ctr")
            ours, ctr = await race(daemon, archive, n_containers=N_PER_TURN)
            bench.say(f"containers: {N_ALONE} with crun, one at a time, and as many with runc")
            both = await taken_by_both(daemon, archive, n_containers=N_ALONE)
    except (ContainerError, AssertionError) as error:  # the latter: containerd does not answer
        raise BenchError(f"containers: {error}") from error
    return [race_sentence(ours, ctr, operations()), runtimes_sentence(*both)]


def fetched_archive(bench: Bench) -> Path:
    """Write the image's archive; whatever else is needed is there afterwards.

    Raises:
        ProgramError: A program is missing, or we are not root.
    """
    if os.geteuid() != 0:
        raise ProgramError("containerd needs root; measure as root")
    for name in PROGRAMS:
        find(name, bench.say)
    programs.fetch_package("busybox-static", programs.default_dir(os.environ), say=bench.say)
    return busybox_archive(bench.run_dir)


# Ours beside ctr


async def race(daemon: Containerd, archive: Path, *, n_containers: int) -> tuple[Turn, Turn]:
    """Return our turns and ctr's, added up; each turn makes and removes `n_containers`."""
    async with opened(daemon, OURS, CRUN, archive) as ours, opened(daemon, CTR, CRUN, archive):
        our_turns, ctr_turns = await in_turns((Ours(ours), Ctr(daemon)), n_containers=n_containers)
    return added(our_turns), added(ctr_turns)


async def in_turns(
    contestants: Sequence[Contestant], *, n_containers: int
) -> tuple[tuple[Turn, ...], ...]:
    """Let all take turns; return those of each."""
    for contestant in contestants:
        # What is read and run for the first time counts for neither.
        await taken_turn(contestant, container_names("warm", operations()))
    rounds = [
        [
            await taken_turn(contestant, container_names(f"turn-{number}", n_containers))
            for contestant in contestants
        ]
        for number in range(N_TURNS)
    ]
    return tuple(zip(*rounds, strict=True))


async def taken_turn(contestant: Contestant, names: Sequence[str]) -> Turn:
    """Start all and remove all, against the clock."""
    start_s = await seconds_of(contestant.start(names))
    return Turn(len(names), start_s, await seconds_of(contestant.remove(names)))


def added(turns: Iterable[Turn]) -> Turn:
    """Return the turns as one."""
    return Turn(
        sum(turn.n_containers for turn in turns),
        math.fsum(turn.start_s for turn in turns),
        math.fsum(turn.removal_s for turn in turns),
    )


# crun beside runc


async def taken_by_both(
    daemon: Containerd, archive: Path, *, n_containers: int
) -> tuple[Taken, Taken]:
    """Start containers with crun and with runc in turn, one at a time; all are gone then."""
    names = container_names("alone", n_containers)
    async with (
        opened(daemon, CRUN, CRUN, archive) as crun,
        opened(daemon, RUNC, RUNC, archive) as runc,
    ):
        times_s = [
            (
                await seconds_of(crun.start(new_container(CRUN, name))),
                await seconds_of(runc.start(new_container(RUNC, name))),
            )
            for name in names
        ]
        crun_s, runc_s = zip(*times_s, strict=True)
        return (
            Taken(CRUN, crun_s, shim_bytes(daemon, CRUN)),
            Taken(RUNC, runc_s, shim_bytes(daemon, RUNC)),
        )


def shim_bytes(daemon: Containerd, fleet: str) -> list[int]:
    """Return the memory of each shim of the fleet's containers: its share of what is shared."""
    folders = [procfs.PROC / str(pid) for pid in daemon.shims()]
    return [
        parse_pss_bytes((folder / "smaps_rollup").read_text())
        for folder in folders
        if namespace_of(fleet).encode() in (folder / "cmdline").read_bytes().split(b"\0")
    ]


def parse_pss_bytes(smaps_rollup: str) -> int:
    """Return the proportional memory in the text of /proc/PID/smaps_rollup.

    Raises:
        ValueError: It says nothing of it, as for a process that has ended.
    """
    for line in smaps_rollup.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) * procfs.BYTES_PER_KB
    raise ValueError("no Pss in the rollup: the process has ended")


async def seconds_of(call: Awaitable[None]) -> float:
    """Return how long a call takes."""
    started_s = time.perf_counter()
    await call
    return time.perf_counter() - started_s


# Sentences


def race_sentence(ours: Turn, ctr: Turn, n_at_once: int) -> str:
    """Say how fast each was, and whether we are slower."""
    times = ctr.wall_s / ours.wall_s
    return (
        f"containers: {ours.n_containers} started at {rate(ours.start_s, ours)} and removed at "
        f"{rate(ours.removal_s, ours)} by our runtime, {ctr.n_containers} at "
        f"{rate(ctr.start_s, ctr)} and {rate(ctr.removal_s, ctr)} by `ctr` in a shell loop, "
        f"{n_at_once} at once, in turns: {ctr.start_s / ours.start_s:.2f} and "
        f"{ctr.removal_s / ours.removal_s:.2f} times as fast, {times:.2f} times together "
        f"({'not slower' if times >= 1 else 'SLOWER'})"
    )


def rate(wall_s: float, turn: Turn) -> str:
    """Return how many containers that was a second, in words."""
    return f"{turn.n_containers / wall_s:.1f}/s"


def runtimes_sentence(*runtimes: Taken) -> str:
    """Say what a container takes with each runtime, beside what the article says."""
    n_alive = sum(len(taken.shim_bytes) for taken in runtimes)
    each = "; ".join(map(taken_words, runtimes))
    return f"containers started one at a time until there are {n_alive}: {each}"


def taken_words(taken: Taken) -> str:
    """Return the medians of one runtime, in words."""
    return (
        f"{taken.runtime} takes {statistics.median(taken.start_s) * 1000:.0f} ms for one (the "
        f"article: {ARTICLE_START[taken.runtime]}), and its shim "
        f"{statistics.median(taken.shim_bytes) / 1e6:.1f} MB of memory (the article: "
        f"{ARTICLE_MEMORY[taken.runtime]})"
    )
