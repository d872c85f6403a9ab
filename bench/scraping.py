"""Measure real Prometheus: as the reader of our page, and as the poller of the whole fleet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from bench import procfs
from bench.bench import Bench, cpu_by_cycle
from bench.figures import Durations, Finding, Row, Target, median_cpu
from bench.fleet import SimulatedFleet, addresses
from bench.nginx import HEALTH_PATH, find, running_nginx
from bench.ours import RunningExporter
from ollama_fleet.prometheus import PrometheusClient
from provisioning.demo import observers
from provisioning.demo.errors import ProgramError
from provisioning.demo.observers import PrometheusSettings
from provisioning.demo.processes import Children, ChildSpec

N_SAMPLES_EACH = 3
STAND_IN_WORDS = (
    "Prometheus polling the fleet itself: one request per instance and cycle; simulated instances "
    f"answer with JSON, so nginx stands in for them with a fixed page of {N_SAMPLES_EACH} samples"
)

PAGE_JOB = "ollama-fleet-exporter"
FLEET_JOB = "instances"
INSTANCE_PAGE = """# TYPE tokens_per_second gauge
tokens_per_second 41.97
# TYPE latency_p99_seconds gauge
latency_p99_seconds 0.0891
# TYPE errors_total counter
errors_total 12
"""


@dataclass(frozen=True, slots=True)
class RunningPrometheus:
    """A Prometheus that is ready."""

    pid: int
    url: str

    async def value(self, promql: str) -> float:
        """Return the value of an expression that has one series; 0 where it has none."""
        async with PrometheusClient(self.url, timeout_s=30.0) as client:
            series = (await client.query(promql)).series
        return series[0].number if series else 0.0


async def measure_scraping(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Let Prometheus scrape our page once per cycle; measure both."""
    try:
        binary = await asyncio.to_thread(find, "prometheus", bench.say)
    except ProgramError as error:
        return [f"Prometheus: left out: {error}"]
    bench.say(f"Prometheus scrapes our page: {bench.n_short_cycles} cycles")
    async with running_prometheus(bench, binary, settings_for(bench, ours.address)) as scraper:
        await asyncio.sleep(bench.interval_s)
        ours_cycles, its_cycles = await asyncio.gather(
            *(
                cpu_by_cycle(pid, n_cycles=bench.n_short_cycles, interval_s=bench.interval_s)
                for pid in (ours.pid, scraper.pid)
            )
        )
        ours_cpu, its_cpu = median_cpu(ours_cycles), median_cpu(its_cycles)
        samples = await scraper.value(f'scrape_samples_scraped{{job="{PAGE_JOB}"}}')
        return [
            Row(
                what="ours, scraped by Prometheus each cycle",
                user_s=ours_cpu.user_s,
                system_s=ours_cpu.system_s,
                resident_bytes=procfs.resident_bytes(ours.pid),
                targets=frozenset({Target.MEMORY}),
            ),
            Row(
                what="Prometheus, scraping our page",
                user_s=its_cpu.user_s,
                system_s=its_cpu.system_s,
                resident_bytes=procfs.resident_bytes(scraper.pid),
                samples=int(samples),
                gzip_fetch_s=await _scrape_durations(scraper),
            ),
        ]


async def _scrape_durations(scraper: RunningPrometheus) -> Durations:
    """Return how long scrapes took; Prometheus' own figure, which includes storing the samples."""
    series = f'scrape_duration_seconds{{job="{PAGE_JOB}"}}[5m]'
    return Durations(
        median=await scraper.value(f"quantile_over_time(0.5, {series})"),
        p99=await scraper.value(f"quantile_over_time(0.99, {series})"),
        worst=await scraper.value(f"max_over_time({series})"),
    )


async def measure_fleet_scraping(bench: Bench, fleet: SimulatedFleet) -> list[Finding]:
    """Let Prometheus scrape a page of each instance, without an exporter in between."""
    try:
        binary = await asyncio.to_thread(find, "prometheus", bench.say)
        nginx_binary = await asyncio.to_thread(find, "nginx", bench.say)
    except ProgramError as error:
        return [f"Prometheus scraping the fleet itself: left out: {error}"]
    bench.say(f"Prometheus scrapes the fleet itself: {bench.n_short_cycles} cycles")
    settings = settings_for(bench, "")
    texts = {HEALTH_PATH: "ok", "/metrics": INSTANCE_PAGE}
    async with running_nginx(bench, nginx_binary, texts) as nginx:
        config = fleet_configuration(bench, _write_targets(bench, fleet, nginx.port))
        async with running_prometheus(bench, binary, settings, config) as scraper:
            return [await _fleet_row(bench, scraper), STAND_IN_WORDS]


async def _fleet_row(bench: Bench, scraper: RunningPrometheus) -> Row:
    await asyncio.sleep(1.2 * bench.interval_s)
    cycles = await cpu_by_cycle(
        scraper.pid, n_cycles=bench.n_short_cycles, interval_s=bench.interval_s
    )
    cpu = median_cpu(cycles)
    return Row(
        what="Prometheus, polling the fleet itself",
        healthy=int(await scraper.value(f'sum(up{{job="{FLEET_JOB}"}})')),
        user_s=cpu.user_s,
        system_s=cpu.system_s,
        resident_bytes=procfs.resident_bytes(scraper.pid),
        samples=int(await scraper.value(f'sum(scrape_samples_scraped{{job="{FLEET_JOB}"}})')),
    )


def _write_targets(bench: Bench, fleet: SimulatedFleet, port: int) -> Path:
    """Write the fleet's addresses, with nginx's port, as Prometheus' file_sd reads them."""
    hosts = [urlsplit(url).hostname for _, url in addresses(fleet.inventory)]
    path = bench.run_dir / "targets.json"
    path.write_text(json.dumps([{"targets": [f"{host}:{port}" for host in hosts]}]))
    return path


def fleet_configuration(bench: Bench, targets: Path) -> str:
    """Return prometheus.yml with one job for all instances."""
    every = f"{bench.interval_s}s"
    job = {"job_name": FLEET_JOB, "file_sd_configs": [{"files": [str(targets)]}]}
    times = {"scrape_interval": every, "scrape_timeout": "5s"}
    return yaml.safe_dump({"global": times, "scrape_configs": [job]}, sort_keys=False)


def settings_for(
    bench: Bench, exporter_address: str, rule_files: tuple[str, ...] = ()
) -> PrometheusSettings:
    """Return the settings of a Prometheus that scrapes once per cycle."""
    return PrometheusSettings(
        exporter_address=exporter_address,
        address=f"127.0.0.1:{bench.port('Prometheus')}",
        interval_s=bench.interval_s,
        rule_files=rule_files,
    )


@asynccontextmanager
async def running_prometheus(
    bench: Bench, binary: Path, settings: PrometheusSettings, config_text: str = ""
) -> AsyncIterator[RunningPrometheus]:
    """Run Prometheus until the block ends, on a configuration or on that of its settings."""
    config = bench.run_dir / "prometheus.yml"
    config.write_text(config_text or observers.prometheus_config(settings))
    command = observers.prometheus_command(
        binary, config=config, data_dir=bench.run_dir / settings.address, settings=settings
    )
    url = f"http://{settings.address}"
    async with Children(bench.run_dir) as children:
        await children.start(ChildSpec("prometheus", command, f"{url}/-/ready"))
        yield RunningPrometheus(children.pids["prometheus"], url)
