from __future__ import annotations

import pytest

from exporter.engines import auto
from exporter.errors import PollError
from exporter.model import Answer, EngineName, Outcome
from tests.exporter.engines.bodies import (
    FLEET_METRICS,
    FLEET_OK,
    HTML,
    LLAMACPP_LOADING,
    LLAMACPP_METRICS,
    LLAMACPP_NO_METRICS,
    LLAMACPP_NOT_FOUND,
    LLAMACPP_OK,
    OLLAMA_FOREIGN_HOST,
    OLLAMA_NOT_FOUND,
    OLLAMA_VERSION,
    nested,
)

GONE = PollError(Outcome.REFUSED, "refused")
NOT_FOUND = Answer(404, b"")


def probed(*answers: Answer | PollError) -> dict[str, Answer | PollError]:
    return dict(zip(auto.PROBES, answers, strict=True))


KNOWN: dict[str, tuple[EngineName, tuple[Answer | PollError, ...]]] = {
    "fleet": (EngineName.FLEET, (FLEET_OK, FLEET_METRICS, NOT_FOUND, NOT_FOUND)),
    "ollama": (
        EngineName.OLLAMA,
        (OLLAMA_NOT_FOUND, OLLAMA_NOT_FOUND, OLLAMA_VERSION, OLLAMA_NOT_FOUND),
    ),
    "llama-server": (
        EngineName.LLAMACPP,
        (LLAMACPP_OK, LLAMACPP_NOT_FOUND, LLAMACPP_NOT_FOUND, Answer(200, LLAMACPP_METRICS)),
    ),
    "llama-server without --metrics": (
        EngineName.LLAMACPP,
        (LLAMACPP_OK, LLAMACPP_NOT_FOUND, LLAMACPP_NOT_FOUND, LLAMACPP_NO_METRICS),
    ),
}

UNKNOWN: dict[str, tuple[Outcome, tuple[Answer | PollError, ...]]] = {
    "one that loads its model": (Outcome.LOADING, (LLAMACPP_LOADING,) * 4),
    "one that is gone": (Outcome.REFUSED, (GONE,) * 4),
    "an Ollama that does not know the Host": (Outcome.FORBIDDEN, (OLLAMA_FOREIGN_HOST,) * 4),
    "a web site": (Outcome.BAD_BODY, (HTML,) * 4),
    "nothing that we know": (Outcome.UNRECOGNISED, (NOT_FOUND,) * 4),
}


@pytest.mark.parametrize("case", KNOWN)
def test_each_kind_of_server_is_recognised(case: str) -> None:
    expected, answers = KNOWN[case]

    assert expected == auto.recognise(probed(*answers))


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_recognised_says_what_it_did(case: str) -> None:
    expected, answers = UNKNOWN[case]

    assert auto.recognise(probed(*answers)) is None
    verdict = auto.unrecognised(probed(*answers))
    assert expected == verdict.outcome
    assert verdict.detail


def test_what_two_pages_said_is_quoted_short() -> None:
    chatty = Answer(404, b"x" * 5_000)

    verdict = auto.unrecognised(probed(chatty, chatty, chatty, chatty))

    assert "/health" in verdict.detail
    assert "/api/version" in verdict.detail
    assert len(verdict.detail) <= 250


@pytest.mark.parametrize("status", [200, 503])
def test_answers_nested_without_end_are_no_known_servers(status: int) -> None:
    answers = probed(*[Answer(status, nested(b"{"))] * 4)

    assert auto.recognise(answers) is None
    assert Outcome.OK is not auto.unrecognised(answers).outcome


def test_an_unknown_server_with_a_good_health_is_healthy_without_figures() -> None:
    verdict = auto.unrecognised(probed(Answer(200, b""), NOT_FOUND, NOT_FOUND, NOT_FOUND))

    assert (Outcome.OK, Outcome.UNRECOGNISED) == (verdict.outcome, verdict.metrics_outcome)
