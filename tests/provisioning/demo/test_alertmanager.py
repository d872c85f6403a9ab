from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provisioning.demo import alertmanager, observers, prometheus, rundir, status
from provisioning.demo.observers import Observers
from provisioning.demo.processes import Children, ChildSpec
from provisioning.demo.rundir import RunDir
from provisioning.demo.status import Alert
from tests.ports import free_ports
from tests.provisioning.demo.standin import is_running
from tests.waiting import eventually

CONFIG = """\
route: {receiver: nobody}
receivers: [{name: nobody}]
templates: ["templates/*.tmpl"]
"""
TEMPLATE = '{{ define "ours" }}{{ len .Alerts.Firing }}{{ end }}'
RULES = """\
groups:
  - name: test
    rules:
      - {alert: TestFires, expr: vector(1), labels: {severity: critical}}
      - {alert: TestIsPending, expr: vector(1), for: 1h, labels: {severity: warning}}
      - {alert: TestHasNoSeverity, expr: vector(1)}
      - alert: TestFiresPerNode
        expr: count_values("node", vector(1)) or count_values("node", vector(2))
        labels: {severity: warning}
      - {alert: Watchdog, expr: vector(1), labels: {severity: none}}
"""


def _write_built(run_dir: RunDir) -> None:
    """Write what `ollama-fleet alerts build` writes, with rules that need no fleet."""
    for path, text in {
        run_dir.alertmanager_config: CONFIG,
        run_dir.alerts / "templates" / "ours.tmpl": TEMPLATE,
        run_dir.alerts / "rules" / "test.yml": RULES,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


async def test_a_real_alertmanager_is_ready_keeps_its_data_and_is_gone_afterwards(
    alertmanager_binary: Path, tmp_path: Path, free_port: int
) -> None:
    _write_built(RunDir(tmp_path))
    url, data_dir = f"http://127.0.0.1:{free_port}", tmp_path / "kept here"
    command = alertmanager.alertmanager_command(
        alertmanager_binary,
        config=RunDir(tmp_path).alertmanager_config,
        data_dir=data_dir,
        address=f"127.0.0.1:{free_port}",
    )

    async with Children(tmp_path) as children, aiohttp.ClientSession() as session:
        await children.start(ChildSpec("alertmanager", command, f"{url}/-/ready"))
        (pid,) = children.pids.values()
        async with session.get(f"{url}/api/v2/status") as answer:
            said = await answer.json()
        n_listening = len(_listening(pid))

    assert "disabled" == said["cluster"]["status"]
    assert 1 == n_listening
    assert data_dir.is_dir()
    assert not is_running(pid)


def _listening(pid: int) -> list[str]:
    """Return the local addresses on which a process takes connections or datagrams."""
    inodes = _socket_inodes(pid)
    lines = [
        line.split()
        for kind in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    ]
    listening, unconnected = "0A", "07"
    return [
        fields[1]
        for fields in lines
        if fields[9] in inodes and fields[3] in (listening, unconnected)
    ]


def _socket_inodes(pid: int) -> set[str]:
    """Return the inodes of a process's sockets, as /proc/net lists them."""
    names = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            names.append(path.readlink().name)
    return {
        name.removeprefix("socket:").strip("[]") for name in names if name.startswith("socket:")
    }


@pytest.fixture
def watch(tmp_path: Path, prometheus_binary: Path, alertmanager_binary: Path) -> Observers:
    """In a folder whose name would be a pattern, were it not for what is done against that."""
    folder = tmp_path / "my [demo]"
    folder.mkdir()
    exporter_port, prometheus_port, alertmanager_port = free_ports(3)
    return Observers(
        run_dir=RunDir(folder),
        inventories=(),
        exporter_port=exporter_port,
        prometheus_port=prometheus_port,
        alertmanager_port=alertmanager_port,
        prometheus_binary=prometheus_binary,
        alertmanager_binary=alertmanager_binary,
        interval_s=1,
    )


async def test_an_alert_of_the_rules_is_in_the_status_and_reaches_alertmanager(
    watch: Observers,
) -> None:
    _write_built(watch.run_dir)
    rundir.write(watch.run_dir.prometheus_config, prometheus.prometheus_config(watch.prometheus))

    async with Children(watch.run_dir.path) as children, aiohttp.ClientSession() as session:
        await children.start(
            observers.alertmanager_server(watch), observers.prometheus_server(watch)
        )
        await eventually(lambda: _n_alerts(session, watch, 5))
        seen = await status.ask(session, watch.prometheus_url)
        received = await _alerts(session, watch)
        await eventually(lambda: _is_scraped(session, watch))

    assert (
        Alert("TestFires", "critical", is_firing=True),
        Alert("TestFiresPerNode", "warning", is_firing=True, n=2),
        Alert("TestHasNoSeverity", "no severity", is_firing=True),
    ) == seen.firing
    assert (Alert("TestIsPending", "warning", is_firing=False),) == seen.pending
    assert {"TestFires", "TestFiresPerNode", "TestHasNoSeverity", "Watchdog"} == {
        alert["labels"]["alertname"] for alert in received
    }
    assert all(alert["generatorURL"].startswith(watch.prometheus_url) for alert in received)


async def _alerts(session: aiohttp.ClientSession, watch: Observers) -> list[dict[str, Any]]:
    async with session.get(f"{watch.alertmanager_url}/api/v2/alerts") as answer:
        listed: list[dict[str, Any]] = await answer.json()
    return listed


async def _n_alerts(session: aiohttp.ClientSession, watch: Observers, n: int) -> bool:
    return len(await _alerts(session, watch)) == n


async def _is_scraped(session: aiohttp.ClientSession, watch: Observers) -> bool:
    up = await status.query(session, watch.prometheus_url, 'up{job="alertmanager"}')
    return [1.0] == [value for _, value in up]
