"""A real Prometheus finds the provisioner's instances by HTTP service discovery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from provisioning.demo.observers import PrometheusSettings, prometheus_command
from provisioning.demo.processes import Children, ChildSpec
from tests.ports import free_port
from tests.provisioning.api.board import running_board
from tests.waiting import eventually

PROMISED = Path(__file__).parent / "provisioner_instances.json"


async def targets(session: aiohttp.ClientSession, prometheus_url: str) -> dict[str, dict[str, Any]]:
    """Return what Prometheus has discovered: labels, by address."""
    async with session.get(f"{prometheus_url}/api/v1/targets?state=active") as response:
        found = (await response.json())["data"]["activeTargets"]
    return {one["discoveredLabels"]["__address__"]: one["discoveredLabels"] for one in found}


async def test_prometheus_scrapes_what_is_listed(tmp_path: Path, prometheus_binary: Path) -> None:
    promised = {one["url"].removeprefix("http://"): one for one in json.loads(PROMISED.read_text())}
    settings = PrometheusSettings("", f"127.0.0.1:{free_port()}")
    config, url = tmp_path / "prometheus.yml", f"http://{settings.address}"
    command = prometheus_command(
        prometheus_binary, config=config, data_dir=tmp_path / "data", settings=settings
    )
    async with (
        running_board(tmp_path) as board,
        aiohttp.ClientSession() as session,
        Children(tmp_path) as children,
    ):
        job = {"job_name": "instances", "http_sd_configs": [{"url": f"{board.url}/sd"}]}
        config.write_text(yaml.safe_dump({"scrape_configs": [job]}))
        await children.start(ChildSpec("prometheus", command, f"{url}/-/ready"))

        async def is_listed() -> bool:
            return promised.keys() == (await targets(session, url)).keys()

        await eventually(is_listed)
        first = (await targets(session, url))["127.0.0.1:20501"]

    expected = {"instance_id": "llama-00001", "node": "n1", "model": "llama3.1:8b"}
    assert expected.items() <= first.items()
