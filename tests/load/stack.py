"""All that sees a request: instances, the real gateway before them, an exporter, a Prometheus."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from provisioning.demo import observers, programs
from provisioning.demo.observers import PrometheusSettings
from provisioning.demo.processes import Children, ChildSpec, our_command
from provisioning.gateway.render import CONF_FILE, render
from provisioning.gateway.settings import Settings
from tests.ports import free_ports
from tests.programs import locate

SAMPLE = re.compile(r"(?m)^(\w+)(?:\{([^\n]*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
Samples = Sequence[tuple[str, Mapping[str, str], float]]


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs, and how to ask it."""

    gateway_url: str
    gateway_metrics: str
    exporter_url: str
    prometheus_url: str
    session: aiohttp.ClientSession

    async def samples(self, url: str) -> Samples:
        """Return what a page of metrics says."""
        async with self.session.get(url) as answer:
            page = await answer.text()
        return [
            (name, dict(LABEL.findall(labels or "")), float(value))
            for name, labels, value in SAMPLE.findall(page)
        ]

    async def query(self, expression: str) -> float:
        """Return the one value that Prometheus answers; 0 where there is none."""
        url = f"{self.prometheus_url}/api/v1/query"
        async with self.session.get(url, params={"query": expression}) as answer:
            result = (await answer.json())["data"]["result"]
        return float(result[0]["value"][1]) if result else 0.0


@asynccontextmanager
async def stack(folder: Path, inventory: Path, **sections: Any) -> AsyncIterator[Stack]:
    """Run the observers of the instances in an inventory file; sections are the gateway's."""
    exporter, traffic, ops, prometheus = free_ports(4)
    specs = [
        _exporter(inventory, exporter, ops),
        _gateway(folder / "gateway", (exporter, traffic, ops), sections),
        _prometheus(folder, (exporter, ops), prometheus),
    ]
    async with Children(folder) as children, aiohttp.ClientSession() as session:
        await children.start(*specs)
        local = "http://127.0.0.1:"
        yield Stack(
            f"{local}{traffic}",
            f"{local}{ops}/metrics",
            f"{local}{exporter}",
            f"{local}{prometheus}",
            session,
        )


def _exporter(inventory: Path, port: int, ops_port: int) -> ChildSpec:
    command = our_command(
        "exporter",
        f"--inventory={inventory}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--gateway.url=http://127.0.0.1:{ops_port}",
        "--inventory.refresh-interval=100ms",
        "--poll.interval=1s",
        "--poll.health-timeout=800ms",
        "--poll.metrics-timeout=900ms",
    )
    return ChildSpec("exporter", command, f"http://127.0.0.1:{port}/-/ready")


def _gateway(folder: Path, ports: tuple[int, int, int], sections: Mapping[str, Any]) -> ChildSpec:
    exporter, traffic, ops = ports
    state = folder / "state"
    state.mkdir(parents=True)
    given = {
        "listen": {"address": f"127.0.0.1:{traffic}", "ops_address": f"127.0.0.1:{ops}"},
        "upstreams": {"sources": [f"http://127.0.0.1:{exporter}/upstreams"], "refresh": "200ms"},
        "nginx": {
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "state_dir": str(state),
            "workers": 2,
            "connections": 4096,
            "idle_connections": 2048,
        },
        **sections,
    }
    nginx = programs.locate_gateway(programs.default_dir(os.environ), say=print)
    render(Settings.model_validate(given), nginx, folder)
    libraries = nginx.environ().get("LD_LIBRARY_PATH", "")
    run = (str(nginx.binary), "-e", "stderr", "-p", str(folder), "-c", str(folder / CONF_FILE))
    command = ("env", f"LD_LIBRARY_PATH={libraries}", *run)
    return ChildSpec("gateway", command, f"http://127.0.0.1:{ops}/healthz")


def _prometheus(folder: Path, scraped: tuple[int, int], port: int) -> ChildSpec:
    exporter, ops = scraped
    settings = PrometheusSettings(f"127.0.0.1:{exporter}", f"127.0.0.1:{port}", interval_s=1)
    config = folder / "prometheus.yml"
    document = yaml.safe_load(observers.prometheus_config(settings))
    gateway = {"job_name": "gateway", "static_configs": [{"targets": [f"127.0.0.1:{ops}"]}]}
    document["scrape_configs"].append(gateway)
    config.write_text(yaml.safe_dump(document))
    command = observers.prometheus_command(
        locate("prometheus"), config=config, data_dir=folder / "prometheus", settings=settings
    )
    return ChildSpec("prometheus", command, f"http://127.0.0.1:{port}/-/ready")
