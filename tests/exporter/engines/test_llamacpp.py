from __future__ import annotations

import pytest

from exporter.engines import llamacpp
from exporter.errors import PollError
from exporter.model import Answer, LoadedModel, Outcome, Values, Verdict
from tests.exporter.engines.bodies import (
    HTML,
    LLAMACPP_METRICS,
    LLAMACPP_NO_METRICS,
    LLAMACPP_OK,
    LLAMACPP_PROPS,
    LLAMACPP_ROUTER,
    nested,
)

read = llamacpp.ENGINE.read
METRICS = Answer(200, LLAMACPP_METRICS)


def test_counters_and_queue_are_read_and_the_spoilt_speed_is_not() -> None:
    verdict = read({"/health": LLAMACPP_OK, "/metrics": METRICS})

    expected = Values(
        requests_running=1.0,
        requests_queued=0.0,
        generated_tokens_total=1234570.0,
        prompt_tokens_total=7.0,
        generating_seconds_total=0.0035,
    )
    assert (Outcome.OK, expected) == (verdict.outcome, verdict.values)


def test_the_model_and_the_build_are_read_when_asked() -> None:
    props = Answer(200, LLAMACPP_PROPS)

    values = read({"/health": LLAMACPP_OK, "/metrics": METRICS, "/props": props}).values

    assert (("tiny",), "b0-unknown") == (values.models, values.version)


def test_without_an_alias_the_models_file_name_counts() -> None:
    props = Answer(200, b'{"model_path":"/models/gemma.gguf"}')

    values = read({"/health": LLAMACPP_OK, "/metrics": METRICS, "/props": props}).values

    assert ("gemma.gguf",) == values.models


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_counter_on_the_first_line_is_found(line_end: bytes) -> None:
    lines = (
        b"# TYPE llamacpp:tokens_predicted_total counter",
        b"llamacpp:tokens_predicted_total 1",
    )
    page = line_end.join((*lines, b"# HELP more", b""))

    values = read({"/health": LLAMACPP_OK, "/metrics": Answer(200, page)}).values

    assert 1.0 == values.generated_tokens_total


def test_one_bad_sample_costs_that_one_only() -> None:
    page = LLAMACPP_METRICS.replace(b"requests_deferred 0", b"requests_deferred -3")

    verdict = read({"/health": LLAMACPP_OK, "/metrics": Answer(200, page)})

    assert Outcome.BAD_BODY is verdict.metrics_outcome
    assert (None, 1.0) == (verdict.values.requests_queued, verdict.values.requests_running)
    assert 1234570.0 == verdict.values.generated_tokens_total


def test_metrics_not_switched_on_leave_it_healthy_and_say_so() -> None:
    verdict = read({"/health": LLAMACPP_OK, "/metrics": LLAMACPP_NO_METRICS})

    assert (Outcome.OK, Outcome.HTTP_STATUS) == (verdict.outcome, verdict.metrics_outcome)
    assert "--metrics" in verdict.metrics_detail


@pytest.mark.parametrize(
    "page",
    [
        HTML.body,
        b"",
        b"llamacpp:tokens_predicted_total",
        b"llamacpp:tokens_predicted_total many",
        b"llamacpp:tokens_predicted_total NaN",
        b"llamacpp:tokens_predicted_total -1",
        b"llamacpp:tokens_predicted_total +Inf",
        b"llamacpp:tokens_predicted_total 1e16",
        b"xllamacpp:tokens_predicted_total 1",
        b"llamacpp:tokens_predicted_total_more 1",
    ],
)
def test_a_page_without_usable_counters_leaves_it_healthy(page: bytes) -> None:
    page = b"# TYPE llamacpp:tokens_predicted_total counter\n" + page

    verdict = read({"/health": LLAMACPP_OK, "/metrics": Answer(200, page)})

    assert (Outcome.OK, Outcome.BAD_BODY) == (verdict.outcome, verdict.metrics_outcome)


@pytest.mark.parametrize(
    "props",
    [
        Answer(401, b""),
        Answer(200, b"\xff"),
        Answer(200, nested(b"{")),
        PollError(Outcome.TIMEOUT, "late"),
    ],
)
def test_guarded_or_broken_props_cost_nothing_but_the_name(props: Answer | PollError) -> None:
    verdict = read({"/health": LLAMACPP_OK, "/metrics": METRICS, "/props": props})

    assert (Outcome.OK, ()) == (verdict.metrics_outcome, verdict.values.models)


def test_a_router_is_asked_for_its_models_and_never_loads_one() -> None:
    identified = {"/health": LLAMACPP_OK, "/metrics": LLAMACPP_ROUTER}
    models = (
        b'{"object":"list","data":[{"id":"b","status":{"value":"loaded","args":[]}},'
        b'{"id":"a:latest","status":{"value":"loaded"}},{"id":"c","status":{"value":"unloaded"}}]}'
    )

    asked = llamacpp.ENGINE.requests_for(identified)
    verdict = read({"/health": LLAMACPP_OK, "/v1/models": Answer(200, models)})

    assert ("/health", "/v1/models") == asked
    assert Verdict(Outcome.OK) == read(identified)
    expected = Values(models=("a", "b"), loaded=(LoadedModel("a"), LoadedModel("b")))
    assert Verdict(Outcome.OK, values=expected) == verdict


@pytest.mark.parametrize("body", [b"{", b'{"data":[{"id":"a"}]}', nested(b"{")])
def test_a_router_whose_models_cannot_be_read_is_healthy(body: bytes) -> None:
    verdict = read({"/health": LLAMACPP_OK, "/v1/models": Answer(200, body)})

    assert (Outcome.OK, Outcome.BAD_BODY) == (verdict.outcome, verdict.metrics_outcome)
    assert verdict.values.loaded is None


def test_a_bad_record_of_a_routers_list_costs_itself() -> None:
    good = b'{"id":"b","status":{"value":"loaded"}}'
    bad = (b'{"id":"a"}', b"7", b'{"id":1,"status":{}}', b'{"id":"c","status":[]}')
    body = b'{"data":[' + b",".join((*bad, good)) + b"]}"

    verdict = read({"/health": LLAMACPP_OK, "/v1/models": Answer(200, body)})

    assert (LoadedModel("b"),) == verdict.values.loaded
    assert (Outcome.OK, Outcome.BAD_BODY) == (verdict.outcome, verdict.metrics_outcome)
    assert "/v1/models: lacks status" in verdict.metrics_detail
