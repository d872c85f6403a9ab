"""What an engine is, and what engines share.

In:   the answers to one poll, by path.
Out:  a Verdict. Nothing here does I/O, keeps state or raises for what an instance sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from exporter.errors import PollError
from exporter.model import Answer, EngineName, Outcome, Values, Verdict

Answers = Mapping[str, Answer | PollError]

MAX_DETAIL_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Engine:
    """A server kind: what to ask it, and how to read what it says."""

    name: EngineName
    requests: tuple[str, ...]
    """Paths asked at each poll, the health check first."""
    read: Callable[[Answers], Verdict]
    identity_requests: tuple[str, ...] = ()
    """Paths asked as well when an instance is new, came back, or was last identified long ago."""


class _HealthBody(msgspec.Struct, gc=False):
    status: str | bool | None = None


_decode_health = msgspec.json.Decoder(_HealthBody | bool).decode

USUAL_BODIES = frozenset((b'{"status":"ok"}', b"", b"OK", b"ok"))
"""What nearly every health check answers, known without being parsed."""
GOOD_WORDS = frozenset(("ok", "healthy", "up", "pass", "ready", "alive"))
LOADING_WORDS = frozenset(("loading", "loading model", "starting"))


def read_health(answer: Answer | PollError) -> Verdict:
    """Judge the answer to a `/health` request.

    Healthy is 200 with an empty body, one of a few words, or a JSON object whose `status` is one of
    them or missing. A page of HTML from some proxy is not. 503 is loading: llama-server and the
    `fleet` engine's servers answer so until their model is in memory.
    """
    if isinstance(answer, PollError):
        return Verdict(answer.outcome, answer.detail)
    if answer.status == 200 and answer.body in USUAL_BODIES:
        return HEALTHY
    if answer.status == 503:
        return Verdict(Outcome.LOADING, f"503: {excerpt(answer.body)}")
    if answer.status != 200:
        return status_verdict("/health", answer)
    return _judge_word(_health_word(answer.body), answer.body)


def _health_word(body: bytes) -> str:
    """Return the health that a body claims, as a lower-case word; the empty string for good."""
    try:
        claim = _decode_health(body)
    except msgspec.DecodeError:
        return body[:MAX_DETAIL_CHARACTERS].decode(errors="replace").strip().lower()
    status = claim.status if isinstance(claim, _HealthBody) else claim
    if status is None or status is True:
        return ""
    return str(status).lower()


def _judge_word(word: str, body: bytes) -> Verdict:
    if not word or word in GOOD_WORDS:
        return HEALTHY
    if word in LOADING_WORDS:
        return Verdict(Outcome.LOADING, excerpt(body))
    return Verdict(Outcome.BAD_BODY, f"/health answered 200 with: {excerpt(body)}")


HEALTHY = Verdict(Outcome.OK)


def status_verdict(path: str, answer: Answer) -> Verdict:
    """Return the verdict on an answer whose status is not a good one."""
    if answer.status == 403 and not answer.body:
        return Verdict(
            Outcome.FORBIDDEN,
            f"{path} answered 403 with an empty body: so does an Ollama that is bound to loopback "
            "when the Host is a name it does not know; list the instance by IP address instead",
        )
    said = f": {excerpt(answer.body)}" if answer.body else ""
    return Verdict(Outcome.HTTP_STATUS, f"{path} answered {answer.status}{said}")


def healthy(values: Values) -> Verdict:
    """Return the verdict on an instance that is well and told its figures."""
    return Verdict(Outcome.OK, values=values)


def without_figures(outcome: Outcome, detail: str, values: Values | None = None) -> Verdict:
    """Return the verdict on an instance that is well, but whose figures could not be read."""
    return Verdict(
        Outcome.OK, values=values or Values(), metrics_outcome=outcome, metrics_detail=detail
    )


def metrics_body(path: str, answer: Answer | PollError) -> bytes:
    """Return the body of an answer with figures.

    Raises:
        PollError: The request failed, or its status is not 200.
    """
    if isinstance(answer, PollError):
        raise answer
    if answer.status != 200:
        verdict = status_verdict(path, answer)
        raise PollError(verdict.outcome, verdict.detail)
    return answer.body


def excerpt(body: bytes) -> str:
    """Return the start of a body as one printable line, for messages."""
    text = body[:MAX_DETAIL_CHARACTERS].decode(errors="replace")
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(body) <= MAX_DETAIL_CHARACTERS else f"{shown}…"
