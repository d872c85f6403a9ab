from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest
import yaml

from provisioning.demo import prometheus, status
from provisioning.demo.errors import QueryError
from provisioning.demo.processes import Children, ChildSpec
from provisioning.demo.prometheus import PrometheusSettings
from tests.provisioning.demo.standin import Page, is_running

FLEET_PAGE = b"""\
ollama_fleet_instances{status="healthy"} 98
ollama_fleet_instances{status="unreachable"} 2
ollama_fleet_instances{status="loading"} 0
ollama_fleet_inventory_instances 100
ollama_fleet_tokens_per_second{model="llama3.1:8b"} 4000.5
ollama_fleet_tokens_per_second{model="gemma3:270m"} 100
ollama_instance_up{instance="as-the-page-has-it"} 1
"""


RULES = """\
groups: [{name: test, rules: [{alert: TestFires, expr: vector(1)}]}]
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


def _settings(exporter_port: int = 11_440, port: int = 9_090) -> PrometheusSettings:
    return PrometheusSettings(f"127.0.0.1:{exporter_port}", f"127.0.0.1:{port}", interval_s=1)


def test_the_configuration_scrapes_the_exporter_within_bounds_and_prometheus_itself() -> None:
    document = yaml.safe_load(prometheus.prometheus_config(_settings()))

    exporter, itself = document["scrape_configs"]
    assert "1s" == document["global"]["scrape_interval"]
    assert "ollama-fleet-exporter" == exporter["job_name"]
    assert [{"targets": ["127.0.0.1:11440"]}] == exporter["static_configs"]
    assert exporter["sample_limit"] > 1_500_000
    assert "256MB" == exporter["body_size_limit"]
    assert [{"targets": ["127.0.0.1:9090"]}] == itself["static_configs"]


def test_rules_and_an_alertmanager_are_named_where_there_are_any() -> None:
    plain = yaml.safe_load(prometheus.prometheus_config(_settings()))
    alerting = yaml.safe_load(prometheus.prometheus_config(_with_alerts(Path("/run/alerts/rules"))))

    assert [] == plain["rule_files"]
    assert {} == plain["alerting"]
    assert ["/run/alerts/rules/*.yml"] == alerting["rule_files"]
    alertmanager = [{"targets": ["127.0.0.1:9093"]}]
    assert [{"static_configs": alertmanager}] == alerting["alerting"]["alertmanagers"]
    assert {"job_name": "alertmanager", "static_configs": alertmanager} in (
        alerting["scrape_configs"]
    )


def _with_alerts(rules: Path) -> PrometheusSettings:
    return replace(
        _settings(), rule_files=(f"{rules}/*.yml",), alertmanager_address="127.0.0.1:9093"
    )


@pytest.mark.parametrize("has_alerts", [False, True])
def test_promtool_finds_the_configuration_right(
    promtool_binary: Path, tmp_path: Path, *, has_alerts: bool
) -> None:
    (tmp_path / "one.yml").write_text(RULES)
    settings = _with_alerts(tmp_path) if has_alerts else _settings()
    config = tmp_path / "prometheus.conf"
    config.write_text(prometheus.prometheus_config(settings))

    checked = subprocess.run(
        [promtool_binary, "check", "config", config], capture_output=True, text=True, check=False
    )

    assert 0 == checked.returncode, checked.stdout + checked.stderr
    assert has_alerts == ("1 rules found" in checked.stdout)


async def test_a_real_prometheus_scrapes_answers_and_is_gone_afterwards(
    prometheus_binary: Path, tmp_path: Path, page_port: int, free_port: int
) -> None:
    settings = _settings(page_port, free_port)
    config, url = tmp_path / "prometheus.yml", f"http://127.0.0.1:{free_port}"
    config.write_text(prometheus.prometheus_config(settings))
    command = prometheus.prometheus_command(
        prometheus_binary, config=config, data_dir=tmp_path / "data", settings=settings
    )

    async with (
        Children(tmp_path) as children,
        aiohttp.ClientSession() as session,
    ):
        await children.start(ChildSpec("prometheus", command, f"{url}/-/ready"))
        (pid,) = children.pids.values()
        seen = await status.ask(session, url)
        while not seen.n_healthy:
            seen = await status.ask(session, url)
        own_label = await status.query(session, url, "ollama_instance_up")
        with pytest.raises(QueryError, match=r"refuses sum\(: .*parse error"):
            await status.query(session, url, "sum(")

    assert {"healthy": 98, "unreachable": 2, "loading": 0} == seen.n_by_status
    assert 100 == seen.n_inventory
    assert 4100.5 == seen.tokens_per_second
    assert "as-the-page-has-it" == own_label[0][0]["instance"]
    assert not is_running(pid)


async def test_a_prometheus_that_does_not_answer_is_told_with_the_query(
    free_port: int,
) -> None:

    async with aiohttp.ClientSession() as session:
        with pytest.raises(
            QueryError, match=f"cannot ask http://127.0.0.1:{free_port}/api/v1/query"
        ):
            await status.ask(session, f"http://127.0.0.1:{free_port}")
