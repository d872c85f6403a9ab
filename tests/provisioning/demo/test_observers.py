from __future__ import annotations

import asyncio
import glob
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest
import yaml

from ollama_fleet.prometheus import PrometheusClient, PrometheusError
from provisioning.demo import observers, report
from provisioning.demo.cli import LONGEST_INTERVAL_S
from provisioning.demo.errors import DemoError
from provisioning.demo.observers import Observers
from provisioning.demo.plan import Plan
from provisioning.demo.processes import Children
from provisioning.demo.report import Alert
from provisioning.demo.rundir import RunDir
from tests.ports import free_ports
from tests.provisioning.demo.standin import Page, is_running
from tests.waiting import eventually


def test_the_exporter_reads_the_provisioners_inventory_and_listens_on_loopback(plan: Plan) -> None:
    command = observers.exporter(plan.observers).command

    assert "--inventory=http://127.0.0.1:8080/instances" in command
    assert "--inventory.refresh-interval=5s" in command
    assert "--web.listen-address=127.0.0.1:11440" in command
    assert "--poll.interval=5s" in command


def test_canaries_are_sent_where_asked_and_end_before_the_next_is_due(plan: Plan) -> None:
    commands = [
        [*observers.exporter(replace(plan.observers, has_canary=has_canary)).command]
        for has_canary in (False, True)
    ]

    without, with_canary = (
        [option for option in command if option.startswith("--canary.")] for command in commands
    )
    assert [] == without
    assert ["--canary.period=30s", "--canary.timeout=10s"] == with_canary


def test_a_poll_ends_before_the_next_one_is_due(plan: Plan) -> None:
    short = observers.exporter(replace(plan.observers, interval_s=1)).command
    long = observers.exporter(replace(plan.observers, interval_s=60)).command

    assert {"--poll.health-timeout=800ms", "--poll.metrics-timeout=800ms"} <= set(short)
    assert {"--poll.health-timeout=2000ms", "--poll.metrics-timeout=5000ms"} <= set(long)


def test_prometheus_is_stopped_before_what_it_sends_alerts_to(plan: Plan) -> None:
    """Children are stopped in reverse order."""
    names = [spec.name for spec in observers.all_of(plan.observers)]

    assert ["exporter", "alertmanager", "prometheus"] == names


@pytest.mark.parametrize("interval_s", [1, 5, LONGEST_INTERVAL_S])
def test_rules_are_built_for_every_interval_that_up_allows(
    plan: Plan, tmp_path: Path, interval_s: int
) -> None:
    watch = replace(plan.observers, run_dir=RunDir(tmp_path), interval_s=interval_s)

    observers.build_rules(watch.run_dir, interval_s=watch.interval_s)
    observers.write_config(watch)

    (pattern,) = yaml.safe_load(watch.run_dir.prometheus_config.read_text())["rule_files"]
    assert "OllamaFleetHealthyInstancesLow" in "".join(
        Path(path).read_text() for path in glob.glob(pattern)
    )
    assert "route" in yaml.safe_load(watch.run_dir.alertmanager_config.read_text())


FLEET_PAGE = b"""\
ollama_fleet_instances{shard="0",status="healthy"} 98
ollama_fleet_instances{shard="0",status="unreachable"} 2
ollama_fleet_instances{shard="0",status="loading"} 0
ollama_fleet_inventory_instances{shard="0"} 100
ollama_fleet_tokens_per_second{shard="0",model="llama3.1:8b"} 4000.5
ollama_fleet_tokens_per_second{shard="0",model="gemma3:270m"} 100
ollama_instance_up{instance="as-the-page-has-it"} 1
"""


class FleetPage(Page):
    body = FLEET_PAGE


