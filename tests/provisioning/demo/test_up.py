"""The whole of `ollama-fleet up`, as a process of its own, with a small fleet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provisioning.demo import rundir
from tests.provisioning.demo.standin import is_running
from tests.waiting import eventually

START_S = 200.0
STOP_S = 60.0

pytestmark = pytest.mark.timeout(START_S + 60)


@contextlib.asynccontextmanager
async def _up(run_dir: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", "up", "--json", f"--run-dir={run_dir}"),
        *("--simulated=20", "--llama-servers=0", "--poll-interval=1"),
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


async def _are_seen(said: dict[str, Any], status: str, ids: list[str]) -> bool:
    """Return whether the exporter sees all of these instances in that status."""
    return {*ids} <= await _ids_seen(said, status)


async def _ids_seen(said: dict[str, Any], status: str) -> set[str]:
    url = f"{said['exporter_url']}/instances?status={status}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return {one["id"] for one in await answer.json()}


async def test_up_says_what_prometheus_sees_heals_what_is_killed_and_leaves_nothing_after_ctrl_c(
    prometheus_binary: Path, alertmanager_binary: Path, tmp_path: Path
) -> None:
    async with _up(tmp_path) as process:
        said = await _ready(process)
        await _until_all_healthy(said, 20)
        await _inject(said, {"kind": "kill", "count": 5})
        await eventually(lambda: _are_healed(said, n_replaced=5, n=20), within_s=START_S)
        hanging = await _inject(said, {"kind": "hang", "count": 2})
        await eventually(lambda: _are_seen(said, "unhealthy", hanging), within_s=START_S)
        await eventually(
            lambda: _has_received(said["alertmanager_url"], "Watchdog"), within_s=START_S
        )

        process.send_signal(signal.SIGINT)

        assert 0 == await asyncio.wait_for(process.wait(), STOP_S)
    assert said["tokens_per_second"] > 0
    assert ["simulated-fleet", "provisioner", "exporter", "alertmanager", "prometheus"] == list(
        said["pids"]
    )
    assert [] == said["alerts_firing"]
    assert not any(map(is_running, said["pids"].values()))


async def _are_healed(said: dict[str, Any], *, n_replaced: int, n: int) -> bool:
    """Return whether so many instances are of a later generation, and all of them run."""
    listed = await _listed(said)
    n_later = sum(one["generation"] > 1 for one in listed)
    n_running = sum(one["state"] == "running" for one in listed)
    return (n_replaced, n) == (n_later, n_running)


async def _listed(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the provisioner knows of the instances."""
    url = f"{said['provisioner_url']}/instances?details=1"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        listed: list[dict[str, Any]] = await answer.json()
    return listed


async def _inject(said: dict[str, Any], fault: dict[str, object]) -> list[str]:
    """Inject a fault; return the ids of the instances that it befalls."""
    token = Path(said["control_token_file"]).read_text().strip()
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.post(
            f"{said['control_url']}/faults",
            json=fault,
            headers={"Authorization": f"Bearer {token}"},
        ) as answer,
    ):
        ids: list[str] = (await answer.json())["instance_ids"]
    return ids


