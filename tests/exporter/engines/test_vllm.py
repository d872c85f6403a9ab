from __future__ import annotations

import pytest

from exporter.engines import vllm
from exporter.errors import PollError
from exporter.model import Answer, Outcome, Verdict
from tests.exporter.engines.bodies import EMPTY_OK, HTML, VLLM_METRICS, VLLM_VERSION


def read(
    metrics: Answer | PollError = VLLM_METRICS, health: Answer | PollError = EMPTY_OK
) -> Verdict:
    return vllm.ENGINE.read({"/health": health, "/metrics": metrics, "/version": VLLM_VERSION})


def test_the_engines_of_one_server_are_one_instance() -> None:
    verdict = read()
    values = verdict.values

    assert (Outcome.OK, Outcome.OK) == (verdict.outcome, verdict.metrics_outcome)
    assert (("meta-llama/Llama-3.1-8B-Instruct",), "0.33.0") == (values.models, values.version)
    assert (7.0, 3.0) == (values.requests_running, values.requests_queued)
    assert (1_000_001.0, 2001.0) == (values.generated_tokens_total, values.prompt_tokens_total)
    assert 97 * 0.02 == pytest.approx(values.generating_seconds_total)
    assert 0.75 == values.kv_cache_usage_ratio
    assert values.start_time_s is not None
    assert (
        ("error", 3.0),
        ("rejected_max_num_queued_reqs", 4.0),
        ("rejected_max_num_queued_tokens", 4.0),
    ) == values.errors_total


def test_its_histograms_have_its_own_boundaries() -> None:
    values = read().values

    for histogram, lowest_s, highest_s in (
        (values.request_duration, 0.3, 7680.0),
        (values.time_to_first_token, 0.001, 2560.0),
        (values.queue_time, 0.3, 7680.0),
    ):
        assert histogram is not None
        assert (lowest_s, highest_s) == (histogram.boundaries_s[0], histogram.boundaries_s[-1])
        assert 97.0 == histogram.cumulative[-1]
        assert len(histogram.boundaries_s) + 1 == len(histogram.cumulative)


def test_names_of_earlier_versions_are_read() -> None:
    page = VLLM_METRICS.body.replace(b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
    page = page.replace(b"vllm:inter_token_latency", b"vllm:time_per_output_token")

    values = read(Answer(200, page)).values

    assert 0.75 == values.kv_cache_usage_ratio
    assert 97 * 0.02 == pytest.approx(values.generating_seconds_total)


def test_a_503_is_a_dead_engine_not_one_that_loads() -> None:
    assert Outcome.HTTP_STATUS is read(health=Answer(503, b"")).outcome
    assert Outcome.REFUSED is read(health=PollError(Outcome.REFUSED, "refused")).outcome
    assert Outcome.BAD_BODY is read(health=HTML).outcome


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(Answer(404, b""), Outcome.HTTP_STATUS), (Answer(200, b"# TYPE a gauge"), Outcome.BAD_BODY)],
)
def test_a_server_without_metrics_is_healthy_and_says_which_option_to_look_at(
    answer: Answer, expected: Outcome
) -> None:
    verdict = read(answer)

    assert (Outcome.OK, expected) == (verdict.outcome, verdict.metrics_outcome)
    assert "--disable-log-stats" in verdict.metrics_detail
    assert "0.33.0" == verdict.values.version
