"""The whole of `ollama-fleet up`, as a process of its own, with a small fleet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.waiting import eventually

START_S = 200.0
STOP_S = 60.0

pytestmark = pytest.mark.timeout(START_S + 60)


@contextlib.asynccontextmanager
async def _up(run_dir: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", "up", "--json", f"--run-dir={run_dir}"),
        *("--simulated=20", "--llama-servers=0", "--poll.interval=1s"),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def _ready(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return what `up` says once Prometheus sees healthy instances."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_S)
    assert line, (await process.stderr.read()).decode()
    said: dict[str, Any] = json.loads(line)
    return said


async def _until_all_healthy(said: dict[str, Any], n: int) -> None:
    """What was said is true of its moment: on a busy machine a poll may have timed out then."""
    assert (n, n) == (sum(said["instances"].values()), said["inventory"])
    assert 0 < said["healthy"] <= n
    await eventually(lambda: _n_healthy(said, n), within_s=START_S)


async def _n_healthy(said: dict[str, Any], n: int) -> bool:
    """Return whether the exporter sees so many healthy instances."""
    return n == len(await _ids_seen(said, "healthy"))


async def _ids_seen(said: dict[str, Any], status: str) -> set[str]:
    url = f"{said['exporter_url']}/instances?status={status}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return {one["id"] for one in await answer.json()}


async def test_a_program_that_does_not_start_ends_up_with_its_log_and_stops_the_others(
    alertmanager_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "prometheus").write_text("#!/bin/sh\necho the disk is full >&2\nexit 3\n")
    (programs / "prometheus").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)

    async with _up(tmp_path / "run") as process:
        _, stderr = await asyncio.wait_for(process.communicate(), START_S)

    assert 1 == process.returncode
    assert "prometheus ended by itself (exit status 3)" in stderr.decode()
    assert f"{tmp_path}/run/prometheus.log" in stderr.decode()
    assert "the disk is full" in stderr.decode()
    assert not _pids_naming(str(tmp_path))


@pytest.mark.nightly
async def test_up_prints_json_and_ignores_options_of_the_shell_for_other_commands(
    prometheus_binary: Path,
    alertmanager_binary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OLLAMA_FLEET_SHARD", "0/2")
    monkeypatch.setenv("OLLAMA_FLEET_PROVISIONER_FLEET", "another")

    async with _up(tmp_path) as process:
        said = await _ready(process)
        await _until_all_healthy(said, 20)
        process.send_signal(signal.SIGINT)
        assert 0 == await asyncio.wait_for(process.wait(), STOP_S)


async def test_a_signal_during_the_start_leaves_nothing(
    prometheus_binary: Path, alertmanager_binary: Path, tmp_path: Path
) -> None:
    async with _up(tmp_path) as process:
        await eventually((tmp_path / "simulated-fleet.log").exists, within_s=START_S)

        process.send_signal(signal.SIGHUP)  # which says nothing, unless the terminal is gone
        process.send_signal(signal.SIGTERM)
        _, stderr = await asyncio.wait_for(process.communicate(), STOP_S)

    assert 0 == process.returncode
    assert "signal=SIGHUP ignored" in stderr.decode()
    assert stderr.decode().endswith("stopped\n")
    assert not _pids_naming(str(tmp_path))


def _pids_naming(text: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text in path.read_text():
                found.append(int(path.parent.name))
    return found


async def test_a_provisioner_that_dies_ends_up_and_its_instances(
    prometheus_binary: Path, alertmanager_binary: Path, tmp_path: Path
) -> None:
    """They would outlive it, were it not for `up`."""
    spec = tmp_path / "lab.yml"
    spec.write_text(
        json.dumps(
            {
                "name": "lab",
                "nodes": [{"name": "n1", "runtime": "process", "cpus": 4, "memory": "4GiB"}],
                "pools": [
                    {
                        "name": "asleep",
                        "model": "none",
                        "engine": "fleet",
                        "count": 1,
                        "memory": "1GiB",
                        "command": ["sh", "-c", f"sleep 600; : container in {tmp_path}"],
                    }
                ],
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", "up"),
        *(f"--spec={spec}", f"--run-dir={tmp_path}/run"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: _pids_naming(f"container in {tmp_path}"), within_s=START_S)
        (pid,) = _pids_naming(f"--state-dir={tmp_path}/run/provisioner")

        os.kill(pid, signal.SIGKILL)
        _, stderr = await asyncio.wait_for(process.communicate(), STOP_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    assert 1 == process.returncode
    assert "provisioner ended by itself (killed by SIGKILL)" in stderr.decode()
    assert not _pids_naming(str(tmp_path))
