"""The command as a process: what it prints, how it stops, what it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.provisioning.simulator.hosting import free_range, order

PROGRAM = (sys.executable, "-c", "from ollama_fleet.cli import main; main()", "simulate")
STOP_S = 100.0


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "OLLAMA_FLEET_SIMULATE_LISTEN_PORT": "0",
        "OLLAMA_FLEET_SIMULATE_CONTROL_LISTEN_ADDRESS": "127.0.0.1:0",
        "OLLAMA_FLEET_SIMULATE_CONTROL_TOKEN_FILE": str(tmp_path / "token"),
    }


@contextmanager
def _started(
    environment: dict[str, str], *options: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [*PROGRAM, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def _run(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.loads(response.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_a_signal_and_stops_within_a_second(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    inventory_path = tmp_path / "fleet.json"
    with _started(
        environment, "--instances", "12", "--nodes", "3", "--inventory", str(inventory_path)
    ) as (process, where):
        inventory = json.loads(inventory_path.read_bytes())
        assert 12 == where["instances"] == len(inventory)
        assert {"status": "ok"} == _get(f"{inventory[11]['url']}/health")
        assert inventory == _get(f"{where['control_url']}/instances")
        with socket.create_connection(("127.1.0.1", where["listen_port"])):
            process.send_signal(number)
            rest, words = process.communicate(timeout=STOP_S)

    assert 0 == process.returncode
    assert "" == rest
    assert "simulating 12 instances on 3 nodes" in words
    assert str(tmp_path / "token") in words
    assert (tmp_path / "token").read_text().strip() not in words


def test_options_come_from_the_environment_too(environment: dict[str, str]) -> None:
    environment |= {
        "OLLAMA_FLEET_SIMULATE_INSTANCES": "7",
        "OLLAMA_FLEET_SIMULATE_MODE": "ollama",
        "OLLAMA_FLEET_SIMULATE_FAULT": "kill:count=1 shrink:count=2",
        "OLLAMA_FLEET_SIMULATE_KEEP_ALIVE": "-1",
    }
    with _started(environment) as (_process, where):
        inventory = _get(f"{where['control_url']}/instances")
        faults = _get(f"{where['control_url']}/faults")
        (model,) = _get(f"{inventory[0]['url']}/api/ps")["models"]

    assert 7 == where["instances"]
    assert 5 == len(inventory)
    assert "ollama" == inventory[0]["engine"]
    assert model["expires_at"] > "2300", "for ever, as Ollama says it"
    assert ["kill", "shrink"] == [fault["kind"] for fault in faults]


def test_containers_are_hosted_until_a_signal(environment: dict[str, str], tmp_path: Path) -> None:
    ports = free_range(5)
    del environment["OLLAMA_FLEET_SIMULATE_LISTEN_PORT"]
    with _started(environment, "--host-containers", f"{ports[0]}-{ports[-1]}", "--load-time=0") as (
        process,
        where,
    ):
        assert (0, ports[0]) == (where["instances"], where["listen_port"])
        asked = msgspec.json.encode(order(ports[-1]))
        container_url = f"{where['control_url']}/nodes/n1/containers/u"
        put = urllib.request.Request(container_url, data=asked, method="PUT")
        put.add_header("Authorization", f"Bearer {(tmp_path / 'token').read_text().strip()}")
        with urllib.request.urlopen(put, timeout=60) as response:
            assert 204 == response.status
        assert {"status": "ok"} == _get(f"http://127.1.0.1:{ports[-1]}/health")
        with urllib.request.urlopen(f"{where['control_url']}/nodes/n1/changes?fleet=f", timeout=60):
            process.send_signal(signal.SIGTERM)
            _, words = process.communicate(timeout=STOP_S)

    assert 0 == process.returncode
    assert f"hosting containers on 127.1.0.1 and up, ports {ports[0]} to {ports[-1]}" in words


@pytest.mark.parametrize(
    "given",
    ["--instances=3", "--nodes=2", "--listen-port=0", "--inventory=x", "--fault=kill:count=1"],
)
def test_options_for_a_fleet_that_is_there_are_refused_beside_hosting(
    environment: dict[str, str], given: str
) -> None:
    del environment["OLLAMA_FLEET_SIMULATE_LISTEN_PORT"]

    ended = _run(environment, "--host-containers=20000-20001", given)

    assert 2 == ended.returncode
    assert (
        f"{given.partition('=')[0]} (commandline) means nothing with --host-containers"
        in ended.stderr
    )


def test_a_taken_port_among_those_for_containers_is_named(environment: dict[str, str]) -> None:
    del environment["OLLAMA_FLEET_SIMULATE_LISTEN_PORT"]
    ports = free_range(3)
    with socket.create_server(("0.0.0.0", ports[1])):  # noqa: S104
        ended = _run(environment, "--host-containers", f"{ports[0]}-{ports[-1]}")

    assert 1 == ended.returncode
    assert f"cannot listen on port {ports[1]}" in ended.stderr
    assert "other ones with --host-containers" in ended.stderr


def test_a_taken_port_is_named_with_the_option_that_helps(environment: dict[str, str]) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104
        port = taken.getsockname()[1]
        instances = _run(environment, "--listen-port", str(port))
        control = _run(environment, "--control.listen-address", f"127.0.0.1:{port}")

    for ended, option in ((instances, "--listen-port"), (control, "--control.listen-address")):
        assert 1 == ended.returncode
        assert "" == ended.stdout
        assert f"{port}" in ended.stderr
        assert option in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "Address already in use; choose another with" in ended.stderr


def test_a_host_that_does_not_exist_is_told(environment: dict[str, str]) -> None:
    ended = _run(environment, "--control.listen-address", "nowhere.invalid:0")

    assert 1 == ended.returncode
    assert "cannot listen on nowhere.invalid:0" in ended.stderr
    assert "Unknown error" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fault", "kil:count=1"], "did you mean kill?"),
        (["--fault", "kill:node=nod-001"], "did you mean node-001?"),
        (["--hardware", "abacus=1"], "epyc-9654"),
        (["--instances", "0"], "1 to"),
        (["--control.listen-address", "nowhere"], "HOST:PORT"),
        (["--control.listen-address", ":11451"], "names no host: write 127.0.0.1:11451"),
        (["--listen-port", "99999"], "65535"),
        (["--instanses", "3"], "--instances"),
        (["--ollama-share", "2"], "0<=x<=1"),
        (["--keep-alive", "soon"], "write seconds, 5m, or -1"),
        (["--host-containers", "20000"], "no range of ports such as 20000-20099"),
        (["--host-containers", "20001-20000"], "the first one first"),
        (["--host-containers", "0-5"], "from 1 to 65535"),
        (["--host-containers", "65535-65536"], "from 1 to 65535"),
    ],
)
def test_wrong_options_are_refused(
    environment: dict[str, str], options: list[str], said: str
) -> None:
    ended = _run(environment, *options)

    assert 2 == ended.returncode
    assert "" == ended.stdout
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_fleet_beyond_the_limit_of_open_files_says_so(environment: dict[str, str]) -> None:
    limited = (
        "bash",
        "-c",
        'ulimit -Sn 100; ulimit -Hn 200; exec "$@"',
        "bash",
        *PROGRAM,
        "--instances",
        "1000",
    )
    with subprocess.Popen(
        limited, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        process.terminate()
        _, words = process.communicate(timeout=STOP_S)

    assert (200, 200) == limits
    assert "the fleet does not fit" in words
    assert "136 connections" in words
    assert "ulimit -Hn" in words


def test_help_names_every_kind_of_fault(environment: dict[str, str]) -> None:
    from provisioning.simulator.faults import Kind

    ended = _run(environment, "--help")

    assert 0 == ended.returncode
    assert [] == [kind for kind in Kind if f"  {kind} " not in ended.stdout]
