from __future__ import annotations

import json
from typing import Any

import pytest

from exporter.catalogue import BOUNDARIES_S
from exporter.engines import fleet
from exporter.errors import PollError
from exporter.model import NO_VALUES, Answer, Histogram, Outcome, Values, Verdict
from tests.exporter.engines.bodies import (
    FLEET_METRICS,
    FLEET_OK,
    HAPROXY_BACKEND_DEAD,
    HTML,
    LLAMACPP_LOADING,
    nested,
)

ENGINE = fleet.engine()


def read(metrics: Answer | PollError, health: Answer | PollError = FLEET_OK) -> Verdict:
    return ENGINE.read({"/health": health, fleet.METRICS: metrics})


def read_body(**body: Any) -> Verdict:
    return read(Answer(200, json.dumps(body).encode()))


def values(**body: Any) -> Values:
    verdict = read_body(**body)
    assert Outcome.OK is verdict.metrics_outcome, verdict
    return verdict.values


def buckets(**changes: float) -> dict[str, float]:
    counts = {repr(boundary): float(n) for n, boundary in enumerate(BOUNDARIES_S)}
    return {**counts, "+Inf": 100.0, **changes}


def test_the_articles_three_figures_are_read() -> None:
    expected = Values(
        tokens_per_second=41.7, latency_p99_s=0.089, errors_total=(("unspecified", 3.0),)
    )

    assert Verdict(Outcome.OK, values=expected) == read(FLEET_METRICS)


def test_any_one_of_the_three_is_enough() -> None:
    assert Values(tokens_per_second=1.0) == values(tokens_per_second=1)


def test_the_optional_figures_are_read() -> None:
    given = {
        "tokens_per_second": 1,
        "model": "m",
        "version": "0.4.7",
        "requests_running": 2,
        "requests_queued": 3,
        "start_time_seconds": 4,
        "generated_tokens_total": 5,
        "prompt_tokens_total": 6,
        "generating_seconds_total": 7,
        "something_new": {"ignored": True},
    }
    expected = Values(("m",), "0.4.7", 1.0, None, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)

    assert expected == values(**given)


def test_latency_in_milliseconds_becomes_seconds() -> None:
    engine = fleet.engine(latency_unit_s=0.001)

    verdict = engine.read(
        {"/health": FLEET_OK, fleet.METRICS: Answer(200, b'{"latency_p99":89.0}')}
    )

    assert 0.089 == pytest.approx(verdict.values.latency_p99_s)


def test_errors_by_type_and_what_only_the_count_has() -> None:
    given = values(error_count=10, errors={"timeout": 3, "oom": 4})

    assert (("oom", 4.0), ("timeout", 3.0), ("unspecified", 3.0)) == given.errors_total


def test_no_errors_told_as_an_empty_object_is_a_count_of_zero() -> None:
    """So a restart is seen in the counts of the types known before."""
    assert (("unspecified", 0.0),) == values(tokens_per_second=1, errors={}).errors_total
    assert (("unspecified", 2.0),) == values(error_count=2, errors={}).errors_total


def test_a_histogram_with_any_boundaries_is_taken() -> None:
    def read_buckets(given: dict[str, float]) -> Histogram | None:
        body = {"buckets": given, "sum": 12.5}
        return values(error_count=0, request_duration_seconds=body).request_duration

    ours = read_buckets(buckets())
    others = read_buckets({"+Inf": 3.0, "0.33": 1.0, "7": 2.0})

    assert Histogram((*map(float, range(len(BOUNDARIES_S))), 100.0), 12.5, BOUNDARIES_S) == ours
    assert Histogram((1.0, 2.0, 3.0), 12.5, (0.33, 7.0)) == others


@pytest.mark.parametrize(
    "bad",
    [{"0.05": 99.0}, {"half": 1.0}, {"+Inf": 3.0}, {"0" * 33: 0.0}, {"-1": 0.0}, {"nan": 0.0}],
    ids=["falling", "no number", "below", "a long number", "below zero", "NaN"],
)
def test_a_histogram_that_is_none_is_refused(bad: dict[str, float]) -> None:
    verdict = read_body(
        error_count=0, request_duration_seconds={"buckets": buckets(**bad), "sum": 1}
    )

    assert (Outcome.OK, Outcome.BAD_BODY) == (verdict.outcome, verdict.metrics_outcome)


def test_a_histogram_without_a_count_of_all_requests_is_refused_by_name() -> None:
    without = {le: n for le, n in buckets().items() if le != "+Inf"}

    for bad in (without, {}):
        verdict = read_body(error_count=0, request_duration_seconds={"buckets": bad, "sum": 1})
        assert "request_duration_seconds lacks the bucket +Inf" in verdict.metrics_detail


