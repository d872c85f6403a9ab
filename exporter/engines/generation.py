"""What a canary sends to an engine, and how its streamed answer is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from exporter.engines.base import Amount, decode_json, excerpt
from exporter.errors import PollError
from exporter.model import Context, Generation, Outcome

MAX_LINES = 1000
"""Maximum number of lines of one answer: one per token, and a few at its end."""


class Prompt(NamedTuple):
    """What an instance is asked to generate."""

    model: str
    """Empty where it is not known; then the server has only one."""
    text: str
    n_tokens: int
    keep_alive: str | int | None = None
    """Ollama's: how long the model stays in memory afterwards; None leaves that to the server."""
    context_length: float | None = None
    """The context length of the loaded model: Ollama reloads it for a request with another one."""


class TimedLine(NamedTuple):
    """A line of the answer, and when it was complete, in seconds since the request was sent."""

    text: bytes
    arrived_s: float


@dataclass(frozen=True, slots=True)
class TrainedRequest:
    """How to ask for the context length that a model was trained with, and which one to send."""

    path: str
    body: Callable[[str], bytes]
    read: Callable[[bytes], float | None]
    sent_context: Callable[[float | None, Context], float | None]
    """Return the context length to send, given the loaded one."""


@dataclass(frozen=True, slots=True)
class CanaryRequest:
    """How to ask for a generation, and how to read its answer."""

    path: str
    body: Callable[[Prompt], bytes]
    read: Callable[[Sequence[TimedLine]], Generation]
    """Raises PollError where the answer is no whole generation."""
    needs_loaded: bool = False
    """Whether an instance is only asked if it lists the model as loaded.

    An instance that lists its loaded models is asked only for one of them in any case."""
    is_checked_first: bool = False
    """Whether the poll's requests are sent again right before the canary: they cost little, and say
    whether the server is busy and how long the model stays loaded."""
    trained: TrainedRequest | None = None


def timed_lines(
    body: bytes, arrivals: Sequence[tuple[int, float]], sent_s: float
) -> list[TimedLine]:
    """Return the lines of a body that are not empty, with the time at which each was whole.

    Args:
        body: The whole answer.
        arrivals: (bytes that had arrived, when), on the clock of `sent_s`.
        sent_s: When the request was sent.
    """
    lines: list[TimedLine] = []
    end, pending = 0, iter(arrivals)
    n_come, come_s = next(pending, (len(body), sent_s))
    for line in body.split(b"\n", MAX_LINES)[:MAX_LINES]:
        end += len(line) + 1
        while n_come < min(end, len(body)):
            n_come, come_s = next(pending, (len(body), come_s))
        if text := line.strip():
            lines.append(TimedLine(text, come_s - sent_s))
    return lines


END_OF_EVENTS = b"[DONE]"
ERROR = b'{"error"'


def events(lines: Sequence[TimedLine], path: str) -> Iterator[TimedLine]:
    """Yield the data of server-sent events up to the last one.

    Raises:
        PollError: BAD_BODY. There is an error among them.
    """
    for line in lines:
        kind, _, data = line.text.partition(b":")
        data = data.strip()
        if data == END_OF_EVENTS:
            return
        if kind == b"error" or data.startswith(ERROR):
            raise PollError(Outcome.BAD_BODY, f"{path}: {excerpt(data)}")
        if kind == b"data":
            yield TimedLine(data, line.arrived_s)


class _Choice(msgspec.Struct, gc=False):
    text: str = ""


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: Amount = 0


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decode_event = msgspec.json.Decoder(_Event).decode

COMPLETIONS = "/v1/completions"


def completions_body(prompt: Prompt) -> bytes:
    """Return the body of OpenAI's request for a completion."""
    body = {
        "prompt": prompt.text,
        "max_tokens": prompt.n_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return msgspec.json.encode({"model": prompt.model} | body if prompt.model else body)


def read_completions(lines: Sequence[TimedLine]) -> Generation:
    """Read a completion: the speed is that of the tokens after the first one.

    Raises:
        PollError: BAD_BODY. It is none, or has no token.
    """
    arrivals_s: list[float] = []
    n_tokens = 0.0
    for event in events(lines, COMPLETIONS):
        piece = decode_json(_decode_event, event.text, COMPLETIONS)
        if piece.usage is not None:
            n_tokens = max(n_tokens, piece.usage.completion_tokens)
        if any(choice.text for choice in piece.choices):
            arrivals_s.append(event.arrived_s)
    if not arrivals_s:
        raise PollError(Outcome.BAD_BODY, f"{COMPLETIONS}: the answer has no token")
    n_tokens = n_tokens or float(len(arrivals_s))
    return Generation(
        n_tokens=n_tokens,
        tokens_per_second=speed(n_tokens - 1, arrivals_s[-1] - arrivals_s[0]),
        time_to_first_token_s=arrivals_s[0],
    )


def speed(n_tokens: float, spent_s: float) -> float | None:
    """Return tokens per second; None if too little was generated."""
    return n_tokens / spent_s if n_tokens >= 1 and spent_s > 0 else None


COMPLETIONS_CANARY = CanaryRequest(COMPLETIONS, completions_body, read_completions)
