from __future__ import annotations

import pytest

from exporter.engines import ollama
from exporter.errors import PollError
from exporter.model import Answer, LoadedModel, Outcome, Values, Verdict
from tests.exporter.engines.bodies import (
    OLLAMA_FOREIGN_HOST,
    OLLAMA_LOADED,
    OLLAMA_NOT_FOUND,
    OLLAMA_ROOT,
    OLLAMA_VERSION,
    nested,
)

read = ollama.ENGINE.read


def test_a_server_with_a_model_loaded() -> None:
    verdict = read({"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/api/version": OLLAMA_VERSION})

    assert Outcome.OK == verdict.outcome
    loaded = LoadedModel("g270", 477_798_912.0, 0.0, 1_795_502_552.32931, 4096.0)
    assert Values(models=("g270",), version="0.23.0", loaded=(loaded,)) == verdict.values


def test_a_foreign_host_is_told_as_what_it_is() -> None:
    verdict = read({"/": OLLAMA_FOREIGN_HOST, "/api/ps": OLLAMA_FOREIGN_HOST})

    assert Outcome.FORBIDDEN == verdict.outcome
    assert "Host" in verdict.detail
    assert "IP address" in verdict.detail


def test_a_version_nested_without_end_costs_nothing_but_the_version() -> None:
    version = Answer(200, nested(b'{"version":"1",'))

    verdict = read({"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/api/version": version})

    assert (("g270",), None) == (verdict.values.models, verdict.values.version)


def test_an_unreachable_server_says_why() -> None:
    gone = PollError(Outcome.REFUSED, "refused")

    assert Outcome.REFUSED == read({"/": gone, "/api/ps": gone}).outcome


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, b"{"), Outcome.BAD_BODY),
        (Answer(200, b'{"models":{}}'), Outcome.BAD_BODY),
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


def with_loaded(*records: str) -> Verdict:
    body = f'{{"models":[{",".join(records)}]}}'.encode()
    return read({"/": OLLAMA_ROOT, "/api/ps": Answer(200, body)})


def with_installed(body: bytes) -> Verdict:
    return read({"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/api/tags": Answer(200, body)})


@pytest.mark.parametrize("body", [b'{"models":[]}', b'{"models":null}'])
def test_nothing_loaded_or_installed_is_told_from_not_said(body: bytes) -> None:
    answers = {"/": OLLAMA_ROOT, "/api/ps": Answer(200, body), "/api/tags": Answer(200, body)}

    assert Verdict(Outcome.OK, values=Values(loaded=(), installed=())) == read(answers)
    assert read({"/": OLLAMA_ROOT, "/api/ps": Answer(200, body)}).values.installed is None


def test_loaded_models_are_sorted_bounded_and_written_without_latest() -> None:
    values = with_loaded(*[f'{{"name":"m{n:02}:latest"}}' for n in reversed(range(40))]).values

    assert tuple(f"m{n:02}" for n in range(32)) == values.models
    assert values.loaded is not None
    assert values.models == tuple(model.name for model in values.loaded)


def test_a_model_that_is_listed_twice_is_one() -> None:
    """Each name is a series of the instance: a scrape must not hold one twice."""
    values = with_loaded('{"name":"m"}', '{"name":"m:latest"}', '{"name":"a"}').values

    assert ("a", "m") == values.models


@pytest.mark.parametrize(
    ("expires_at", "expected"),
    [
        ("2026-11-24T06:42:32Z", 1_795_502_552.0),
        ("2026-11-24T07:42:32.000000000+01:00", 1_795_502_552.0),
        ("2318-09-24T10:10:10.123456789Z", None),  # keep_alive: -1
        ("0001-01-01T00:00:00Z", None),
    ],
)
def test_a_model_that_never_expires_has_no_expiry(expires_at: str, expected: float | None) -> None:
    (model,) = with_loaded(f'{{"name":"m","expires_at":"{expires_at}"}}').values.loaded or ()

    assert expected == model.expires_at_s


