from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from provisioning.demo import processes
from provisioning.demo.errors import ChildError
from provisioning.demo.processes import Children, ChildSpec
from tests.ports import free_ports
from tests.provisioning.demo.standin import Mode, child, is_running
from tests.waiting import eventually


async def _get(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def test_children_are_ready_when_start_returns_and_gone_after_the_block(
    tmp_path: Path,
) -> None:
    specs = [child(f"one-{port}", port) for port in free_ports(2)]

    async with Children(tmp_path) as children:
        await children.start(*specs)
        pids = children.pids
        answers = [await _get(spec.ready_url) for spec in specs]

    assert ["", ""] == answers
    assert [spec.name for spec in specs] == list(pids)
    assert [False, False] == [is_running(pid) for pid in pids.values()]


async def test_children_are_stopped_in_reverse_order(tmp_path: Path) -> None:
    """The first one to start ignores SIGTERM: the last one has ended long before it is killed."""
    first, last = free_ports(2)

    async with Children(tmp_path, grace_s=60) as children:
        await children.start(child("first", first, Mode.STUBBORN), child("last", last))
        pids = children.pids
        stopping = asyncio.create_task(children.__aexit__(None, None, None))
        await eventually(lambda: not is_running(pids["last"]))
        assert is_running(pids["first"])
        stopping.cancel()  # as a second Ctrl-C does: no waiting for the grace any more
        with pytest.raises(asyncio.CancelledError):
            await stopping

    assert not is_running(pids["first"])


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(
    tmp_path: Path, free_port: int
) -> None:
    async with Children(tmp_path, grace_s=0.2) as children:
        await children.start(child("stubborn", free_port, Mode.STUBBORN))
        (pid,) = children.pids.values()
        before_s = time.monotonic()

    assert not is_running(pid)
    assert 0.2 <= time.monotonic() - before_s


async def test_what_a_child_started_ends_with_it(tmp_path: Path, free_port: int) -> None:
    spec = child("parent", free_port, Mode.PARENT)

    async with Children(tmp_path) as children:
        await children.start(spec)
        grandchild = int(await _get(spec.ready_url))
        assert is_running(grandchild)

    await eventually(lambda: not is_running(grandchild))


async def test_a_child_that_fails_to_start_is_reported_with_its_log(tmp_path: Path) -> None:
    good, bad = free_ports(2)

    async with Children(tmp_path) as children:
        await children.start(child("good", good))
        with pytest.raises(ChildError) as caught:
            await children.start(child("bad", bad, Mode.FAILS))

    assert str(caught.value) == (
        f"bad ended by itself (exit status 3); the end of {tmp_path}/bad.log:\n"
        "  the configuration is wrong: line 7"
    )


async def test_a_child_that_is_never_ready_is_reported_with_the_url_that_was_asked(
    tmp_path: Path, free_port: int
) -> None:
    async with Children(tmp_path) as children:
        with pytest.raises(ChildError, match=r"slow was not ready within 0\.5 s \(http://127"):
            await children.start(child("slow", free_port, Mode.UNREADY, ready_within_s=0.5))


async def test_a_death_while_another_child_starts_ends_the_start(tmp_path: Path) -> None:
    good, slow = free_ports(2)

    async with Children(tmp_path) as children:
        await children.start(child("good", good))
        starting = asyncio.create_task(
            children.start(child("slow", slow, Mode.UNREADY, ready_within_s=60))
        )
        await eventually(lambda: "slow" in children.pids)
        os.kill(children.pids["good"], signal.SIGKILL)
        with pytest.raises(ChildError, match=r"good ended by itself \(killed by SIGKILL\)"):
            await starting


async def test_a_death_ends_the_guarded_work(tmp_path: Path, free_port: int) -> None:
    work = asyncio.Event()

    async with Children(tmp_path) as children:
        await children.start(child("one", free_port))
        os.kill(children.pids["one"], signal.SIGKILL)
        with pytest.raises(ChildError, match="SIGKILL"):
            await children.guard(work.wait())


@pytest.mark.parametrize("path", [os.environ["PATH"], ""], ids=["setpriv", "no setpriv"])
async def test_a_command_that_cannot_be_run_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("PATH", path)
    missing = ChildSpec("etcd", (str(tmp_path / "etcd"),), "http://127.0.0.1:1/")

    async with Children(tmp_path) as children:
        with pytest.raises(ChildError, match=r"(?s)etcd .*No such file or directory"):
            await children.start(missing)


async def _start_runner(
    run_dir: Path, mode: Mode, ports: list[int]
) -> tuple[asyncio.subprocess.Process, list[int]]:
    """Start a process that runs stand-ins; return it and their process ids."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.provisioning.demo.runner", str(run_dir), mode.value),
        *map(str, ports),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    pids = json.loads(await process.stdout.readline())
    return process, list(pids.values())


@pytest.mark.parametrize("mode", [Mode.OK, Mode.UNREADY])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_at_any_time_leaves_nothing_behind(
    tmp_path: Path, mode: Mode, number: signal.Signals
) -> None:
    """UNREADY: the signal comes in the middle of the start."""
    process, pids = await _start_runner(tmp_path, mode, free_ports(2))

    process.send_signal(number)

    assert 0 == await asyncio.wait_for(process.wait(), 60)
    assert [False, False] == [is_running(pid) for pid in pids]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, of util-linux")
async def test_killing_the_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    process, pids = await _start_runner(tmp_path, Mode.STUBBORN, free_ports(2))
    await eventually(lambda: all(map(_is_past_setpriv, pids)))

    process.kill()
    await process.wait()

    await eventually(lambda: not any(map(is_running, pids)))


def _is_past_setpriv(pid: int) -> bool:
    return b"setpriv" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_shell_s_options_for_our_commands_do_not_reach_the_children() -> None:
    kept = {"PATH": "/usr/bin", "OLLAMA_FLEET_PROGRAMS_DIR": "/programs", "OLLAMA_HOST": "gpu-1"}
    options = {"OLLAMA_FLEET_SHARD": "0/2", "OLLAMA_FLEET_SIMULATE_FAULT": "kill:count=1"}

    assert kept == processes.our_environ(kept | options)


def test_our_commands_are_run_by_this_python_and_never_by_what_lies_in_the_folder() -> None:
    assert (sys.executable, "-P", "-m", "ollama_fleet", "up") == processes.our_command("up")
