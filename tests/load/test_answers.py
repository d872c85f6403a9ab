from __future__ import annotations

import errno
import socket

import pytest

from provisioning.load.answers import Failure, failure_of, judge
from provisioning.load.endpoints import Question
from provisioning.load.settings import Api

WHOLE = b'{"model":"m:1","response":"a","done":true,"done_reason":"length","eval_count":3}'
CHAT = b'{"model":"m:1","message":{"role":"assistant","content":"a"},"done":true,"eval_count":3}'
PIECE = b'{"model":"m:1","response":"a","done":false}\n'
LAST = b'{"model":"m:1","response":"","done":true,"eval_count":3}\n'
BROKEN = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
COMPLETION = (
    b'{"model":"m:1","choices":[{"index":0,"text":"a","finish_reason":"length"}],'
    b'"usage":{"completion_tokens":3}}'
)
MESSAGE = (
    b'{"model":"m:1","choices":[{"message":{"role":"assistant","content":"a"},'
    b'"finish_reason":"stop"}],"usage":{"completion_tokens":3}}'
)
DELTA = b'data: {"model":"m:1","choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
STOP = b'data: {"model":"m:1","choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"model":"m:1","choices":[],"usage":{"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def question(api: Api, *, is_stream: bool = False, model: str = "m:1") -> Question:
    return Question(api, False, model, "why?", 8, is_stream)


def test_requests_limit_tokens_as_their_api_takes_it() -> None:
    assert {
        "model": "m:1",
        "stream": False,
        "prompt": "why?",
        "options": {"num_predict": 8},
    } == question(Api.OLLAMA).body
    openai = Question(Api.OPENAI, True, "m:1", "why?", 8, True)
    assert ("/v1/chat/completions", 8) == (openai.path, openai.body["max_tokens"])
    assert [{"role": "user", "content": "why?"}] == openai.body["messages"]
    assert {"include_usage": True} == openai.body["stream_options"]


def test_whole_answers_are_no_failure_and_their_tokens_count() -> None:
    judged = [
        judge(question(api, is_stream=is_stream), 200, body)
        for api, is_stream, body in (
            (Api.OLLAMA, False, WHOLE),
            (Api.OLLAMA, False, CHAT),
            (Api.OLLAMA, False, WHOLE.replace(b"response", b"thinking")),
            (Api.OLLAMA, True, PIECE + PIECE + LAST),
            (Api.OPENAI, False, COMPLETION),
            (Api.OPENAI, False, MESSAGE),
            (Api.OPENAI, False, MESSAGE.replace(b"content", b"reasoning_content")),
            (Api.OPENAI, True, DELTA + STOP + USAGE + DONE),
        )
    ]

    assert [(None, 3)] * 8 == [(one.failure, one.n_tokens) for one in judged]


@pytest.mark.parametrize(
    ("expected", "api", "is_stream", "body"),
    [
        (Failure.INCOMPLETE, Api.OLLAMA, False, WHOLE.replace(b"true", b"false")),
        (Failure.INCOMPLETE, Api.OLLAMA, False, WHOLE[:30]),
        (Failure.INCOMPLETE, Api.OLLAMA, True, PIECE),
        (Failure.INCOMPLETE, Api.OLLAMA, True, PIECE + LAST[:20]),
        (Failure.INCOMPLETE, Api.OLLAMA, True, b""),
        (Failure.ERROR, Api.OLLAMA, True, PIECE + BROKEN),
        (Failure.EMPTY, Api.OLLAMA, True, LAST),
        (Failure.WRONG_MODEL, Api.OLLAMA, False, WHOLE.replace(b"m:1", b"m:2")),
        (Failure.INVALID, Api.OLLAMA, False, b"<html>busy</html>"),
        (Failure.INVALID, Api.OLLAMA, False, b'{"done":"yes"}'),
        (Failure.INCOMPLETE, Api.OPENAI, False, COMPLETION.replace(b'"length"', b"null")),
        (Failure.INCOMPLETE, Api.OPENAI, True, DELTA + DONE),
        (Failure.INCOMPLETE, Api.OPENAI, True, DELTA + STOP[:40]),
        (Failure.ERROR, Api.OPENAI, True, DELTA + b'data: {"error":{"message":"no"}}\n\n'),
        (Failure.EMPTY, Api.OPENAI, True, STOP + DONE),
        (Failure.WRONG_MODEL, Api.OPENAI, False, COMPLETION.replace(b"m:1", b"m:2")),
        (Failure.INVALID, Api.OPENAI, True, b"data: busy\n\n"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told_by_kind(
    expected: Failure, api: Api, is_stream: bool, body: bytes
) -> None:
    assert expected == judge(question(api, is_stream=is_stream), 200, body).failure


def test_statuses_are_failures_whatever_the_body_says() -> None:
    judged = [judge(question(Api.OLLAMA), status, WHOLE).failure for status in (200, 404, 503)]

    assert [None, Failure.HTTP_4XX, Failure.HTTP_5XX] == judged


def test_a_model_without_a_tag_is_the_latest() -> None:
    asked = question(Api.OLLAMA, model="registry:5000/m")
    answered = WHOLE.replace(b"m:1", b"registry:5000/m:latest")

    assert None is judge(asked, 200, answered).failure


def test_connections_that_fail_are_told_by_kind() -> None:
    errors: dict[BaseException, Failure] = {
        OSError(errno.ECONNREFUSED, "refused"): Failure.REFUSED,
        OSError(errno.EHOSTUNREACH, "no route"): Failure.REFUSED,
        socket.gaierror(-2, "no such name"): Failure.REFUSED,
        ConnectionResetError(errno.ECONNRESET, "reset"): Failure.CLOSED,
        TimeoutError("late"): Failure.TIMEOUT,
        ValueError("too large"): Failure.INVALID,
    }

    assert list(errors.values()) == [failure_of(error) for error in errors]
