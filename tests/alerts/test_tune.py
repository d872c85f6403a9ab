"""`alerts tune` on a real Prometheus with a past, and on servers that do not answer as one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from alerts import config, explain, names, rulebook
from alerts.cli import alerts
from alerts.settings import Settings
from alerts.tunables import TUNABLES, Tunable, comparison
from tests.alerts.past import Programs, prometheus_with

DAYS = 8
STEP_S = 60
DAY_S = 86_400
N_INSTANCES = 60
N_DRAINED = 5


async def tune(url: str, *options: str) -> Result:
    arguments = ["tune", "--prometheus.url", url, *options]
    return await asyncio.to_thread(CliRunner().invoke, alerts, arguments)


# What is asked


@pytest.mark.parametrize("tunable", TUNABLES, ids=lambda tunable: tunable.threshold)
def test_a_threshold_moves_its_alert_and_nothing_that_is_recorded(tunable: Tunable) -> None:
    """The history was recorded under the present value, and must be the same under another."""
    before, after = Settings(), tunable.changed(Settings(), 0.123)
    alert = tunable.alert_of(before)
    assert alert is not None

    changed = tunable.alert_of(after)

    assert changed is not None
    assert alert.expr != changed.expr
    assert comparison(alert.expr) == comparison(changed.expr)
    assert _rests_on(alert.expr, before) == _rests_on(changed.expr, after)


def _rests_on(expression: str, settings: Settings) -> list[str]:
    return [rule.expr for rule in explain.dependencies(expression, rulebook.groups(settings))]


def test_a_level_is_judged_per_instance_of_the_size_that_its_alert_takes() -> None:
    fixed = config.load(changes=["fleet.size=77", "thresholds.tokens_per_second=4000"])
    (speed,) = [each for each in TUNABLES if "tokens_per_second" == each.threshold]

    assert " / 77)" in speed.history_query(fixed)
    assert f" / {names.EXPECTED})" in speed.history_query(Settings())


@pytest.mark.parametrize("tunable", TUNABLES, ids=lambda tunable: tunable.threshold)
def test_a_value_is_written_as_the_settings_take_it(tunable: Tunable, tmp_path: Path) -> None:
    path = tmp_path / "alerts.yml"
    path.write_text(yaml.safe_dump({"thresholds": {tunable.threshold: tunable.text(0.123)}}))

    assert tunable.text(0.123) == explain.value_of(config.load(path), tunable.key)


# What Prometheus answers


def past() -> Iterator[tuple[str, Mapping[int, float]]]:
    """Yield series: a day before the end 20 of 60 instances fail for an hour, and all is slow."""
    end_s = int(time.time()) // STEP_S * STEP_S
    times = range(end_s - DAYS * DAY_S, end_s + 1, STEP_S)
    incident = range(end_s - DAY_S, end_s - DAY_S + 3600)
    healthy = {at_s: 40.0 if at_s in incident else N_INSTANCES for at_s in times}
    yield names.AVAILABLE, healthy
    yield names.INVENTORY, dict.fromkeys(times, N_INSTANCES + N_DRAINED)
    yield names.EXPECTED, dict.fromkeys(times, N_INSTANCES)
    yield (
        f'{names.LATENCY_P99}{{source="requests"}}',
        # Each hour is slow for two minutes, which is too short for the alert.
        {at_s: 9.0 if at_s in incident or at_s % 3600 < 120 else 1.0 for at_s in times},
    )
    yield names.CAPACITY, {at_s: 100.0 * n for at_s, n in healthy.items()}
    yield f'{names.CONDITIONS}{{condition="stalled"}}', dict.fromkeys(times, 0)
    yield _ratio("n3"), dict.fromkeys(times, 0.65)
    for node in range(3):
        # Slow by turns, each for five minutes of fifteen, which is too short as well.
        yield _ratio(f"n{node}"), {at_s: 0.4 if at_s // 300 % 3 == node else 1.0 for at_s in times}


def _ratio(node: str) -> str:
    return f'{names.NODE_SPEED_RATIO}{{node="{node}",model="m",engine="e"}}'


async def test_a_real_history_gives_settings_that_build_takes(
    tmp_path: Path, prometheus_binary: Path, promtool_binary: Path
) -> None:
    present = tmp_path / "present.yml"
    left_out = "alerts: {OllamaFleetQueueSaturated: {enabled: false}}"
    thresholds = "thresholds: {request_latency_p99: 2s, healthy_instances: 59}"
    present.write_text(f"{thresholds}\n{left_out}\n")
    proposed = tmp_path / "proposed.yml"
    options = ("--since", "8d", "--config.file", str(present))
    programs = Programs(prometheus_binary, promtool_binary)
    async with prometheus_with(past(), tmp_path, programs) as url:
        tuned = await tune(url, *options)
        told = {
            each["key"]: each for each in json.loads((await tune(url, *options, "--json")).stdout)
        }
    proposed.write_text(tuned.stdout)

    built = await asyncio.to_thread(
        CliRunner().invoke,
        alerts,
        ["build", "--config.file", str(proposed), "--output-dir", str(tmp_path / "built")],
    )

    assert (0, 0) == (tuned.exit_code, built.exit_code)
    values = yaml.safe_load(tuned.stdout)["thresholds"]
    assert {tunable.threshold for tunable in TUNABLES} - {"queued_per_instance"} == set(values)
    assert {f"thresholds.{name}": str(value) for name, value in values.items()} == {
        key: each["proposed"] for key, each in told.items()
    }
    assert {
        "request_latency_p99": "1s200ms",
        "tokens_per_second": "85 per instance",
        "healthy_instances": 59,
        "slow_node": "41%",
        "kv_cache_instances": "5%",
    }.items() <= values.items()
    seen = {key.partition(".")[2]: each["seen"] for key, each in told.items()}
    assert {"median": "1s", "99th percentile": "1s", "worst": "9s"} == seen["request_latency_p99"]
    assert {"median": "100%", "99th percentile": "100%", "worst": "66.7%"} == (
        seen["healthy_instances"]
    )
    assert {"35%"} == set(seen["slow_node"].values())
    latency, slow = told["thresholds.request_latency_p99"], told["thresholds.slow_node"]
    assert 1 == latency["fired"]["count"] == latency["would_fire"]["count"]
    assert 50 <= latency["fired"]["minutes"] <= 62
    assert 1 == slow["fired"]["count"]
    assert DAYS * 1440 - 60 <= slow["fired"]["minutes"] <= DAYS * 1440
    assert {"count": 0, "minutes": 0} == slow["would_fire"]
    assert "kept: no server reports its KV cache" in tuned.stdout
    assert 2 == tuned.stdout.count("kept: canaries are off")


@asynccontextmanager
async def answering(document: object, status: int = 200) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(document, status=status)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@pytest.mark.parametrize("result", [[], [{"metric": {}, "values": [[7, "NaN"], [8, "no"]]}]])
async def test_a_prometheus_without_the_fleet_is_an_error_that_says_what_helps(
    result: list[object],
) -> None:
    async with answering({"status": "success", "data": {"result": result}}) as url:
        refused = await tune(url)

    assert 1 == refused.exit_code
    assert f"has no {names.INVENTORY} in the last 14d: load the built rules" in refused.stderr


async def test_too_much_data_is_an_error_that_names_the_quantity_and_what_helps() -> None:
    failure = {"errorType": "execution", "error": "query would load too many samples"}
    async with answering(failure, 422) as url:
        refused = await tune(url)

    assert 2 == refused.exit_code
    assert "too many samples (asked for fleet:ollama_inventory" in refused.stderr
    assert "A shorter --since asks for less" in refused.stderr


async def test_a_prometheus_that_is_not_there_is_named_without_its_password() -> None:
    refused = await tune("http://me:s3cret@127.0.0.1:9")

    assert 2 == refused.exit_code
    assert "http://127.0.0.1:9 cannot be asked: " in refused.stderr
    assert "s3cret" not in refused.output


@pytest.mark.parametrize("since", ["0", "85d", "week"])
async def test_a_time_that_cannot_be_looked_at_is_a_wrong_option(since: str) -> None:
    assert 2 == (await tune("http://127.0.0.1:9", "--since", since)).exit_code
