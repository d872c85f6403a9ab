from __future__ import annotations

from collections.abc import Mapping

import pytest

from exporter.engines import auto
from exporter.engines.base import HEALTH
from exporter.errors import PollError
from exporter.model import Answer, Outcome
from tests.exporter.engines.bodies import (
    FLEET_METRICS,
    FLEET_OK,
    HTML,
    LLAMACPP_LOADING,
    LLAMACPP_METRICS,
    LLAMACPP_NO_METRICS,
    LLAMACPP_ROUTER,
    OLLAMA_FOREIGN_HOST,
    OLLAMA_VERSION,
    SGLANG_METRICS,
    SGLANG_MODEL_INFO,
    TGI_INFO,
    TGI_METRICS,
    VLLM_METRICS,
    nested,
)

GONE = PollError(Outcome.REFUSED, "refused")
NOT_FOUND = Answer(404, b"")


PATHS = (*auto.PROBES, HEALTH)


def answers_of(
    by_path: Mapping[str, Answer | PollError], rest: Answer | PollError = NOT_FOUND
) -> dict[str, Answer | PollError]:
    """Return the answers to all probes and to `/health`: those given, and the rest."""
    return {path: by_path.get(path, rest) for path in PATHS}


KNOWN: dict[str, tuple[str, Mapping[str, Answer | PollError]]] = {
    "fleet": ("fleet", {"/health": FLEET_OK, "/api/metrics": FLEET_METRICS}),
    "ollama": ("ollama", {"/api/version": OLLAMA_VERSION}),
    "llama-server": ("llamacpp", {"/metrics": Answer(200, LLAMACPP_METRICS)}),
    "llama-server as a router": ("llamacpp", {"/metrics": LLAMACPP_ROUTER}),
    "vLLM": ("vllm", {"/metrics": VLLM_METRICS}),
    "SGLang": ("sglang", {"/metrics": SGLANG_METRICS}),
    "SGLang without --enable-metrics": ("sglang", {"/model_info": SGLANG_MODEL_INFO}),
    "TGI": ("tgi", {"/info": TGI_INFO, "/metrics": TGI_METRICS}),
    "llama-server without --metrics": ("llamacpp", {"/metrics": LLAMACPP_NO_METRICS}),
}

UNKNOWN: dict[str, tuple[Outcome, Answer | PollError]] = {
    "one that loads its model": (Outcome.LOADING, LLAMACPP_LOADING),
    "one that is gone": (Outcome.REFUSED, GONE),
    "an Ollama that does not know the Host": (Outcome.FORBIDDEN, OLLAMA_FOREIGN_HOST),
    "a web site": (Outcome.BAD_BODY, HTML),
    "nothing that we know": (Outcome.UNRECOGNISED, NOT_FOUND),
}


@pytest.mark.parametrize("case", KNOWN)
def test_each_kind_of_server_is_recognised(case: str) -> None:
    expected, answers = KNOWN[case]

    assert expected == auto.recognise(answers_of(answers))


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_recognised_says_what_it_did(case: str) -> None:
    expected, answer = UNKNOWN[case]
    answers = answers_of({}, answer)

    assert auto.recognise(answers) is None
    verdict = auto.unrecognised(answers)
    assert expected == verdict.outcome
    assert verdict.detail


def test_one_that_answered_no_probe_is_not_asked_for_its_health() -> None:
    probed = dict.fromkeys(auto.PROBES, GONE)

    assert not auto.has_answered(probed)
    assert Outcome.REFUSED is auto.unrecognised(probed).outcome


def test_no_probe_costs_a_generation() -> None:
    """SGLang generates a token for each `/health` and `/health_generate`."""
    assert not [path for path in auto.PROBES if "health" in path]


def test_what_two_pages_said_is_quoted_short() -> None:
    chatty = Answer(404, b"x" * 5_000)

    verdict = auto.unrecognised(answers_of({}, chatty))

    assert "/health" in verdict.detail
    assert "/api/version" in verdict.detail
    assert len(verdict.detail) <= 250


@pytest.mark.parametrize("status", [200, 503])
def test_answers_nested_without_end_are_no_known_servers(status: int) -> None:
    answers = answers_of({}, Answer(status, nested(b"{")))

    assert auto.recognise(answers) is None
    assert Outcome.OK is not auto.unrecognised(answers).outcome


def test_an_unknown_server_with_a_good_health_is_healthy_without_figures() -> None:
    verdict = auto.unrecognised(answers_of({HEALTH: Answer(200, b"")}))

    assert (Outcome.OK, Outcome.UNRECOGNISED) == (verdict.outcome, verdict.metrics_outcome)