def test_a_bad_record_costs_itself_and_a_bad_value_costs_that_value() -> None:
    verdict = with_loaded(
        '{"name":"a","size":-1,"size_vram":5,"expires_at":"soon"}',
        '{"size":1}',
        '{"name":""}',
        "7",
        '{"name":"b","context_length":"many"}',
        '{"name":"' + "c" * 257 + '"}',
    )

    assert (LoadedModel("a", vram_bytes=5.0), LoadedModel("b")) == verdict.values.loaded
    assert (Outcome.OK, Outcome.BAD_BODY) == (verdict.outcome, verdict.metrics_outcome)
    assert "/api/ps" in verdict.metrics_detail
    assert "/api/ps: lacks name" in with_loaded("{}").metrics_detail
    assert len(verdict.metrics_detail) <= 201


def test_of_installed_models_only_names_are_read_and_only_some_are_kept() -> None:
    records = [f'{{"name":"m{n:03}:latest","details":{{"family":1}}}}' for n in range(300)]
    body = f'{{"models":[{",".join(records)},{{"name":"m000"}}]}}'.encode()

    installed = with_installed(body).values.installed

    assert tuple(f"m{n:03}" for n in range(200)) == installed
    assert installed is with_installed(body).values.installed


@pytest.mark.parametrize(
    ("body", "expected"), [(b"[]", None), (b'{"models":[{"name":1},{"name":"b"}]}', ("b",))]
)
def test_bad_installed_models_leave_the_loaded_ones(
    body: bytes, expected: tuple[str, ...] | None
) -> None:
    verdict = with_installed(body)

    assert (("g270",), expected) == (verdict.values.models, verdict.values.installed)
    assert Outcome.BAD_BODY is verdict.metrics_outcome
    assert "/api/tags" in verdict.metrics_detail


def test_a_server_without_a_list_of_installed_models_does_not_say() -> None:
    answers = {"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/api/tags": OLLAMA_NOT_FOUND}

    verdict = read(answers)

    assert (Outcome.OK, None) == (verdict.metrics_outcome, verdict.values.installed)
    refused = {**answers, "/api/tags": Answer(500, b"")}
    assert Outcome.HTTP_STATUS is read(refused).metrics_outcome


PROPOSED = b"""\
# TYPE ollama_requests_queued gauge
ollama_requests_queued 2
# TYPE ollama_prompt_eval_total counter
ollama_prompt_eval_total 60
# TYPE ollama_eval_total counter
ollama_eval_total 200
# TYPE ollama_eval_duration_seconds counter
ollama_eval_duration_seconds 5
"""
OTHERS_PROPOSED = b"""\
# TYPE ollama_eval_total counter
ollama_eval_total{model="a",reason="stop"} 150
ollama_eval_total{model="b",reason="stop"} 50
# TYPE ollama_eval_duration_total counter
ollama_eval_duration_total{model="a",reason="stop"} 5
"""


@pytest.mark.parametrize(("page", "queued"), [(PROPOSED, 2.0), (OTHERS_PROPOSED, None)])
def test_proposed_metrics_are_read_where_a_server_has_them(
    page: bytes, queued: float | None
) -> None:
    answers = {"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/metrics": Answer(200, page)}

    values = read(answers).values

    assert ("/", "/api/ps", "/metrics") == ollama.ENGINE.requests_for(answers)
    assert (200.0, 5.0) == (values.generated_tokens_total, values.generating_seconds_total)
    assert (queued, ("g270",)) == (values.requests_queued, values.models)


@pytest.mark.parametrize("answer", [OLLAMA_NOT_FOUND, Answer(200, b"# TYPE go_info gauge\n")])
def test_a_server_without_metrics_of_ollama_is_not_asked_again(answer: Answer) -> None:
    answers = {"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/metrics": answer}

    assert ("/", "/api/ps") == ollama.ENGINE.requests_for(answers)
    assert Outcome.OK is read(answers).metrics_outcome


def test_metrics_that_come_too_late_cost_only_themselves() -> None:
    late = PollError(Outcome.TIMEOUT, "late")

    verdict = read({"/": OLLAMA_ROOT, "/api/ps": OLLAMA_LOADED, "/metrics": late})

    assert (Outcome.TIMEOUT, ("g270",)) == (verdict.metrics_outcome, verdict.values.models)
