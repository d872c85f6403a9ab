"""`ollama-fleet capacity live` on a real Prometheus with a past of weeks."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from alerts import names
from exporter import catalogue
from provisioning.capacity import live
from provisioning.capacity.cli import capacity
from tests.alerts.past import Programs, prometheus_with
from tests.conftest import ROOT

DAYS = 29
STEP_S = 300
HOUR_S, DAY_S = 3600, 86_400
GROWTH = 10.0
"""Tokens/s a day."""
BURST = 1900.0
Series = tuple[str, Mapping[int, float]]


def past(label: str, end_s: int, growth: float = GROWTH) -> Iterator[Series]:
    """Yield 60 instances with 2,400 tokens/s, a third on n7; busy at noon by 1,000."""
    times = range(end_s - DAYS * DAY_S, end_s + 1, STEP_S)
    yield f'{live.INSTANCES}{{{label},status="healthy"}}', dict.fromkeys(times, 60.0)
    yield f'{live.INSTANCES}{{{label},status="unhealthy"}}', dict.fromkeys(times, 3.0)
    yield f"{live.CAPACITY}{{{label}}}", dict.fromkeys(times, 2400.0)
    yield f"{live.SPEED}{{{label}}}", dict.fromkeys(times, 2000.0)
    used = {at_s: _used(at_s, growth, end_s) for at_s in times}
    used[times[len(times) // 2] // DAY_S * DAY_S + 3 * HOUR_S] = BURST
    yield f"{live.GENERATED}{{{label}}}", used
    recent = range(end_s - HOUR_S, end_s + 1, 60)
    for node, speed, count in (("n1", 200.0, 30.0), ("n7", 600.0, 20.0), ("n9", 500.0, 10.0)):
        for replica in ("a", "b"):  # two exporters say the same
            yield (
                f'{live.NODE_SPEED}{{{label},instance="{replica}",shard="0",node="{node}",'
                'model="m",engine="ollama"}',
                dict.fromkeys(recent, speed),
            )
        where = f'{label},node="{node}",status="healthy"'
        yield f"{live.NODE_INSTANCES}{{{where}}}", dict.fromkeys(recent, count)


def _used(at_s: int, growth: float, end_s: int) -> float:
    hour, day = at_s % DAY_S / HOUR_S, at_s // DAY_S - end_s // DAY_S
    return 1000 + growth * (day + DAYS) if 11 <= hour <= 13 else 100.0


def options_of_the_page() -> list[str]:
    """Return the options of the page's example but for the address, which another test has."""
    text = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
    (line,) = re.findall("(?m)^ollama-fleet capacity live (.*)", text)
    options: list[str] = line.split()
    assert ["--prometheus.url", "http://127.0.0.1:9090"] == options[:2]
    return options[2:]


async def asked(url: str, *options: str) -> Result:
    words = ["live", "--prometheus.url", url, *options]
    return await asyncio.to_thread(CliRunner().invoke, capacity, words)


async def test_a_past_of_weeks_says_what_a_fleet_has_uses_and_when_it_runs_out(
    tmp_path: Path, prometheus_binary: Path, promtool_binary: Path
) -> None:
    end_s = int(time.time()) // STEP_S * STEP_S
    series = [*past('cluster="a"', end_s), *past('cluster="b"', end_s, growth=0.0)]
    programs = Programs(prometheus_binary, promtool_binary)
    async with prometheus_with(series, tmp_path, programs) as url:
        which = await asked(url)
        grows = await asked(url, "--cluster=a", "--json")
        text = " ".join((await asked(url, "--cluster=a")).stdout.split())
        steady = " ".join((await asked(url, "--cluster=b")).stdout.split())
        short = " ".join((await asked(url, "--cluster=a", "--since=14d")).stdout.split())
        none = await asked(url, "--cluster=c")
        documented = await asked(url, "--cluster=a", *options_of_the_page())

    assert 0 == documented.exit_code
    assert (1, "") == (which.exit_code, which.stdout)
    assert "has 2 fleets, by the label cluster: name one with --cluster" in which.stderr
    assert (1, "") == (none.exit_code, none.stdout)
    assert f'has no {live.INSTANCES}{{cluster="c"}} in the last' in none.stderr
    found: dict[str, Any] = json.loads(grows.stdout)
    assert (60, 2400, BURST) == (found["n_healthy"], found["capacity"], found["peak"])
    assert found["peak_at_s"] % DAY_S in (3 * HOUR_S, 4 * HOUR_S)
    assert pytest.approx(1285, abs=15) == found["busiest_hour"]
    assert found["busiest_hour_at_s"] % DAY_S in (12 * HOUR_S, 13 * HOUR_S)
    assert pytest.approx(1285 / 2400, abs=0.01) == found["busiest_hour_share"]
    assert pytest.approx(1100, abs=100) == found["normal_hour"]
    assert pytest.approx(7 * GROWTH) == found["trend"]["per_week"]
    assert pytest.approx((2400 - 1285) / GROWTH, abs=2) == found["runs_out_days"][0]
    assert {"node": "n7", "n_instances": 20, "share": 0.3} == found["largest"]
    assert pytest.approx(1680) == found["capacity_without_largest"]
    assert pytest.approx((1680 - 1285) / GROWTH, abs=2) == found["runs_out_days_without_largest"][0]
    assert "TREND +70 tokens/s a week, between +70 and +70 tokens/s a week" in text
    assert "ONE NODE LESS n7 has 20 instances and 30% of the capacity. Without it 1,680" in text
    assert "TREND no trend: between +0 and +0 tokens/s a week" in steady
    assert "RUNS OUT not by any trend: busy days reach 1,000 tokens/s now" in steady
    assert "TREND not known: it takes three weeks of whole days" in short
    assert "RUNS OUT not known without a trend" in short


async def test_a_prometheus_without_rules_or_that_is_not_there_is_refused(
    tmp_path: Path, prometheus_binary: Path, promtool_binary: Path
) -> None:
    programs = Programs(prometheus_binary, promtool_binary)
    series = [("up", {int(time.time()): 1.0})]
    async with prometheus_with(series, tmp_path, programs) as url:
        bare = await asked(url)
    absent = await asked("http://me:s3cret@127.0.0.1:9")

    assert (1, "") == (bare.exit_code, bare.stdout)
    assert "load the rules of `ollama-fleet alerts build` there" in bare.stderr
    assert (2, "") == (absent.exit_code, absent.stdout)
    assert "http://127.0.0.1:9 cannot be asked: " in absent.stderr
    assert "s3cret" not in absent.output


def test_the_series_that_are_asked_for_are_those_of_rules_and_exporter() -> None:
    theirs = (
        names.INSTANCES, names.CAPACITY, names.SPEED, names.GENERATED, names.NODE_INSTANCES,
        catalogue.NODE_TOKENS_PER_SECOND.name,
    )  # fmt: skip

    assert theirs == (
        live.INSTANCES, live.CAPACITY, live.SPEED, live.GENERATED, live.NODE_INSTANCES,
        live.NODE_SPEED,
    )  # fmt: skip


@pytest.mark.parametrize("option", ["--since=1h", "--since=90d", "--cluster-label=a b"])
def test_wrong_options_are_refused(option: str) -> None:
    result = CliRunner().invoke(capacity, ["live", "--prometheus.url=http://127.0.0.1:9", option])

    assert (2, "") == (result.exit_code, result.stdout)
    assert "must be" in result.stderr
