"""`alerts check` against servers that do not answer as a healthy Prometheus does.

A Prometheus that refuses what promtool accepts is not to be had on demand, so a small server of our
own stands in; what a real one answers is in tests/e2e/test_alerts_check.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner
from click.testing import Result as CommandResult

from alerts import check, report, rulebook
from alerts.cli import alerts
from alerts.model import Alert
from alerts.settings import Settings
from alerts.sources import EXPORTER_SOURCES, GATEWAY_SOURCES, PROVISIONER_SOURCES

NAMES = sorted(
    {
        name
        for source in (*EXPORTER_SOURCES, *GATEWAY_SOURCES, *PROVISIONER_SOURCES)
        for name in source.names
    }
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


def prometheus(
    *,
    groups: Sequence[Mapping[str, Any]] = (),
    names: Sequence[str] = (),
    results: Callable[[str], int] = lambda _: 0,
    refused: str = "nothing",
) -> Handler:
    """Stand in for a Prometheus.

    Args:
        groups: The rules that it has loaded.
        names: Those of all series, of whatever job.
        results: How many an expression gives.
        refused: It refuses expressions that hold this.
    """

    async def handle(request: web.Request) -> web.Response:
        query = request.query.get("query", "")
        if refused in query:
            body = {"status": "error", "errorType": "execution", "error": "many-to-many matching"}
            return web.json_response(body, status=422)
        series = [{"metric": {"shard": "7"}, "value": [0, "1"]}] * results(query)
        data = {
            "/api/v1/query": {"result": series, "stats": {"timings": {"evalTotalTime": 0.25}}},
            "/api/v1/rules": {"groups": list(groups)},
            "/api/v1/label/__name__/values": list(names),
        }
        if request.path not in data:  # as VictoriaMetrics knows no format_query
            return web.Response(status=404)
        return web.json_response({"status": "success", "data": data[request.path]})

    return handle


def loaded_groups(settings: Settings) -> list[Mapping[str, Any]]:
    """Return the rules of some settings as a Prometheus that has loaded them says them."""
    return [
        {
            "name": group.name,
            "rules": [
                {
                    "name": rule.name,
                    "query": " ".join(rule.expr.split()),
                    "labels": dict(rule.labels)
                    | ({"severity": str(rule.severity)} if isinstance(rule, Alert) else {}),
                    "duration": rule.for_s if isinstance(rule, Alert) else 0,
                    "type": "alerting" if isinstance(rule, Alert) else "recording",
                }
                for rule in group.rules
            ],
        }
        for group in rulebook.groups(settings)
    ]


async def run(handler: Handler, *options: str) -> CommandResult:
    """Run the command against a server."""
    async with answering(handler) as url:
        arguments = ["check", "--prometheus.url", url, *options]
        return await asyncio.to_thread(CliRunner().invoke, alerts, arguments)


def section(shown: str, head: str) -> list[list[str]]:
    """Return the words of each line below a head."""
    _, _, rest = shown.partition(f"\n{head}")
    return [line.split() for line in rest.partition("\n\n")[0].splitlines()[1:]]


ALL_THERE = prometheus(groups=loaded_groups(Settings()), names=NAMES)


async def test_where_all_is_loaded_and_nothing_fires_the_status_is_zero() -> None:
    result = await run(ALL_THERE)

    n = sum(len(group.alerts) for group in rulebook.groups(Settings()))
    head, *_, cost = result.stdout.splitlines()
    assert 0 == result.exit_code
    assert f"{n} of {n} alerts can fire here, 0 never can, 0 fire now" == head
    assert "RECORDS" not in result.stdout
    assert cost.endswith("ms and record 0 series")
    assert n == len(section(result.stdout, "CAN FIRE HERE"))


async def test_recording_rules_are_shown_on_demand() -> None:
    shown = (await run(ALL_THERE, "--all")).stdout

    assert ["fleet:ollama_instances:sum", "record", "0", "series"] in section(shown, "RECORDS")


async def test_an_alert_that_fires_fails_on_demand_only() -> None:
    def three_are_high(query: str) -> int:
        return 3 if query.startswith("fleet:ollama_request_latency_seconds:p99 >") else 0

    firing = prometheus(groups=loaded_groups(Settings()), names=NAMES, results=three_are_high)

    tolerant, strict = await run(firing), await run(firing, "--fail-on-firing")
    calm = await run(ALL_THERE, "--fail-on-firing")

    expected = [["OllamaFleetLatencyP99High", "critical", "3", "results"]]
    assert expected == section(tolerant.stdout, "FIRES NOW")
    assert "0 never can, 1 fires now" in tolerant.stdout.splitlines()[0]
    assert (0, 1, 0) == (tolerant.exit_code, strict.exit_code, calm.exit_code)


async def test_what_fires_is_marked_and_nothing_else() -> None:
    firing = prometheus(names=NAMES, results=lambda query: int("p99 >" in query))
    async with answering(firing) as url:
        result = await check.run(Settings(), url)

    lines = report.checked(result, paint=lambda line: f"!{line}").splitlines()

    marked = [line.removeprefix("!") for line in lines if line.startswith("!")]
    fire = [rule.title for rule in result.answered(check.Answer.FIRES)]
    assert ["FIRES", *fire] == [line.split()[0] for line in marked]


async def test_watchdog_fires_as_it_should_and_counts_as_one_that_can() -> None:
    one = prometheus(names=NAMES, results=lambda query: int(query == "vector(1)"))

    result, shown = json.loads((await run(one, "--json")).stdout), (await run(one)).stdout

    assert (0, 0) == (result["counts"]["fires now"], result["counts"]["can never fire"])
    assert [["Watchdog", "(ollama-fleet)", "none"]] == section(shown, "FIRES, AS IT SHOULD")
    n = len([rule for rule in result["rules"] if rule["severity"]])
    assert shown.startswith(f"{n} of {n} alerts can fire here, 0 never can, 0 fire now")


async def test_what_prometheus_refuses_fails_with_its_reason() -> None:
    result = await run(
        prometheus(groups=loaded_groups(Settings()), names=NAMES, refused="histogram_quantile")
    )

    refused = section(result.stdout, "REFUSED BY PROMETHEUS")
    assert 1 == result.exit_code
    assert f"Prometheus refuses {len(refused)} expressions" in result.stdout
    row = "fleet:ollama_canary_duration_seconds:p99 record many-to-many matching"
    assert row.split() in refused


async def test_the_time_of_all_rules_is_the_sum_of_what_prometheus_tells() -> None:
    result = json.loads((await run(ALL_THERE, "--json")).stdout)

    assert pytest.approx(0.25 * len(result["rules"])) == result["evaluation_seconds"]


async def test_a_rule_that_differs_from_what_is_loaded_fails() -> None:
    old = {"name": "OllamaFleetOld", "query": "1", "type": "alerting"}
    groups = [*loaded_groups(Settings()), {"name": "ollama-fleet-old", "rules": [old]}]
    changed = "--set=alerts.OllamaFleetPollSlow={for: 1h}"

    result = await run(prometheus(groups=groups, names=NAMES), changed)

    rows = section(result.stdout, "DIFFERS FROM WHAT IS LOADED")
    assert 1 == result.exit_code
    assert result.stdout.splitlines()[0].endswith("; 2 differ from what is loaded")
    assert "OllamaFleetPollSlow warning for: 1h by the settings, 10m is loaded" == " ".join(rows[0])
    assert ["OllamaFleetOld", "is", "loaded,", "and", "unknown", "here"] == rows[1]


async def test_where_no_rule_is_loaded_one_sentence_says_so() -> None:
    result = await run(prometheus(names=NAMES))

    assert 1 == result.exit_code
    assert "no rule is loaded: add the built rules/*.yml" in result.stdout.splitlines()[0]
    assert "is not loaded" not in result.stdout


async def test_fleets_that_no_label_tells_apart_fail() -> None:
    one = prometheus(
        groups=loaded_groups(Settings()),
        names=NAMES,
        results=lambda query: int("min by (cluster, shard)" in query),
    )

    result = await run(one)

    assert 1 == result.exit_code
    assert "shard 7 list different numbers of instances" in result.stdout
    assert "a label `cluster` of its own" in result.stdout


async def page_not_found(_: web.Request) -> web.Response:
    return web.Response(text="<html>not here</html>", status=404)


async def something_else(_: web.Request) -> web.Response:
    return web.json_response(["hello"])


@pytest.mark.parametrize("handler", [page_not_found, something_else])
async def test_a_server_that_is_no_prometheus_has_a_status_of_its_own(handler: Handler) -> None:
    result = await run(handler)

    assert 2 == result.exit_code
    assert "is --prometheus.url the address of a Prometheus" in result.stderr
