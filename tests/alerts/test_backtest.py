"""`alerts backtest` on a real Prometheus with a past and the rules loaded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from alerts import archive, build, inhibition, names, sources
from alerts.cli import alerts
from alerts.settings import Settings
from tests.alerts.past import Programs, prometheus_with

DAYS = 7
DAY_S = 86_400
HOUR_S = 3600
STEP_S = 60
JOB = 'job="ollama-fleet-exporter"'
CLUSTERS = ("a", "b")
ABSENT = "alerts.OllamaFleetMetricsAbsent.enabled=false"
LATENCY, SPEED = "OllamaFleetLatencyP99High", "OllamaFleetTokenThroughputLow"
EXPORTER_DOWN = "OllamaFleetExporterDown"


async def backtest(url: str, *options: str) -> Result:
    # There is no exporter in the test's history, only what the rules made of it.
    arguments = ["backtest", "--prometheus.url", url, "--set", ABSENT, *options]
    return await asyncio.to_thread(CliRunner().invoke, alerts, arguments)


def past() -> Iterator[tuple[str, Mapping[int, float]]]:
    """Yield series of two fleets, both slow for an hour yesterday, when `a` had no exporter."""
    end_s = int(time.time()) // STEP_S * STEP_S
    times = range(end_s - DAYS * DAY_S, end_s + 1, STEP_S)
    yesterday = range(end_s - DAY_S, end_s - DAY_S + HOUR_S)
    before = range(end_s - 4 * DAY_S, end_s - 4 * DAY_S + HOUR_S)
    present = (sources.EXPORTER, sources.FLEET, sources.LATENCY, sources.REQUESTS, sources.SPEED)
    for name in {name for source in present for name in source.names}:
        yield f"{name}{{{JOB}}}", {end_s - DAY_S: 0.0}
    for cluster in CLUSTERS:
        label = f'cluster="{cluster}"'
        down = yesterday if cluster == "a" else ()
        yield (
            f'up{{{JOB},instance="e",{label}}}',
            {at_s: float(at_s not in down) for at_s in times},
        )
        yield f"{names.INVENTORY}{{{label}}}", dict.fromkeys(times, 60.0)
        yield f"{names.EXPECTED}{{{label}}}", dict.fromkeys(times, 60.0)
        healthy = f'{names.INSTANCES}{{status="healthy",{label}}}'
        yield healthy, dict.fromkeys(times, 60.0)
        slow = {*yesterday, *(before if cluster == "b" else ())}
        yield (
            f'{names.LATENCY_P99}{{source="requests",{label}}}',
            {at_s: 9.0 if at_s in slow else 0.1 for at_s in times},
        )
        # Recorded for two days only.
        yield (
            f"{names.CAPACITY}{{{label}}}",
            {at_s: 600.0 if at_s in yesterday else 6000.0 for at_s in times[-2880:]},
        )


def judged(result: Result) -> dict[str, dict[str, Any]]:
    found = json.loads(result.stdout)
    assert 0 == result.exit_code
    return {f"{one['alert']} {one['severity']}": one for one in found["alerts"]}


async def test_a_history_gives_how_often_each_alert_fires_and_what_it_cannot_say(
    tmp_path: Path, prometheus_binary: Path, promtool_binary: Path
) -> None:
    build.write(Settings(), tmp_path, is_rules_only=True)
    (tmp_path / "ollama-fleet-slo-requests.yml").unlink()
    programs = Programs(prometheus_binary, promtool_binary)
    rules = f"{tmp_path}/ollama-fleet-*.yml"
    async with prometheus_with(past(), tmp_path, programs, rule_files=rules) as url:
        found = judged(whole := await backtest(url, "--since", "8d", "--json"))
        other = judged(await backtest(url, "--since", "8d", "--json", "--set", "windows.rate=10m"))
        strict = judged(
            await backtest(
                url, "--since", "8d", "--json", "--set", "thresholds.request_latency_p99=10s"
            )
        )
        text = (await backtest(url, "--since", "8d")).stdout

    latency, speed = found[f"{LATENCY} critical"], found[f"{SPEED} critical"]
    exporter = found[f"{EXPORTER_DOWN} critical"]
    assert ("would have fired", 1) == (exporter["verdict"], exporter["fired"]["count"])
    # Twice in b; once in a, where the dead exporter mutes it.
    assert (2, 1) == (latency["fired"]["count"], latency["n_muted"])
    assert 100 <= latency["fired"]["minutes"] <= 124
    assert pytest.approx(2, abs=0.1) == latency["per_week"]
    assert (1, 1, None) == (speed["fired"]["count"], speed["n_muted"], speed["per_week"])
    assert 1.8 <= speed["history_s"] / DAY_S <= 2.2
    pages = json.loads(whole.stdout)["per_week"]["critical"]
    assert pytest.approx(latency["per_week"] + exporter["per_week"], abs=0.1) == pages
    assert "can never fire here" == found["OllamaFleetKvCacheSaturated warning"]["verdict"]
    requests = found["OllamaFleetErrorBudgetBurn critical"]
    assert "cannot be judged" == requests["verdict"]
    assert "not recorded: load the built rules" in requests["because"][0]
    assert "cannot be judged" == other[f"{LATENCY} critical"]["verdict"]
    assert "the loaded rules record otherwise" in other[f"{LATENCY} critical"]["because"][0]
    assert "would not have fired" == strict[f"{LATENCY} critical"]["verdict"]
    assert f" of history, a point each 2m: {pages:.1f} pages" in text
    assert "OllamaFleetErrorBudgetBurn (critical): " in text


async def test_a_history_that_is_too_short_gives_no_pages_a_week(
    tmp_path: Path, prometheus_binary: Path, promtool_binary: Path
) -> None:
    programs = Programs(prometheus_binary, promtool_binary)
    async with prometheus_with(past(), tmp_path, programs) as url:
        result = await backtest(url, "--since", "2d")

    assert 0 == result.exit_code
    assert "too short for pages a week, which take 3d of recorded series" in result.stdout


async def test_a_prometheus_that_is_not_there_is_an_error_without_its_password() -> None:
    refused = await backtest("http://me:s3cret@127.0.0.1:9")

    assert 2 == refused.exit_code
    assert "http://127.0.0.1:9 cannot be asked: " in refused.stderr
    assert "s3cret" not in refused.output


def _labels(name: str, severity: str = "critical") -> dict[str, str]:
    return {"alertname": name, "severity": severity}


def test_an_alert_mutes_what_alertmanagers_rules_say_and_never_itself() -> None:
    down = _labels(EXPORTER_DOWN)

    assert inhibition.mutes(down, _labels(LATENCY))
    assert not inhibition.mutes(down, down)
    assert not inhibition.mutes(down, _labels("OllamaProvisionerDown"))
    assert not inhibition.mutes(_labels(LATENCY), down)
    assert inhibition.mutes(_labels(LATENCY), _labels(LATENCY, "warning"))
    assert not inhibition.mutes(_labels(LATENCY), _labels(SPEED, "warning"))
    down_nodes = _labels("OllamaNodeInstancesDown") | {"node": "n1"}
    assert inhibition.mutes(down_nodes, _labels("OllamaNodeSlowerThanFleet") | {"node": "n1"})
    assert not inhibition.mutes(down_nodes, _labels("OllamaNodeSlowerThanFleet") | {"node": "n2"})


async def test_a_prometheus_that_takes_too_long_is_an_error_that_says_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers the first question, and no other."""
    n_asked, is_over = 0, asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        nonlocal n_asked
        n_asked += 1
        if n_asked > 1:
            await is_over.wait()
        return web.json_response({"data": {"result": [{"metric": {}, "values": [[7, "1"]]}]}})

    monkeypatch.setattr(archive, "DEADLINE_S", 2.0)
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        refused = await backtest(str(server.make_url("/")), "--since", "1d")
        is_over.set()

    assert 2 == refused.exit_code
    assert "did not answer everything within 2s (asked for fleet:oll" in refused.stderr
    assert "a shorter --since asks for less" in refused.stderr
