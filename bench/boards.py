"""Measure what the dashboards cost Prometheus at the fleet's size: each query of each panel.

Prometheus watches the fleet for some cycles. What it then knows of the fleet, the nodes, the models
and one node's instances is made its past of six hours, in which nothing changed; then every query
is asked over these hours as Grafana asks it.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from alerts import build, config
from bench.bench import Bench
from bench.figures import Finding
from bench.fleet import SimulatedFleet
from bench.nginx import find
from bench.ours import RunningExporter
from bench.scraping import running_prometheus, settings_for
from dashboards.choices import Uid
from dashboards.collection import boards
from dashboards.kit.board import document
from dashboards.settings import DashboardSettings
from provisioning.demo.errors import ProgramError
from provisioning.demo.observers import PrometheusSettings
from tests import history
from tests.dashboards import expansion
from tests.dashboards.asking import Answer, Source, ask
from tests.dashboards.expansion import Asked, Choice
from tests.history import Past

LIMIT_S = 0.2
RANGE_S = 6 * 3600
N_TIMES = 3
CYCLES = 7
"""The rules that look at every instance are evaluated in every fourth; rates need two of those."""
SCRAPE_INTERVAL_S = 15
"""Of the past: what is recommended."""
PER_INSTANCE = "instance_id"


async def measure_boards(
    bench: Bench, fleet: SimulatedFleet, ours: RunningExporter
) -> list[Finding]:
    """Ask everything that the dashboards ask; tell how long Prometheus takes."""
    try:
        prometheus = await asyncio.to_thread(find, "prometheus", bench.say)
        promtool = await asyncio.to_thread(find, "promtool", bench.say)
    except ProgramError as error:
        return [f"dashboards: left out: {error}"]
    folder = bench.run_dir / "alerts"
    changes = [f"prometheus.scrape_interval={bench.interval_s}s"]
    build.write(config.load(changes=changes), folder)
    settings = settings_for(bench, ours.address, rule_files=(f"{folder}/rules/*.yml",))
    entry = json.loads(fleet.inventory.read_bytes())[0]
    chosen = {"node": str(entry["node"]), "instance_id": str(entry["id"])}
    await _make_a_past(bench, prometheus, promtool, settings, node=chosen["node"])
    bench.say("dashboards: every query")
    async with running_prometheus(bench, prometheus, settings) as running:
        await asyncio.sleep(2 * bench.interval_s)
        answers = await _ask_all(running.url, chosen)
    return [words(answers)]


async def _make_a_past(
    bench: Bench, prometheus: Path, promtool: Path, settings: PrometheusSettings, *, node: str
) -> None:
    bench.say(f"dashboards: Prometheus watches the fleet for {CYCLES} cycles")
    began_s = time.time()
    async with running_prometheus(bench, prometheus, settings) as running:
        await asyncio.sleep(CYCLES * bench.interval_s)
        values = await _values(running.url, node)
    bench.say(f"dashboards: a past of six hours for {len(values):,} series")
    past = Past(end_s=began_s, step_s=SCRAPE_INTERVAL_S, length_s=RANGE_S)
    folder = bench.run_dir / settings.address
    await asyncio.to_thread(history.write, folder, values, past, promtool=promtool)


async def _values(url: str, node: str) -> dict[str, float]:
    """Return the last value of every series that is not of a single instance of another node."""
    selectors = (f'{{__name__!="", {PER_INSTANCE}=""}}', f'{{node="{node}", {PER_INSTANCE}!=""}}')
    found: dict[str, float] = {}
    async with aiohttp.ClientSession() as session:
        for selector in selectors:
            form = {"query": selector}
            async with session.post(f"{url}/api/v1/query", data=form) as answer:
                body: dict[str, Any] = await answer.json()
            found |= _by_series(body["data"]["result"])
    return found


def _by_series(result: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return values by series, as OpenMetrics writes it, sorted as it demands."""
    values = {_written(item["metric"]): float(item["value"][1]) for item in result}
    return dict(sorted(values.items(), key=lambda item: re.split(r"(?=\{)", item[0])))


def _written(labels: Mapping[str, str]) -> str:
    pairs = ",".join(
        f"{name}={json.dumps(value)}" for name, value in labels.items() if name != "__name__"
    )
    return f"{labels['__name__']}{{{pairs}}}"


async def _ask_all(url: str, chosen: Mapping[str, str]) -> list[list[Answer]]:
    """Return the answers to each query, one after the other, several times each."""
    async with aiohttp.ClientSession() as session:
        source = Source(
            session=session, url=url, range_s=RANGE_S, scrape_interval_s=SCRAPE_INTERVAL_S
        )
        return [
            [await ask(source, asked, choices) for _ in range(N_TIMES)]
            for asked, choices in _everything(chosen)
        ]


def _everything(chosen: Mapping[str, str]) -> Iterator[tuple[Asked, dict[str, Choice]]]:
    for board in boards(DashboardSettings()):
        shown = document(board)
        choices = expansion.choices(shown, **(chosen if board.uid == Uid.INSTANCE else {}))
        for asked in expansion.queries(shown):
            yield asked, choices


def words(answers: Sequence[Sequence[Answer]]) -> str:
    """Return the sentence of the findings; of several times the middle one counts."""
    times_s = {
        str(times[0].asked): statistics.median(answer.duration_s for answer in times)
        for times in answers
    }
    slowest = max(times_s, key=lambda name: times_s[name])
    late = sorted(name for name, time_s in times_s.items() if time_s > LIMIT_S)
    verdict = f"missed by {'; '.join(late)}" if late else "met"
    return (
        f"dashboards: each of the {len(times_s)} queries over {RANGE_S // 3600} hours takes "
        f"Prometheus {statistics.median(times_s.values()) * 1e3:.0f} ms (median); the slowest is "
        f"{slowest} with {times_s[slowest] * 1e3:.0f} ms; all of them, one after the other, "
        f"{sum(times_s.values()):.1f} s. Target of at most {LIMIT_S * 1e3:.0f} ms each: {verdict}"
    )
