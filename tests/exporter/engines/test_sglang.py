from __future__ import annotations

import pytest

from exporter.engines import sglang
from exporter.errors import PollError
from exporter.model import Answer, Outcome
from tests.exporter.engines.bodies import EMPTY_OK, SGLANG_METRICS, SGLANG_MODEL_INFO

NOT_FOUND = Answer(404, b'{"detail":"Not Found"}')
SERVER_INFO = Answer(200, b'{"version":"0.5.23","internal_states":[{}]}')

read = sglang.ENGINE.read


def test_a_server_says_all_that_it_has() -> None:
    answers = {"/ready": EMPTY_OK, "/metrics": SGLANG_METRICS}

    values = read(answers).values

    assert (2.0, 4.0) == (values.requests_running, values.requests_queued)
    assert (600.0, 300.0) == (values.generated_tokens_total, values.prompt_tokens_total)
    assert (84.6, 0.31) == (values.tokens_per_second, values.kv_cache_usage_ratio)
    assert (("http_500", 1.0),) == values.errors_total
    assert ("qwen/qwen2.5-7b-instruct",) == values.models
    for histogram, n, n_boundaries in (
        (values.request_duration, 30.0, 22),
        (values.time_to_first_token, 30.0, 18),
        (values.queue_time, 3.0, 40),
    ):
        assert histogram is not None
        assert (n, n_boundaries) == (histogram.cumulative[-1], len(histogram.boundaries_s))


def test_model_and_version_are_read_when_asked() -> None:
    answers = {"/ready": EMPTY_OK, "/metrics": SGLANG_METRICS, "/model_info": SGLANG_MODEL_INFO}

    values = read({**answers, "/server_info": SERVER_INFO}).values

    assert (("qwen",), "0.5.23") == (values.models, values.version)


def test_the_ranks_of_one_model_are_counted_once() -> None:
    line = next(
        line
        for line in SGLANG_METRICS.body.splitlines(keepends=True)
        if line.startswith(b"sglang:num_running_reqs{")
    )
    ranks = [line.replace(b'tp_rank="0"', b'tp_rank="%d"' % rank) for rank in range(8)]
    page = SGLANG_METRICS.body.replace(line, b"".join(ranks))

    assert 2.0 == read({"/ready": EMPTY_OK, "/metrics": Answer(200, page)}).values.requests_running


def test_an_idle_server_has_no_speed() -> None:
    page = SGLANG_METRICS.body.replace(b"} 84.6", b"} 0.0")

    assert (
        read({"/ready": EMPTY_OK, "/metrics": Answer(200, page)}).values.tokens_per_second is None
    )


def test_its_health_is_never_asked() -> None:
    """It generates a token, and waits a second for it."""
    engine = sglang.ENGINE
    asked = {*engine.requests, *engine.identity_requests, *engine.costly_requests, *engine.probes}
    for ready in (EMPTY_OK, NOT_FOUND):
        asked.update(engine.requests_for({"/ready": ready}))

    assert not [path for path in asked if "health" in path]


@pytest.mark.parametrize("ready", [EMPTY_OK, Answer(503, b""), PollError(Outcome.TIMEOUT, "late")])
def test_a_server_with_ready_is_asked_for_it(ready: Answer | PollError) -> None:
    assert ("/ready", "/metrics") == sglang.ENGINE.requests_for({"/ready": ready})


def test_an_older_server_is_judged_by_its_model_info() -> None:
    identified = {"/ready": NOT_FOUND, "/model_info": SGLANG_MODEL_INFO, "/metrics": SGLANG_METRICS}

    assert ("/model_info", "/metrics") == sglang.ENGINE.requests_for(identified)
    assert Outcome.OK is read(identified).outcome
    polled = {"/model_info": Answer(500, b""), "/metrics": SGLANG_METRICS}
    assert Outcome.HTTP_STATUS is read(polled).outcome


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        (Answer(503, b""), Outcome.LOADING),
        (Answer(500, b""), Outcome.HTTP_STATUS),
        (PollError(Outcome.REFUSED, "refused"), Outcome.REFUSED),
    ],
)
def test_a_server_that_is_not_ready_says_why(ready: Answer | PollError, expected: Outcome) -> None:
    assert expected is read({"/ready": ready, "/metrics": SGLANG_METRICS}).outcome


def test_metrics_not_switched_on_leave_it_healthy_and_say_so() -> None:
    verdict = read({"/ready": EMPTY_OK, "/metrics": NOT_FOUND})

    assert (Outcome.OK, Outcome.HTTP_STATUS) == (verdict.outcome, verdict.metrics_outcome)
    assert "--enable-metrics" in verdict.metrics_detail
