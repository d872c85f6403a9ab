from __future__ import annotations

import pytest

from exporter.engines import tgi
from exporter.model import Answer, Outcome
from tests.exporter.engines.bodies import EMPTY_OK, TGI_INFO, TGI_METRICS, nested

read = tgi.ENGINE.read


def test_a_server_says_all_that_it_has() -> None:
    values = read({"/health": EMPTY_OK, "/metrics": TGI_METRICS, "/info": TGI_INFO}).values

    assert (("HuggingFaceH4/zephyr-7b-beta",), "3.3.6") == (values.models, values.version)
    assert (3.0, 5.0) == (values.requests_running, values.requests_queued)
    assert (180.0, 90.0) == (values.generated_tokens_total, values.prompt_tokens_total)
    assert 13.8 * 0.9 == pytest.approx(values.generating_seconds_total)
    assert values.request_duration is not None
    assert values.queue_time is not None
    assert values.request_duration.boundaries_s is values.queue_time.boundaries_s
    assert (35, 9.0) == (
        len(values.request_duration.boundaries_s),
        values.request_duration.cumulative[-1],
    )


def test_an_invalid_request_is_no_failure_of_the_server() -> None:
    errors = read({"/health": EMPTY_OK, "/metrics": TGI_METRICS}).values.errors_total

    assert (("overloaded", 1.0),) == errors


def test_a_503_is_a_dead_shard_not_one_that_loads() -> None:
    unhealthy = Answer(503, b'{"error":"unhealthy","error_type":"healthcheck"}')

    verdict = read({"/health": unhealthy, "/metrics": TGI_METRICS})

    assert Outcome.HTTP_STATUS is verdict.outcome
    assert "unhealthy" in verdict.detail


@pytest.mark.parametrize("info", [Answer(401, b""), Answer(200, b"[]"), Answer(200, nested(b"{"))])
def test_info_that_cannot_be_read_costs_only_the_name(info: Answer) -> None:
    verdict = read({"/health": EMPTY_OK, "/metrics": TGI_METRICS, "/info": info})

    assert (Outcome.OK, ()) == (verdict.metrics_outcome, verdict.values.models)
    assert not tgi.ENGINE.recognise({"/info": info})
