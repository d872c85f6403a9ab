"""A process that is killed while it writes leaves a whole file, with all that it acknowledged."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import FencedError
from provisioning.store.base import NEW, Put, Term, decode, place_of
from provisioning.store.factory import open_store
from tests.provisioning.store.examples import (
    PATIENCE_S,
    applied,
    content,
    instance,
    put,
    watched,
)
from tests.provisioning.store.leaders import leader
from tests.provisioning.store.sqlite_writer import N_COMMITS, ports
from tests.waiting import eventually

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "backup.md"
ADVICE = re.compile(r"^## A SQLite store\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
MODULE = "tests.provisioning.store.sqlite_writer"
LONG_LEASE_S = 3600


def run_writer(*arguments: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", MODULE, *arguments], check=True, timeout=500)


async def check(path: Path) -> int:
    """See that a file is whole, and return how many commits it holds."""
    acks = path.with_suffix(".acks")
    acknowledged = [int(line) for line in acks.read_text().split()] if acks.exists() else []
    store, leadership = open_store(f"sqlite:{path}", "test", clock=SystemClock(), holder="bob")
    async with leadership.lead() as current:
        view = await store.load()
        held = {one: stored.instance.port for one, stored in view.stored.items()}
        n = min(held.values(), default=0)
        (after,) = await put(store, current.term, instance("after", node="n2"))
        assert after.version == view.revision + 1
    await store.close()

    assert ports(n) == held
    assert n - max(acknowledged, default=0) in (0, 1)
    check_tables(path)
    return n


def check_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
        rows = connection.execute("SELECT id, node, port, body FROM instance").fetchall()
    for name, node, port, body in rows:
        assert (name, (node, port)) == (name, place_of(decode(body, source=name)))


@pytest.mark.timeout(600)  # hundreds of writes, each of which the disk has to acknowledge
async def test_a_process_may_be_killed_at_every_statement(tmp_path: Path) -> None:
    run_writer("statements", str(tmp_path))

    paths = sorted(tmp_path.glob("*.db"), key=lambda path: int(path.stem))
    found = [await check(path) for path in paths]

    assert N_COMMITS == found[-1]
    assert set(range(N_COMMITS + 1)) == set(found)
    assert sorted(found) == found
    assert len(found) > 60


@pytest.mark.timeout(600)
async def test_a_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    """Forty times, on the same file."""
    run_writer("moments", str(tmp_path), "40")

    assert await check(tmp_path / "fleet.db") >= 40


async def test_another_process_leads_at_once_when_the_leader_is_killed(tmp_path: Path) -> None:
    """Not after a lease, which would be too long for the test."""
    url = f"sqlite:{tmp_path / 'fleet.db'}"
    store, leadership = open_store(
        url, "test", clock=SystemClock(), holder="bob", lease_s=LONG_LEASE_S
    )
    start = await store.load()
    async with (
        leader(url, "test", "alice", lease_s=LONG_LEASE_S) as alice,
        AsyncExitStack() as stack,
    ):
        await alice.says("leads")
        assert "alice" == await leadership.leader()
        waiting = asyncio.ensure_future(stack.enter_async_context(leadership.lead()))
        wrote = [await alice.says("wrote") for _ in range(10)]
        assert not waiting.done()

        alice.process.kill()
        await alice.process.wait()

        current = await asyncio.wait_for(waiting, PATIENCE_S)
        last = await store.load()
        assert len(wrote) <= len(last.stored)
        updates = await watched(
            store, start.revision, lambda seen: bool(seen) and seen[-1].revision == last.revision
        )
        assert content(last) == content(applied(start, updates))
        with_old_term = Term(current.term.epoch - 1, "alice")
        with pytest.raises(FencedError):
            await store.commit([Put(instance("late", port=9_999), NEW)], term=with_old_term)
    await store.close()


async def test_a_watch_tells_what_another_process_writes(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'fleet.db'}"
    store, _ = open_store(url, "test", clock=SystemClock(), holder="bob")
    start = await store.load()
    async with leader(url, "test", "alice") as alice:
        await alice.says("wrote")

        updates = await watched(store, start.revision, lambda seen: len(seen) >= 3)

        assert all(one.stored for one in updates)
    await store.close()


async def test_nobody_leads_after_the_leader_was_killed(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'fleet.db'}"
    store, leadership = open_store(url, "test", clock=SystemClock(), holder="bob")
    async with leader(url, "test", "alice") as alice:
        await alice.says("leads")
        alice.process.kill()
        await alice.process.wait()

        assert await leadership.leader() is None
    await store.close()


async def test_a_backup_is_made_and_restored_as_documented(tmp_path: Path) -> None:
    """Made while a provisioner writes; restored after one was killed, which leaves its WAL."""
    path, copy = tmp_path / "fleet.db", tmp_path / "copy.db"
    (advice,) = ADVICE.findall(PAGE.read_text())
    (command,) = re.findall(r"python3 -c '(.*)'", advice)
    command = command.replace("fleet.db", str(path)).replace("fleet.copy", str(copy))
    async with leader(f"sqlite:{path}", "test", "alice") as alice:
        before = [(await alice.says("wrote")).split()[1] for _ in range(10)]
        await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", command], check=True, timeout=100
        )
        n_then = len(alice.said)
        await eventually(lambda: len(alice.said) > n_then + 10)

    for kind in ("-wal", "-shm"):
        assert f"`fleet.db{kind}`" in advice
        path.with_name(path.name + kind).unlink()
    copy.replace(path)

    store, _ = open_store(f"sqlite:{path}", "test", clock=SystemClock(), holder="bob")
    held = (await store.load()).stored
    assert set(before) <= set(held)
    assert len(held) < len(alice.said)
    await store.close()


async def test_programs_that_a_leader_has_started_do_not_keep_its_lock(tmp_path: Path) -> None:
    """Instances outlive the provisioner that made them."""
    url = f"sqlite:{tmp_path / 'fleet.db'}"
    store, leadership = open_store(url, "test", clock=SystemClock(), holder="alice")
    async with leadership.lead():
        instance_process = await asyncio.create_subprocess_exec("sleep", "600", close_fds=False)
    try:
        async with asyncio.timeout(PATIENCE_S), leadership.lead() as current:
            assert "alice" == current.term.holder
    finally:
        instance_process.kill()
        await instance_process.wait()
        await store.close()
