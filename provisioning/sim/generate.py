"""Decide what a request to generate text is answered with, and write it as Ollama does.

In:   the body of POST /api/generate or /api/chat, and the instance that is asked.
Out:  an Ask, the Work that it means (tokens and durations, in ns as Ollama reports them), and the
      JSON lines of the answer. Pure: who waits, and how long, is `generator`'s business.
Fails with RefusedError, which carries the answer.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec

from provisioning.sim.spec import Instance
from provisioning.sim.values import Life
from provisioning.sim.wire import JSON_UTF8, Request, Response

GENERATE_PATH = "/api/generate"
CHAT_PATH = "/api/chat"

NS_PER_S = 1_000_000_000
PROMPT_SPEED_FACTOR = 20
"""Prompt tokens are read so many times faster than new ones are generated."""
CHARACTERS_PER_TOKEN = 4
VOCABULARY = (
    *("the", "fleet", "answers", "quietly", "while", "each", "node", "keeps", "its", "model"),
    *("warm", "and", "a", "short", "reply", "comes", "back", "before", "you", "notice"),
)


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.response = failure(status, message)
        super().__init__(message)


class _Options(msgspec.Struct):
    num_predict: int | None = None


class _Message(msgspec.Struct):
    content: str = ""


class _Body(msgspec.Struct):
    model: str = ""
    prompt: str = ""
    messages: list[_Message] = []
    stream: bool | None = None
    options: _Options | None = None
    keep_alive: float | str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client wants generated."""

    model: str
    """As the client wrote it; the answer repeats it."""
    prompt: str
    """Empty: only load the model, or unload it."""
    is_chat: bool
    is_stream: bool
    num_predict: int | None
    is_unload: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What an Ask costs one instance."""

    tokens: tuple[str, ...]
    done_reason: str
    n_prompt_tokens: int
    load_ns: int
    prompt_ns: int
    eval_ns: int

    @property
    def total_ns(self) -> int:
        """Return how long the work takes, without waiting for a turn."""
        return self.load_ns + self.prompt_ns + self.eval_ns

    @property
    def first_token_ns(self) -> int:
        """Return how long after its turn began the first token is there."""
        return self.load_ns + self.prompt_ns + self.token_ns

    @property
    def token_ns(self) -> int:
        """Return the time between two tokens."""
        return self.eval_ns // max(1, len(self.tokens))


def read_ask(request: Request, instance: Instance) -> Ask:
    """Read what is wanted, or raise RefusedError with Ollama's answer to what cannot be had."""
    if not request.body:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "missing request body")
    try:
        body = msgspec.json.decode(request.body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
    if body.model != instance.model.name and f"{body.model}:latest" != instance.model.name:
        raise RefusedError(HTTPStatus.NOT_FOUND, f"model '{body.model}' not found")
    is_chat = request.path == CHAT_PATH
    return Ask(
        model=body.model,
        prompt="\n".join(message.content for message in body.messages) if is_chat else body.prompt,
        is_chat=is_chat,
        is_stream=body.stream is not False,
        num_predict=body.options.num_predict if body.options else None,
        is_unload=body.keep_alive == 0,
    )


def work_for(ask: Ask, instance: Instance, life: Life) -> Work:
    """Work an Ask out; the same prompt to the same instance gives the same tokens."""
    lot = zlib.crc32(ask.prompt.encode())
    n_natural = 20 + lot % 180
    limit = ask.num_predict or 0
    n_tokens = min(n_natural, limit) if limit > 0 else n_natural
    n_prompt_tokens = max(1, len(ask.prompt) // CHARACTERS_PER_TOKEN)
    step_ns = instance.release.duration_step_ns
    speed = life.tokens_per_second
    return Work(
        tokens=tuple(" " + VOCABULARY[(lot + 7 * i) % len(VOCABULARY)] for i in range(n_tokens)),
        done_reason="length" if n_tokens < n_natural else "stop",
        n_prompt_tokens=n_prompt_tokens,
        load_ns=_stepped(600_000 + lot % 2_400_000, step_ns),
        prompt_ns=_stepped(n_prompt_tokens / (speed * PROMPT_SPEED_FACTOR) * NS_PER_S, step_ns),
        eval_ns=_stepped(n_tokens / speed * NS_PER_S, step_ns),
    )


def piece_line(ask: Ask, text: str, *, now_s: float) -> bytes:
    """Write the line of one piece of a streamed answer."""
    return _line(_beginning(ask, text, now_s) | {"done": False})


def load_line(ask: Ask, *, now_s: float) -> bytes:
    """Write the answer to an Ask without a prompt, which has no numbers."""
    reason = "unload" if ask.is_unload else "load"
    return _line(_beginning(ask, "", now_s) | {"done": True, "done_reason": reason})


def last_line(ask: Ask, work: Work, text: str, *, waited_ns: int, now_s: float) -> bytes:
    """Write the object with the numbers: a stream's last line, or the whole answer with `text`.

    Time waited for a turn is in the total and in none of the parts; what is zero is left out.
    """
    numbers = {
        "total_duration": work.total_ns + waited_ns,
        "load_duration": work.load_ns,
        "prompt_eval_count": work.n_prompt_tokens,
        "prompt_eval_duration": work.prompt_ns,
        "eval_count": len(work.tokens),
        "eval_duration": work.eval_ns,
    }
    context = {} if ask.is_chat else {"context": _context(work)}
    return _line(
        _beginning(ask, text, now_s)
        | {"done": True, "done_reason": work.done_reason}
        | context
        | {name: number for name, number in numbers.items() if number}
    )


def failure(status: HTTPStatus, message: str) -> Response:
    """Write an error as Ollama does."""
    return Response(status, JSON_UTF8, json.dumps({"error": message}).encode())


def _beginning(ask: Ask, text: str, now_s: float) -> dict[str, object]:
    created = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    said: dict[str, object] = (
        {"message": {"role": "assistant", "content": text}} if ask.is_chat else {"response": text}
    )
    return {"model": ask.model, "created_at": created} | said


def _context(work: Work) -> list[int]:
    """Make up token numbers for prompt and answer."""
    return [17 + 31 * i % 32_000 for i in range(work.n_prompt_tokens + len(work.tokens))]


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def _stepped(duration_ns: float, step_ns: int) -> int:
    return int(duration_ns) // step_ns * step_ns
