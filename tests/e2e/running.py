"""The real exporter and a real Prometheus that scrapes it, as processes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from provisioning.demo import observers
from provisioning.demo.observers import PrometheusSettings
from provisioning.demo.processes import Children, ChildSpec
from tests.ports import free_ports

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class Running:
    """An exporter, and maybe a Prometheus, that run until the test ends."""

    exporter_url: str
    prometheus_url: str
    children: Children
    session: aiohttp.ClientSession

    async def samples(self) -> Samples:
        """Return what the exporter's page says now."""
        async with self.session.get(f"{self.exporter_url}/metrics") as answer:
            page = await answer.text()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float | None:
        """Return one sample of the exporter's page; None where it is not there."""
        return (await self.samples()).get((name, tuple(sorted(labels.items()))))

    async def instances(self, **wanted: str) -> list[dict[str, Any]]:
        """Return what `/instances` says."""
        url = f"{self.exporter_url}/instances"
        async with self.session.get(url, params=wanted) as answer:
            listed: list[dict[str, Any]] = await answer.json()
        return listed

    async def query(self, expression: str) -> dict[str, float]:
        """Return what Prometheus answers: values by the text of their labels."""
        url = f"{self.prometheus_url}/api/v1/query"
        async with self.session.get(url, params={"query": expression}) as answer:
            result = (await answer.json())["data"]["result"]
        return {_label_text(item["metric"]): float(item["value"][1]) for item in result}


def _label_text(labels: Mapping[str, str]) -> str:
    hidden = ("__name__", "instance", "job")
    shown = {key: value for key, value in labels.items() if key not in hidden}
    return ",".join(f"{key}={value}" for key, value in sorted(shown.items()))


@asynccontextmanager
async def running(
    run_dir: Path, inventory: Path | str, prometheus_binary: Path | None = None, *options: str
) -> AsyncIterator[Running]:
    """Run the exporter over an inventory, polling each second, and Prometheus if one is given."""
    exporter_port, prometheus_port = free_ports(2)
    specs = [_exporter(inventory, exporter_port, options)]
    if prometheus_binary is not None:
        specs.append(_prometheus(run_dir, prometheus_binary, exporter_port, prometheus_port))
    async with Children(run_dir) as children, aiohttp.ClientSession() as session:
        await children.start(*specs)
        yield Running(
            f"http://127.0.0.1:{exporter_port}",
            f"http://127.0.0.1:{prometheus_port}",
            children,
            session,
        )


def _exporter(inventory: Path | str, port: int, options: tuple[str, ...]) -> ChildSpec:
    command = (
        *(sys.executable, "-P", "-m", "ollama_fleet", "exporter", f"--inventory={inventory}"),
        f"--web.listen-address=127.0.0.1:{port}",
        "--inventory.refresh-interval=100ms",
        "--poll.interval=1s",
        "--poll.health-timeout=950ms",
        "--poll.metrics-timeout=980ms",
        *options,
    )
    return ChildSpec("exporter", command, f"http://127.0.0.1:{port}/-/ready")


def _prometheus(run_dir: Path, binary: Path, exporter_port: int, port: int) -> ChildSpec:
    settings = PrometheusSettings(f"127.0.0.1:{exporter_port}", f"127.0.0.1:{port}", interval_s=1)
    config = run_dir / "prometheus.yml"
    config.write_text(observers.prometheus_config(settings))
    command = observers.prometheus_command(
        binary, config=config, data_dir=run_dir / "prometheus", settings=settings
    )
    return ChildSpec("prometheus", command, f"http://127.0.0.1:{port}/-/ready")
