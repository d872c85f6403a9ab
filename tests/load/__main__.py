"""What users see beside what we measure; the article's experiment; how much one core can ask.

`python -m tests.load`, or `make load`; the exit status is 1 where users saw something else.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from provisioning.demo.llama import MODEL_NAME, model_file
from tests.load import agreement, experiment
from tests.load.instances import real, simulated
from tests.load.running import load
from tests.load.stack import stack

ONE_AT_ONCE = {"limits": experiment.ONE_AT_ONCE}


async def compare(folder: Path, inventory: Path, title: str, *options: str, **sections: Any) -> int:
    """Load instances through the gateway; print what each sees; return the differences."""
    async with stack(folder, inventory, **sections) as running:
        ended = await load(f"--gateway.url={running.gateway_url}", "--json", *options)
        if ended.status not in {0, 1}:
            raise click.ClickException(ended.errors)
        seen = await agreement.observed(running, ended.report)
    found = agreement.differences(seen)
    click.echo(f"\n{title}\n{agreement.to_text(seen)}")
    click.echo("\n".join(f"DIFFERS: {one}" for one in found) or "all see the same")
    return len(found)


async def simulated_fleet(folder: Path, run_time: str) -> int:
    """Compare on simulated Ollama at the article's limit of one request a second each."""
    async with simulated(folder, n_instances=100) as inventory:
        return await compare(
            folder,
            inventory,
            "100 simulated instances of Ollama, 120 users",
            *("--model=llama3.1:8b", "--tokens=16", "--users=120", "--spawn-rate=20"),
            f"--run-time={run_time}",
        )


async def real_servers(folder: Path, model: Path, run_time: str) -> int:
    """Compare on two real servers, and make the experiment there."""
    async with real(folder, model, n=experiment.N_SERVERS) as inventory:
        n = await compare(
            folder,
            inventory,
            f"{experiment.N_SERVERS} real LLM servers, 3 users, streams",
            *(f"--model={MODEL_NAME}", "--api=openai", "--stream", "--tokens=16", "--users=3"),
            f"--run-time={run_time}",
            **ONE_AT_ONCE,
        )
        rows = [row async for row in experiment.rows(folder, inventory, run_time)]
    click.echo(f"\nrequests at once per server, one slot each\n{experiment.to_text(rows)}")
    return n


async def rate(folder: Path, run_time: str) -> None:
    """Print how many requests one process sends in a second of processor time."""
    async with simulated(folder, n_instances=1000, time_scale=1e-4) as inventory:
        options = (f"--instances={inventory}", "--json", "--users=50", "--spawn-rate=100")
        idle_s, _ = await _cpu_s(*options, "--run-time=100ms")
        busy_s, report = await _cpu_s(*options, "--wait=0", f"--run-time={run_time}")
    n = sum(one["n"] for one in report["requests"])
    cpu_s = max(busy_s - idle_s, 0.01)
    click.echo(
        f"\nLocust: {n:,} requests in {report['duration_s']:.1f} s, {n / cpu_s:,.0f} for each "
        f"second of processor time"
    )


async def _cpu_s(*options: str) -> tuple[float, dict[str, Any]]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = await load(*options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended.report


async def measure(folder: Path, run_time: str) -> int:
    """Do all of it; return how many figures differ."""
    places = [folder / name for name in ("simulated", "real", "rate")]
    for place in places:
        place.mkdir()
    n = await simulated_fleet(places[0], run_time)
    n += await real_servers(places[1], model_file(os.environ), run_time)
    await rate(places[2], run_time)
    return n


@click.command()
@click.option("--run-time", default="20s", show_default=True, help="Of each part.")
def main(run_time: str) -> None:
    """Load simulated and real fleets, and compare what all see."""
    with tempfile.TemporaryDirectory(prefix="ollama-fleet-load-") as folder:
        sys.exit(1 if asyncio.run(measure(Path(folder), run_time)) else 0)


if __name__ == "__main__":
    main()