@pytest.fixture
def page_port() -> Iterator[int]:
    """A server whose every page is FLEET_PAGE."""
    with ThreadingHTTPServer(("127.0.0.1", 0), FleetPage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


async def test_a_prometheus_that_does_not_answer_is_reported(
    free_port: int,
) -> None:
    with pytest.raises(PrometheusError, match="cannot be asked"):
        await report.ask(f"http://127.0.0.1:{free_port}")


def _script(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import os, pathlib, sys, time; {code}")


def test_a_build_that_fails_is_reported_with_the_command_and_what_it_said() -> None:
    with pytest.raises(DemoError) as caught:
        observers.build_alerts(_script("sys.exit('slo.periode: unknown key')"))

    assert f"`{sys.executable} -c " in str(caught.value)
    assert "exit status 1; it said:\nslo.periode: unknown key" in str(caught.value)


def test_a_build_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(DemoError, match=r"took longer than 0\.2 s$"):
        observers.build_alerts(_script("time.sleep(600)"), timeout_s=0.2)


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


@pytest.fixture
def watch(
    tmp_path: Path, prometheus_binary: Path, alertmanager_binary: Path, page_port: int
) -> Observers:
    """In a folder whose name would be a pattern if it were not escaped."""
    run_dir = RunDir(tmp_path / "my [demo]")
    for path, text in {
        run_dir.alertmanager_config: "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n",
        run_dir.alerts / "rules" / "test.yml": RULES,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    prometheus_port, alertmanager_port = free_ports(2)
    return Observers(
        run_dir=run_dir,
        inventories=(),
        exporter_port=page_port,
        prometheus_port=prometheus_port,
        alertmanager_port=alertmanager_port,
        prometheus_binary=prometheus_binary,
        alertmanager_binary=alertmanager_binary,
        interval_s=1,
    )


def test_promtool_accepts_the_configuration(watch: Observers, promtool_binary: Path) -> None:
    observers.write_config(watch)

    config = watch.run_dir.prometheus_config
    subprocess.run([promtool_binary, "check", "config", config], capture_output=True, check=True)


async def test_real_observers_scrape_evaluate_notify_and_end(watch: Observers) -> None:
    observers.write_config(watch)

    async with Children(watch.run_dir.path) as children, aiohttp.ClientSession() as session:
        await children.start(
            observers.alertmanager_server(watch), observers.prometheus_server(watch)
        )
        pids = children.pids
        await eventually(lambda: _n_received(session, watch, 5))
        async with PrometheusClient(watch.prometheus_url, timeout_s=100.0) as client:
            # A scrape that took longer than its interval leaves no series until the next one.
            while not (ups := (await client.query("ollama_instance_up")).series):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            while not (seen := await report.ask(watch.prometheus_url)).n_inventory:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            with pytest.raises(PrometheusError, match=r"refuses the query: .*parse error"):
                await client.query("sum(")

    assert {"healthy": 98, "unreachable": 2, "loading": 0} == seen.n_by_status
    assert (100, 4100.5) == (seen.n_inventory, seen.tokens_per_second)
    assert "as-the-page-has-it" == ups[0].metric["instance"]
    assert (
        Alert("TestFires", "critical", is_firing=True),
        Alert("TestFiresPerNode", "warning", is_firing=True, n=2),
        Alert("TestHasNoSeverity", "no severity", is_firing=True),
    ) == seen.firing
    assert (Alert("TestIsPending", "warning", is_firing=False),) == seen.pending
    assert not any(map(is_running, pids.values()))


async def _n_received(session: aiohttp.ClientSession, watch: Observers, n: int) -> bool:
    async with session.get(f"{watch.alertmanager_url}/api/v2/alerts") as answer:
        received = await answer.json()
    links = [alert["generatorURL"] for alert in received]
    assert all(link.startswith(watch.prometheus_url) for link in links)
    return n == len(links)


def test_alertmanager_listens_on_loopback_and_has_no_peers(plan: Plan) -> None:
    command = observers.alertmanager_server(plan.observers).command

    assert {"--web.listen-address=127.0.0.1:9093", "--cluster.listen-address="} <= set(command)
