"""A real Prometheus finds the provisioner's instances by HTTP service discovery."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from provisioning.demo.observers import PrometheusSettings, prometheus_command
from tests.ports import free_port
from tests.provisioning.api.board import running_board
from tests.waiting import eventually

PROMISED = Path(__file__).parent / "provisioner_instances.json"


@contextmanager
def running_prometheus(binary: Path, folder: Path, discovery_url: str) -> Iterator[str]:
    """Run a Prometheus that looks there for its targets all the time; give its URL."""
    job = {
        "job_name": "instances",
        "http_sd_configs": [{"url": discovery_url, "refresh_interval": "200ms"}],
    }
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"scrape_configs": [job]}))
    settings = PrometheusSettings("", f"127.0.0.1:{free_port()}")
    words = prometheus_command(binary, config=config, data_dir=folder / "data", settings=settings)
    process = subprocess.Popen(words, cwd=folder)
    try:
        yield f"http://{settings.address}"
    finally:
        process.terminate()
        process.wait(30)


async def targets(session: aiohttp.ClientSession, prometheus_url: str) -> dict[str, dict[str, Any]]:
    """Return what Prometheus has discovered: labels, by address; nothing before it is there."""
    try:
        async with session.get(f"{prometheus_url}/api/v1/targets?state=active") as response:
            found = (await response.json())["data"]["activeTargets"]
    except aiohttp.ClientError:
        return {}
    return {one["discoveredLabels"]["__address__"]: one["discoveredLabels"] for one in found}


async def test_prometheus_scrapes_what_is_listed(tmp_path: Path, prometheus_binary: Path) -> None:
    promised = {one["url"].removeprefix("http://"): one for one in json.loads(PROMISED.read_text())}
    async with running_board(tmp_path) as board, aiohttp.ClientSession() as session:
        with running_prometheus(prometheus_binary, tmp_path, f"{board.url}/sd") as url:

            async def is_listed() -> bool:
                return promised.keys() == (await targets(session, url)).keys()

            await eventually(is_listed)
            first = (await targets(session, url))["127.0.0.1:20501"]

    expected = {"instance_id": "llama-00001", "node": "n1", "model": "llama3.1:8b"}
    assert expected.items() <= first.items()
