"""Write to a SQLite store in processes that are killed at a statement, or at any moment.

    python -m tests.provisioning.store.sqlite_writer statements FOLDER
    python -m tests.provisioning.store.sqlite_writer moments FOLDER N_ROUNDS

`statements` kills the first process before its first statement, the second before its second, …
until one comes to the end of its work; each has a file of its own, `FOLDER/<n>.db`.
`moments` kills N_ROUNDS processes, one after the other, that work on the same `FOLDER/fleet.db`.
A line in the file's `.acks` says how many commits were acknowledged so far.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ollama_fleet.clock import Clock, SystemClock
from provisioning.store.base import NEW, Change, Delete, Put, StoredInstance
from provisioning.store.factory import open_store
from tests.provisioning.store.examples import instance
from tests.provisioning.store.patience import SleepyClock

N_COMMITS = 4
MOVED = 10_000
"""Added to the port of an instance at the commit after the one that made it."""
LONGEST_S = 0.05


def changes(n: int, stored: Mapping[str, StoredInstance]) -> list[Change]:
    """Return the n-th commit, from 1 on: make an instance, move the last one, delete one before."""
    made: list[Change] = [Put(instance(name(n), port=n), NEW)]
    if last := stored.get(name(n - 1)):
        moved = instance(name(n - 1), port=MOVED + n - 1)
        made.append(Put(moved, last.version))
    if gone := stored.get(name(n - 2)):
        made.append(Delete(name(n - 2), gone.version))
    return made


def ports(n: int) -> dict[str, int]:
    """Return the ports by id after n commits."""
    held = {name(n - 1): MOVED + n - 1} if n > 1 else {}
    return {**held, name(n): n} if n else held


def name(n: int) -> str:
    return f"chat-{n}"


async def write(path: Path, n_commits: int | None, *, clock: Clock) -> None:
    """Go on where the last process was killed, for n commits or without end."""
    store, leadership = open_store(f"sqlite:{path}", "test", clock=clock, holder="alice")
    acks = os.open(path.with_suffix(".acks"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with leadership.lead() as current:
        stored = (await store.load()).stored
        first = 1 + max((int(one.removeprefix("chat-")) for one in stored), default=0)
        for n in itertools.islice(itertools.count(first), n_commits):
            done = await store.commit(changes(n, stored), term=current.term)
            assert all(one.refusal is None for one in done)
            os.write(acks, f"{n}\n".encode())
            stored = (await store.load()).stored
    await store.close()
    os.close(acks)


def kill_at(statement: int) -> None:
    """Kill this process before its n-th statement, on whichever connection."""
    counter = itertools.count(1)
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def count(_: str) -> None:
        if next(counter) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]


def forked(child: Callable[[], None]) -> int:
    """Run a function in a process of its own, and return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        finally:
            # Whatever went wrong must not go on as a second parent.
            traceback.print_exc()
            os._exit(1)
    return pid


def is_killed(pid: int) -> bool:
    """Wait for the end of a process that may fail in no other way than by being killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def kill_at_statements(folder: Path) -> None:
    for statement in itertools.count(1):
        path = folder / f"{statement}.db"

        def child(path: Path = path, statement: int = statement) -> None:
            kill_at(statement)
            # What is looked at now and then would be a statement more where the disk is slow.
            asyncio.run(write(path, N_COMMITS, clock=SleepyClock()))

        if not is_killed(forked(child)):
            return


def kill_at_moments(folder: Path, n_rounds: int) -> None:
    chance = random.Random(1)  # noqa: S311
    path = folder / "fleet.db"
    acks = path.with_suffix(".acks")
    acks.touch()
    for _ in range(n_rounds):
        n_bytes = acks.stat().st_size
        pid = forked(lambda: asyncio.run(write(path, None, clock=SystemClock())))
        while acks.stat().st_size == n_bytes:
            time.sleep(0.001)
        time.sleep(LONGEST_S * chance.random())
        os.kill(pid, signal.SIGKILL)
        assert is_killed(pid)


if __name__ == "__main__":
    match sys.argv[1:]:
        case "statements", to:
            kill_at_statements(Path(to))
        case "moments", to, n:
            kill_at_moments(Path(to), int(n))
