"""Measure ollama-fleet and its peers on one simulated fleet: `python -m bench`.

One table on stdout; on a terminal, words of progress on stderr. Nothing is asserted about speed:
the exit status is 0 when everything ran, whatever the figures.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import (
    blocking,
    boards,
    canaries,
    containers,
    dead,
    gateway,
    ours,
    painting,
    peers,
    procfs,
    provisioner,
    reading,
    rules,
    scraping,
    servers,
    soak,
    table,
)
from bench.bench import Bench, BenchError
from bench.figures import Finding
from bench.fleet import Body, SimulatedFleet, simulated_fleet
from bench.ours import RunningExporter, running_exporter
from provisioning.demo.errors import DemoError
from provisioning.demo.ports import Claims, Ports

Measuring = Coroutine[Any, Any, Sequence[Finding]]
OfExporter = Callable[[Bench, SimulatedFleet, RunningExporter], Measuring]
OfFleet = Callable[[Bench, SimulatedFleet], Measuring]
OfNothing = Callable[[Bench], Measuring]


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts that one simulated fleet serves, by name: first those of one exporter."""

    body: Body
    of_exporter: Mapping[str, OfExporter]
    of_fleet: Mapping[str, OfFleet]


STAGES = (
    Stage(
        Body.ARTICLE,
        {
            "ours": partial(ours.measure_cycles, body=Body.ARTICLE),
            "dead": dead.measure_dead_fleet,
            "blocking": blocking.measure_blocking,
            "scraped": scraping.measure_scraping,
            # The last one, as it leaves the exporter with a fleet that is half there.
            "refusing": dead.measure_refusing_fleet,
        },
        {
            "ticking": blocking.measure_ticking,
            "aiohttp": peers.measure_aiohttp,
            "article": peers.measure_article,
            "prometheus": scraping.measure_fleet_scraping,
        },
    ),
    Stage(
        Body.FULL,
        {
            "full": partial(ours.measure_cycles, body=Body.FULL),
            "rules": rules.measure_rules,
            "dashboards": boards.measure_boards,
            "page": painting.measure_page,
        },
        {"simulator": servers.measure_servers},
    ),
    Stage(Body.OLLAMA, {"ollama": partial(ours.measure_cycles, body=Body.OLLAMA)}, {}),
)
ALONE: Mapping[str, OfNothing] = {
    "inventory": reading.measure_reading,
    "canary": canaries.measure_canaries,
    "provisioner": provisioner.measure_provisioner,
    "containers": containers.measure_containers,
    "gateway": gateway.measure_gateway,
    "memory": soak.measure_memory,
    "large": blocking.measure_large_ticking,
}
"""Parts that need no fleet of servers, or one of their own."""
NAMES = (
    *(name for stage in STAGES for name in (*stage.of_exporter, *stage.of_fleet)),
    *ALONE,
)


async def measure(bench: Bench, wanted: frozenset[str]) -> list[Finding]:
    """Run the wanted parts, one after the other."""
    findings: list[Finding] = [machine_words()]
    for stage in STAGES:
        if wanted & {*stage.of_exporter, *stage.of_fleet}:
            async with simulated_fleet(bench, stage.body) as fleet:
                findings += await _measure_stage(bench, fleet, stage, wanted)
    for name, of_nothing in ALONE.items():
        if name in wanted:
            findings += await of_nothing(bench)
    return findings


async def _measure_stage(
    bench: Bench, fleet: SimulatedFleet, stage: Stage, wanted: frozenset[str]
) -> list[Finding]:
    findings: list[Finding] = []
    if wanted & stage.of_exporter.keys():
        async with running_exporter(bench, fleet) as exporter:
            for name, of_exporter in stage.of_exporter.items():
                if name in wanted:
                    findings += await exporter.guard(of_exporter(bench, fleet, exporter))
    for name, of_fleet in stage.of_fleet.items():
        if name in wanted:
            findings += await fleet.guard(of_fleet(bench, fleet))
    return findings


def machine_words() -> str:
    """Say what the figures were measured on."""
    return (
        f"machine: {os.cpu_count()} CPUs ({procfs.cpu_model()}), Python "
        f"{platform.python_version()}, load average {os.getloadavg()[0]:.1f} at the start; "
        "CPU times depend on it, ratios hardly"
    )


async def run(bench: Bench, wanted: frozenset[str]) -> list[Finding]:
    """Measure; however it is asked to end, all processes end first."""
    measuring = asyncio.create_task(measure(bench, wanted))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, measuring.cancel)
    return await measuring


def say(words: str) -> None:
    """Tell a person at a terminal what goes on."""
    if sys.stderr.isatty():
        click.echo(words, err=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--instances", type=click.IntRange(min=2), default=10_000, help="How many.")
@click.option("--cycles", type=click.IntRange(min=1), default=3, help="How many are measured.")
@click.option(
    "--interval", type=click.IntRange(min=6), default=10, help="Seconds from poll to poll."
)
@click.option(
    "--soak", type=click.IntRange(min=10), default=600, help="Seconds that memory is watched."
)
@click.option(
    "--unhealthy", type=click.IntRange(min=1), default=15, help="Instances of each kind of fault."
)
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Parts; repeatable.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON instead of a table.")
def main(
    instances: int,
    cycles: int,
    interval: int,
    soak: int,
    unhealthy: int,
    only: tuple[str, ...],
    is_json: bool,
) -> None:
    """Measure the exporter and its peers on one simulated fleet and print one table.

    Ratios are to the row "ours, the article's figures".
    """
    with tempfile.TemporaryDirectory(prefix="ollama-fleet-bench-") as folder, Claims() as claims:
        bench = Bench(
            n_instances=instances,
            n_cycles=cycles,
            interval_s=interval,
            run_dir=Path(folder),
            ports=Ports(say=say, claims=claims),
            say=say,
            soak_s=soak,
            n_ill=unhealthy,
        )
        try:
            findings = asyncio.run(run(bench, frozenset(only or NAMES)))
        except (BenchError, DemoError) as error:
            raise click.ClickException(str(error)) from error
        except asyncio.CancelledError:
            raise click.Abort from None
    click.echo(table.as_json(findings) if is_json else table.render(findings))


if __name__ == "__main__":
    main()
