from __future__ import annotations

import pytest

from exporter.engines import ollama
from exporter.errors import PollError
from exporter.model import Answer, Outcome, Values
from tests.exporter.engines.bodies import (
    OLLAMA_FOREIGN_HOST,
    OLLAMA_LOADED,
    OLLAMA_ROOT,
    OLLAMA_VERSION,
    nested,
)

read = ollama.ENGINE.read


def test_a_server_with_a_model_loaded() -> None:
    verdict = read({"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/api/version": OLLAMA_VERSION})

    assert Outcome.OK == verdict.outcome
    assert Values(models=("g270:latest",), version="0.23.0") == verdict.values


def test_a_foreign_host_is_told_as_what_it_is() -> None:
    verdict = read({"/": OLLAMA_FOREIGN_HOST, "/api/ps": OLLAMA_FOREIGN_HOST})

    assert Outcome.FORBIDDEN == verdict.outcome
    assert "Host" in verdict.detail
    assert "IP address" in verdict.detail


def test_a_version_nested_without_end_costs_nothing_but_the_version() -> None:
    version = Answer(200, nested(b'{"version":"1",'))

    verdict = read({"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/api/version": version})

    assert (("g270:latest",), None) == (verdict.values.models, verdict.values.version)


def test_an_unreachable_server_says_why() -> None:
    gone = PollError(Outcome.REFUSED, "refused")

    assert Outcome.REFUSED == read({"/": gone, "/api/ps": gone}).outcome


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, b"{"), Outcome.BAD_BODY),
        (Answer(200, b'{"models":[{}]}'), Outcome.BAD_BODY),
        (Answer(200, nested(b'{"models":[],')), Outcome.BAD_BODY),
        (Answer(500, b""), Outcome.HTTP_STATUS),
        (PollError(Outcome.TIMEOUT, "late"), Outcome.TIMEOUT),
    ],
)
def test_a_broken_list_of_models_leaves_it_healthy(
    answer: Answer | PollError, expected: Outcome
) -> None:
    verdict = read({"/": OLLAMA_ROOT, "/api/ps": answer, "/api/version": OLLAMA_VERSION})

    assert (Outcome.OK, expected) == (verdict.outcome, verdict.metrics_outcome)
    assert "0.23.0" == verdict.values.version