BAD_METRICS: dict[str, tuple[Answer | PollError, Outcome]] = {
    "missing": (Answer(404, b""), Outcome.HTTP_STATUS),
    "broken off": (PollError(Outcome.CLOSED, "gone"), Outcome.CLOSED),
    "too late": (PollError(Outcome.TIMEOUT, "late"), Outcome.TIMEOUT),
    "garbage": (Answer(200, b"\x00\xff\xfe"), Outcome.BAD_BODY),
    "half an object": (Answer(200, b'{"tokens_per_second":'), Outcome.BAD_BODY),
    "not an object": (Answer(200, b"[1]"), Outcome.BAD_BODY),
    "nothing known": (Answer(200, b'{"up":1}'), Outcome.BAD_BODY),
    "negative, and nothing else": (Answer(200, b'{"tokens_per_second":-1}'), Outcome.BAD_BODY),
    "a string": (Answer(200, b'{"tokens_per_second":"42"}'), Outcome.BAD_BODY),
    "infinite": (Answer(200, b'{"tokens_per_second":1e999}'), Outcome.BAD_BODY),
    "not a number": (Answer(200, b'{"tokens_per_second":NaN}'), Outcome.BAD_BODY),
    "bad UTF-8": (Answer(200, b'{"latency_p99":"\xff"}'), Outcome.BAD_BODY),
    "HTML": (HTML, Outcome.BAD_BODY),
    "nested without end": (Answer(200, nested(b'{"error_count":1,')), Outcome.BAD_BODY),
    "an amount beyond counting": (Answer(200, b'{"tokens_per_second":1e300}'), Outcome.BAD_BODY),
    "an error count beyond counting": (Answer(200, b'{"error_count":1e16}'), Outcome.BAD_BODY),
    "a type's count beyond counting": (
        Answer(200, b'{"error_count":1,"errors":{"oom":1e16}}'),
        Outcome.BAD_BODY,
    ),
    "error types without end": (
        Answer(
            200, json.dumps({"error_count": 1, "errors": {str(n): 1 for n in range(1001)}}).encode()
        ),
        Outcome.BAD_BODY,
    ),
}


@pytest.mark.parametrize("case", BAD_METRICS)
def test_bad_figures_leave_the_instance_healthy_and_say_why(case: str) -> None:
    answer, expected = BAD_METRICS[case]

    verdict = read(answer)

    assert (Outcome.OK, expected) == (verdict.outcome, verdict.metrics_outcome)
    assert verdict.metrics_detail
    assert verdict.values is NO_VALUES


def test_one_bad_figure_costs_that_one_only() -> None:
    bad = {
        "tokens_per_second": -1,
        "latency_p99": "fast",
        "errors": {"oom": -1},
        "model": "m" * 257,
        "requests_queued": 1e300,
        "request_duration_seconds": {"buckets": {"0.33": -1}, "sum": 1},
    }

    verdict = read_body(**bad, error_count=7, requests_running=2, version="1")

    assert (Outcome.OK, Outcome.BAD_BODY) == (verdict.outcome, verdict.metrics_outcome)
    assert Values(version="1", requests_running=2.0) == verdict.values


HEALTH: dict[str, tuple[Answer | PollError, Outcome]] = {
    "status ok": (FLEET_OK, Outcome.OK),
    "empty": (Answer(200, b""), Outcome.OK),
    "a word": (Answer(200, b"OK\n"), Outcome.OK),
    "true": (Answer(200, b"true"), Outcome.OK),
    "a word as a JSON string": (Answer(200, b'"ok"'), Outcome.OK),
    "healthy": (Answer(200, b'{"healthy":true}'), Outcome.OK),
    "not healthy": (Answer(200, b'{"healthy":false}'), Outcome.BAD_BODY),
    "not healthy, whatever the status": (
        Answer(200, b'{"status":"ok","healthy":false}'),
        Outcome.BAD_BODY,
    ),
    "another word as a JSON string": (Answer(200, b'"dying"'), Outcome.BAD_BODY),
    "loading as a JSON string": (Answer(200, b'"Loading"'), Outcome.LOADING),
    "an object without a status": (Answer(200, b'{"uptime":1}'), Outcome.OK),
    "nested without end": (Answer(200, nested(b'{"status":"ok",')), Outcome.BAD_BODY),
    "503": (LLAMACPP_LOADING, Outcome.LOADING),
    "503 with nothing": (Answer(503, b""), Outcome.LOADING),
    "503 and loading": (Answer(503, b"Loading model\n"), Outcome.LOADING),
    "503 and a status": (Answer(503, b'{"status":"loading"}'), Outcome.LOADING),
    "503 of a proxy whose backend is dead": (HAPROXY_BACKEND_DEAD, Outcome.HTTP_STATUS),
    "503 nested without end": (Answer(503, nested(b"{")), Outcome.HTTP_STATUS),
    "loading, said with 200": (Answer(200, b'{"status":"loading model"}'), Outcome.LOADING),
    "false": (Answer(200, b"false"), Outcome.BAD_BODY),
    "status error": (Answer(200, b'{"status":"error"}'), Outcome.BAD_BODY),
    "garbage": (Answer(200, b"\x00\xff\xfe\x80"), Outcome.BAD_BODY),
    "HTML": (HTML, Outcome.BAD_BODY),
    "500": (Answer(500, b"oops"), Outcome.HTTP_STATUS),
    "302": (Answer(302, b""), Outcome.HTTP_STATUS),
    "403 with nothing": (Answer(403, b""), Outcome.FORBIDDEN),
    "403 with words": (Answer(403, b"no"), Outcome.HTTP_STATUS),
    "no answer": (PollError(Outcome.REFUSED, "refused"), Outcome.REFUSED),
}


@pytest.mark.parametrize("case", HEALTH)
def test_health_is_judged(case: str) -> None:
    answer, expected = HEALTH[case]

    assert expected == read(FLEET_METRICS, answer).outcome


def test_an_unhealthy_instances_figures_do_not_count() -> None:
    assert Values() == read(FLEET_METRICS, Answer(500, b"")).values
