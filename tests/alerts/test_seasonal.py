"""`alerts tune` against the same hour of the last weeks: four weeks that real rules recorded."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from alerts.cli import alerts
from alerts.names import INVENTORY
from alerts.settings import Settings
from exporter import catalogue
from tests.alerts.past import DATA, Programs, prometheus_with, running
from tests.alerts.plays import rules_of
from tests.alerts.promtool import Rule, foundations
from tests.alerts.weeks import DAY_H, STEP_MIN, WEEK_H, Weeks

LOST, RISING = "OllamaFleetTrafficLost", "OllamaFleetLatencyRising"
LENGTH_H = 4 * WEEK_H
OUTAGE_H = 3 * WEEK_H + 2 * DAY_H + 12
HOLIDAY = 18
"""A Friday: what is low from the morning on was not lost, and says nothing of a threshold."""
SLACK_DAYS = (15, 17, 22, 24)
"""On these there is little to do for two hours after noon, and answers take longer."""


def _is_slack(hour: float, until: int) -> bool:
    return hour // DAY_H in SLACK_DAYS and 12 <= hour % DAY_H < until


def _traffic(hour: float) -> float:
    if OUTAGE_H <= hour < OUTAGE_H + 2:
        return 0.0
    if hour // DAY_H == HOLIDAY:
        return 0.05
    return 0.22 if _is_slack(hour, 14) else 1.0


def _latency_s(hour: float) -> float:
    return 0.15 if _is_slack(hour, 18) else 0.1


def _past(end_s: int) -> Iterator[tuple[str, Mapping[int, float]]]:
    """Yield what an exporter said of four weeks, each minute: rules have times of their own."""
    fleet = Weeks(cluster="a", traffic=_traffic, latency_s=_latency_s)
    start_s = end_s - LENGTH_H * 3600
    times = range(start_s, end_s + 1, 60)
    for series in fleet.series(LENGTH_H * 60 // STEP_MIN):
        yield series["series"], dict(zip(times, _by_minute(series["values"]), strict=False))
    labels = series["series"].partition("{")[2].partition(",model")[0].rstrip("}")
    inventory = catalogue.FLEET_INVENTORY_INSTANCES.name
    yield f"{inventory}{{{labels}}}", dict.fromkeys(times, 60.0)


def _by_minute(text: str) -> Iterator[float]:
    for value, after in pairwise(map(float, text.split())):
        yield from (value + (after - value) * n / STEP_MIN for n in range(STEP_MIN))


def _levels(rules: Sequence[Rule]) -> Iterator[list[Rule]]:
    """Yield the rules that can be recorded together, those first that the others rest on."""
    left = list(rules)
    while left:
        names = {rule.name for rule in left}
        ready = [rule for rule in left if not (rule.mentioned & names) - {rule.name}]
        yield ready
        left = [rule for rule in left if rule not in ready]


async def _record(
    rules: Sequence[Rule], end_s: int, url: str, folder: Path, programs: Programs
) -> None:
    """Let promtool evaluate rules over the whole past."""
    file = folder / "rules.yml"
    group = {"name": "rules", "rules": [dict(rule.body) for rule in rules]}
    file.write_text(yaml.safe_dump({"groups": [group]}))
    command = (
        *(programs.promtool, "tsdb", "create-blocks-from", "rules", "--max-block-duration=672h"),
        *(f"--url={url}", f"--start={end_s - LENGTH_H * 3600}", f"--end={end_s}"),
        *(f"--output-dir={folder / DATA}", f"--eval-interval={STEP_MIN}m", file),
    )
    await asyncio.to_thread(
        subprocess.run, list(map(str, command)), check=True, capture_output=True
    )


async def _asked(command: str, url: str, *options: str) -> Any:
    arguments = [command, "--prometheus.url", url, "--json", *options]
    result = await asyncio.to_thread(CliRunner().invoke, alerts, arguments)
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


async def _tuned(url: str, since: str) -> list[dict[str, Any]]:
    """Return what is proposed for the traffic that is lost and for the latency that rises."""
    found = {each["alert"]: each for each in await _asked("tune", url, "--since", since)}
    return [found[LOST], found[RISING]]


@pytest.mark.nightly
async def test_a_threshold_against_the_same_hour_fits_the_days_and_nights_of_four_weeks(
    tmp_path: Path, prometheus_binary: Path, promtool_binary: Path
) -> None:
    programs = Programs(prometheus_binary, promtool_binary)
    rules = rules_of(Settings())
    needed = foundations({LOST, RISING, INVENTORY}, rules)
    recordings = [rule for rule in rules if rule.name in needed and not rule.is_alert]
    end_s = int(time.time()) // 60 * 60
    async with prometheus_with(_past(end_s), tmp_path, programs):
        pass
    for level in _levels(recordings):
        async with running(tmp_path, programs) as url:
            await _record(level, end_s, url, tmp_path, programs)

    async with running(tmp_path, programs) as url:
        lost, rise = await _tuned(url, "14d")
        too_short = await _tuned(url, "2d")
        backtested = (await _asked("backtest", url, "--since", "14d"))["alerts"]

    # Four slack afternoons and an outage, which the proposed threshold still finds.
    assert (5, 1) == (lost["fired"]["count"], lost["would_fire"]["count"])
    assert 100 <= lost["would_fire"]["minutes"] <= 130
    assert ("70%", "30%") == (lost["present"], rise["present"])
    assert 85 <= float(lost["proposed"].rstrip("%")) <= 97
    assert (4, 0) == (rise["fired"]["count"], rise["would_fire"]["count"])
    assert 55 <= float(rise["proposed"].rstrip("%")) <= 65
    for kept in too_short:
        assert kept["present"] == kept["proposed"]
        assert "kept: the history is too short" in kept["reason"]
    fired = {each["alert"]: each["fired"]["count"] for each in backtested}
    assert {LOST: 5, RISING: 4}.items() <= fired.items()