async def _has_received(alertmanager_url: str, name: str) -> bool:
    """Return whether an alert of our rules has come from Prometheus to Alertmanager."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{alertmanager_url}/api/v2/alerts") as answer,
    ):
        return name in [alert["labels"]["alertname"] for alert in await answer.json()]


def _leave_a_run(folder: Path) -> None:
    """Make a folder one that a run has left."""
    with rundir.claimed(folder):
        pass


async def test_a_folder_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "alerts").mkdir()

    _, stderr = await _refused(tmp_path, status=1)

    assert f"Error: cannot use the run folder {tmp_path}: it holds alerts, and no run" in stderr
    assert ["alerts"] == [path.name for path in tmp_path.iterdir()]


async def test_rules_that_cannot_be_built_end_up_before_anything_starts(
    prometheus_binary: Path, alertmanager_binary: Path, tmp_path: Path
) -> None:
    _leave_a_run(tmp_path)
    (tmp_path / "alerts").touch()  # where the folder should be

    async with _up(tmp_path) as process:
        _, stderr = await asyncio.wait_for(process.communicate(), START_S)

    assert 1 == process.returncode
    assert "the alert rules could not be built with `" in stderr.decode()
    assert f"alerts build --output-dir={tmp_path}/alerts" in stderr.decode()
    assert "it said:\n" in stderr.decode()
    assert not (tmp_path / "simulated-fleet.log").exists()
    assert not _pids_naming(str(tmp_path))


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


async def test_options_of_the_shell_for_other_commands_do_not_reach_the_demo(
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


async def test_a_run_folder_that_cannot_be_written_is_told_in_a_sentence(
    prometheus_binary: Path, alertmanager_binary: Path, tmp_path: Path
) -> None:
    _leave_a_run(tmp_path)
    (tmp_path / "prometheus.yml").mkdir()

    async with _up(tmp_path) as process:
        _, stderr = await asyncio.wait_for(process.communicate(), START_S)

    assert 1 == process.returncode
    assert "Traceback" not in stderr.decode()
    assert f"cannot use the run folder {tmp_path}" in stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_during_the_start_leaves_nothing(
    prometheus_binary: Path, alertmanager_binary: Path, tmp_path: Path, number: signal.Signals
) -> None:
    async with _up(tmp_path) as process:
        await eventually((tmp_path / "simulated-fleet.log").exists, within_s=START_S)

        process.send_signal(signal.SIGHUP)  # which says nothing, unless the terminal is gone
        process.send_signal(number)
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


@pytest.mark.parametrize("program", ["Prometheus", "Alertmanager", "the provisioner"])
async def test_a_port_that_was_asked_for_and_is_taken_is_refused_before_anything_starts(
    prometheus_binary: Path, alertmanager_binary: Path, tmp_path: Path, program: str
) -> None:
    option = f"--{program.lower().removeprefix('the ')}-port"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with _up(tmp_path, f"{option}={port}") as process:
            _, stderr = await asyncio.wait_for(process.communicate(), START_S)

    assert 1 == process.returncode
    assert f"{program} cannot listen on port {port}" in stderr.decode()
    assert f"choose another with {option}" in stderr.decode()
    assert not (tmp_path / "simulated-fleet.log").exists()


@pytest.mark.parametrize(
    "option",
    ["--simulated=0", "--poll-interval=0", "--poll-interval=61", "--provisioner-port=0"],
)
async def test_a_senseless_option_is_refused(tmp_path: Path, option: str) -> None:
    async with _up(tmp_path, option) as process:
        _, stderr = await asyncio.wait_for(process.communicate(), START_S)

    assert 2 == process.returncode
    assert option.partition("=")[0] in stderr.decode()


SIMULATED_IN_MEMORY = """\
name: lab
nodes: [{name: n1, runtime: simulated, cpus: 4, memory: 64GiB}]
pools: [{name: llama, model: "llama3.1:8b", engine: fleet, count: 2}]
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SIMULATED_IN_MEMORY, "node n1: instances would be simulated in the provisioner's memory"),
        ("name: lab\n", "2 problems in "),
    ],
)
async def test_a_specification_that_cannot_be_run_is_refused_before_anything_starts(
    tmp_path: Path, text: str, told: str
) -> None:
    spec = tmp_path / "lab.yml"
    spec.write_text(text)

    _, stderr = await _refused(tmp_path / "run", f"--spec={spec}", status=1)

    assert told in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "run/provisioner.log").exists()


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


async def test_a_size_of_the_demo_beside_a_specification_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "lab.yml"
    spec.write_text(SIMULATED_IN_MEMORY)

    _, stderr = await _refused(tmp_path, f"--spec={spec}", "--simulated=5", status=2)

    assert "--simulated means nothing with --spec" in stderr


async def _refused(run_dir: Path, *options: str, status: int) -> tuple[str, str]:
    """Run `up` with these options alone, which it refuses; return what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", "up", f"--run-dir={run_dir}", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), START_S)
    assert status == process.returncode, stderr.decode()
    return stdout.decode(), stderr.decode()
