"""Queries of a Prometheus that answers well, badly or not at all."""

from __future__ import annotations

import gzip
import json
import math

import pytest

from ollama_fleet.prometheus import (
    MAX_BODY_BYTES,
    LoadedGroup,
    LoadedRule,
    PrometheusClient,
    PrometheusError,
    QueryRefusedError,
    Result,
    Series,
)
from tests.exporter.servers import Handler, answering, hanging, response, saying, serving

GOOD = json.dumps(
    {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [{"metric": {"node": "a"}, "value": [1.5, "7"]}],
            "stats": {"timings": {"evalTotalTime": 0.25}},
        },
    }
).encode()


async def query(handler: Handler, timeout_s: float = 100.0) -> Result:
    async with serving(handler) as port:
        client = PrometheusClient(f"http://127.0.0.1:{port}", timeout_s=timeout_s)
        try:
            return await client.query("up")
        finally:
            await client.close()


async def test_a_query_gives_series_and_how_long_it_took() -> None:
    result = await query(saying(response(GOOD)))

    assert [Series({"node": "a"}, (1.5, "7"))] == result.series
    assert (7.0, 0.25) == (result.series[0].number, result.evaluation_s)


async def test_a_server_may_answer_without_statistics() -> None:
    """As VictoriaMetrics does."""
    body = b'{"status":"success","data":{"result":[],"stats":{"seriesFetched":"2"}}}'

    assert 0.0 == (await query(saying(response(body)))).evaluation_s


async def test_rules_series_and_expressions_are_read_from_a_path_below_the_url() -> None:
    rule = {"name": "A", "query": "up == 0", "duration": 60, "labels": {"a": "b"}, "type": "x"}
    answers = {
        "rules?exclude_alerts=true": {
            "groups": [{"name": "one", "rules": [rule]}, {"name": "two", "rules": []}]
        },
        "label/__name__/values?match%5B%5D=up&start=1.000": ["up"],
        "format_query?query=up%3D%3D0": "up == 0",
    }
    bodies = {
        f"/prom/api/v1/{path}": json.dumps({"status": "success", "data": data}).encode()
        for path, data in answers.items()
    }
    async with serving(answering(bodies)) as port:
        async with PrometheusClient(f"http://127.0.0.1:{port}/prom", timeout_s=100.0) as client:
            groups = await client.rule_groups()
            names = await client.series_names("up", since_s=1.0)
            text = await client.formatted("up==0")

    assert [
        LoadedGroup("one", [LoadedRule("A", "up == 0", 60.0, {"a": "b"}, {}, "x")]),
        LoadedGroup("two", []),
    ] == groups
    assert (["up"], "up == 0") == (names, text)


async def test_a_refused_query_has_prometheus_reason() -> None:
    body = b'{"status":"error","errorType":"execution","error":"many-to-many matching"}'

    with pytest.raises(QueryRefusedError, match="refuses the query: many-to-many") as caught:
        await query(saying(response(body, "422 Unprocessable Entity")))

    assert "many-to-many matching" == caught.value.reason


def test_a_value_that_is_not_a_number_is_none() -> None:
    assert math.isnan(Series({}, (0.0, "x")).number)


FAULTS: list[tuple[Handler, str]] = [
    (saying(response(b"oops", "500 Internal Server Error")), "answers with status 500"),
    (saying(response(b'{"error":"no org id"}', "401 Unauthorized")), "answers with status 401"),
    (saying(response(b"", "302 Found", "Location: /login")), "answers with status 302"),
    (saying(response(b"<html>")), "does not answer as Prometheus does"),
    (saying(response(b'{"status":"success","data":{"result":[[1,2]]}}')), "does not answer as"),
    (saying(response(b'"\xff"')), "does not answer as Prometheus does"),
    (saying(response(b'{"x":' + b"[" * 100_000)), "does not answer as Prometheus does"),
    # A small body can unpack to a huge one.
    (saying(response(gzip.compress(GOOD), "200 OK", "Content-Encoding: gzip")), "does not answer"),
    (saying(response(b"x" * (MAX_BODY_BYTES + 1))), "answers with more than 1,048,576 bytes"),
    (saying(b"\x00\xff\r\n\r\n"), "cannot be asked: "),
    (saying(b""), "cannot be asked: "),
    (hanging, "sent no complete answer within 0.1 s"),
]


@pytest.mark.parametrize(("handler", "expected"), FAULTS)
async def test_a_bad_answer_is_an_error(handler: Handler, expected: str) -> None:
    with pytest.raises(PrometheusError, match=expected):
        await query(handler, timeout_s=0.1 if handler is hanging else 100.0)


async def test_a_host_that_no_dns_can_spell_is_an_error() -> None:
    client = PrometheusClient(f"http://{'a' * 64}.example", timeout_s=100.0)
    with pytest.raises(PrometheusError, match="cannot be asked: "):
        await client.query("up")
    await client.close()
