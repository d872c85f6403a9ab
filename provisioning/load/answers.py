"""Judge answers: whole, not empty, from the model that was asked for; tell failures by kind."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from provisioning.load.endpoints import Question
from provisioning.load.settings import Api

DATA = b"data:"
DONE = b"[DONE]"
MAX_DETAIL = 200


class Failure(StrEnum):
    """What went wrong with a request."""

    REFUSED = "refused"
    """No connection: refused, unreachable, name unknown, TLS not agreed."""
    CLOSED = "closed"
    """The connection ended before the answer began."""
    TIMEOUT = "timeout"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    INVALID = "invalid"
    """What came is neither HTTP nor JSON as the API writes it."""
    ERROR = "error"
    """Status 200, and an error in the answer."""
    INCOMPLETE = "incomplete"
    EMPTY = "empty"
    WRONG_MODEL = "wrong_model"


BY_INSTANCE = frozenset(Failure) - {Failure.HTTP_4XX, Failure.EMPTY, Failure.WRONG_MODEL}
"""Failures after which a user takes another instance."""
UNREACHABLE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})


class FailedError(Exception):
    """A request failed; Locust counts failures by this text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request for text."""

    failure: Failure | None = None
    detail: str = ""
    n_tokens: int = 0


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def text(self) -> str:
        return self.content or self.thinking or self.reasoning or self.reasoning_content or ""


class _Piece(msgspec.Struct):
    """An object of Ollama's; a zero is absent."""

    model: str = ""
    response: str = ""
    thinking: str = ""
    message: _Message | None = None
    done: bool = False
    eval_count: int = 0
    error: str = ""

    @property
    def text(self) -> str:
        return self.response or self.thinking or (self.message.text if self.message else "")


class _Choice(msgspec.Struct):
    text: str | None = None
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None

    @property
    def words(self) -> str:
        said = self.message or self.delta
        return self.text or (said.text if said else "")


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    """An object of OpenAI's."""

    model: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


PIECES = msgspec.json.Decoder(_Piece)
COMPLETIONS = msgspec.json.Decoder(_Completion)


def judge(question: Question, status: int, body: bytes) -> Answer:
    """Say what is wrong with an answer, if anything, and how many tokens it has."""
    if failure := failed_status(status):
        return Answer(failure, f"status {status}: {_shown(body)}")
    try:
        return _judged(question, body)
    except msgspec.MsgspecError as error:
        return Answer(*_unreadable(question, body, error))


def _judged(question: Question, body: bytes) -> Answer:
    if question.api is Api.OLLAMA:
        return _of_ollama(question, PIECES.decode_lines(body))
    objects = _events(body) if question.is_stream else [body]
    return _of_openai(question, [COMPLETIONS.decode(one) for one in objects])


def failed_status(status: int) -> Failure | None:
    """Return the failure that a status means."""
    if status < 400:
        return None
    return Failure.HTTP_5XX if status >= 500 else Failure.HTTP_4XX


def failure_of(error: BaseException) -> Failure:
    """Return the kind of what ended an exchange."""
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) in UNREACHABLE:
        return Failure.REFUSED
    if type(error).__name__.startswith("SSL"):
        return Failure.REFUSED
    # gevent's client is not imported here
    is_invalid = isinstance(error, ValueError) or type(error).__name__ == "HTTPParseError"
    return Failure.INVALID if is_invalid else Failure.CLOSED


def _of_ollama(question: Question, pieces: Sequence[_Piece]) -> Answer:
    if errors := [one.error for one in pieces if one.error]:
        return Answer(Failure.ERROR, errors[0][:MAX_DETAIL])
    if not pieces or not pieces[-1].done:
        return Answer(Failure.INCOMPLETE, "no object with done true")
    has_text = any(one.text for one in pieces)
    return _complete(question, pieces[-1].model, pieces[-1].eval_count, has_text=has_text)


def _of_openai(question: Question, objects: Sequence[_Completion]) -> Answer:
    if errors := [one.error for one in objects if bytes(one.error) not in (b"", b"null")]:
        return Answer(Failure.ERROR, _shown(bytes(errors[0])))
    choices = [choice for one in objects for choice in one.choices]
    if not any(one.finish_reason for one in choices):
        return Answer(Failure.INCOMPLETE, "no finish_reason")
    n_tokens = max((one.usage.completion_tokens for one in objects if one.usage), default=0)
    return _complete(
        question, objects[-1].model, n_tokens, has_text=any(one.words for one in choices)
    )


def _complete(question: Question, model: str, n_tokens: int, *, has_text: bool) -> Answer:
    """Judge a whole answer; its tokens count, whatever is wrong with it."""
    if not has_text:
        return Answer(Failure.EMPTY, "no text", n_tokens)
    if tagged(model) != tagged(question.model):
        return Answer(Failure.WRONG_MODEL, f"answer of the model {model[:MAX_DETAIL]}", n_tokens)
    return Answer(n_tokens=n_tokens)


def tagged(model: str) -> str:
    """Return a model's name with its tag, which is `latest` where none is given."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def _events(body: bytes) -> Iterable[bytes]:
    """Return the objects of a stream of server-sent events."""
    lines = (line[len(DATA) :].strip() for line in body.splitlines() if line.startswith(DATA))
    return [line for line in lines if line != DONE]


def _unreadable(question: Question, body: bytes, error: Exception) -> tuple[Failure, str]:
    """Tell an answer that breaks off from one that never was JSON."""
    begins = DATA if question.is_stream and question.api is Api.OPENAI else b"{"
    if body.startswith(begins) and "truncated" in str(error):
        return Failure.INCOMPLETE, "the answer breaks off"
    return Failure.INVALID, f"{error}: {_shown(body)}"


def _shown(body: bytes) -> str:
    return body[:MAX_DETAIL].decode("utf-8", "replace")
