"""The cost of a generation, and its answer in the forms of Ollama and OpenAI."""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from provisioning.simulator.endpoints import (
    NS_PER_S,
    ErrorWriter,
    ModelJob,
    Operation,
    encode_json,
    timestamp,
)
from provisioning.simulator.instance import Lifetime
from provisioning.simulator.spec import Instance, Model
from provisioning.simulator.wire import EVENT_STREAM, JSON, JSON_UTF8, NDJSON, Response

PROMPT_SPEED_FACTOR = 20
"""How many times faster prompt tokens are read than new ones are generated."""
LOAD_BYTES_PER_S = 2_000_000_000
"""How fast a model's weights come into memory."""
CHARACTERS_PER_TOKEN = 4
EMBEDDING_LENGTH = 64
"""Short, so that answers are; real models have thousands of numbers."""
VOCABULARY = (
    *("the", "fleet", "answers", "quietly", "while", "each", "node", "keeps", "its", "model"),
    *("warm", "and", "a", "short", "reply", "comes", "back", "before", "you", "notice"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """What an ModelJob costs one instance."""

    tokens: tuple[str, ...]
    done_reason: str
    n_prompt_tokens: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    eval_ns: int = 0

    @property
    def total_ns(self) -> int:
        """Return how long the work takes, without waiting for a turn."""
        return self.load_ns + self.prompt_ns + self.eval_ns

    @property
    def text(self) -> str:
        """Return all that is generated."""
        return "".join(self.tokens)

    def due_ns(self, n_tokens: int) -> int:
        """Return how long after the start of its turn `n_tokens` are there."""
        return self.load_ns + self.prompt_ns + self.token_ns * n_tokens

    @property
    def token_ns(self) -> int:
        """Return the time between two tokens."""
        return self.eval_ns // max(1, len(self.tokens))


def work_for(job: ModelJob, instance: Instance, life: Lifetime, *, cold_ns: int) -> Work:
    """Work an ModelJob out; the same prompt to the same instance gives the same tokens.

    `cold_ns` is what loading the model took; for a loaded one, the load takes a moment too.
    """
    text = "".join(job.inputs) or job.prompt
    lot = zlib.crc32(text.encode("utf-8", "replace"))
    n_natural = 20 + lot % 180 if job.prompt and not job.inputs else 0
    n_tokens = min(n_natural, job.num_predict) if job.num_predict > 0 else n_natural
    n_prompt_tokens = max(1, len(text) // CHARACTERS_PER_TOKEN)
    step_ns = instance.release.runner_step_ns
    speed = life.tokens_per_second
    return Work(
        tokens=tuple(" " + VOCABULARY[(lot + 7 * i) % len(VOCABULARY)] for i in range(n_tokens)),
        done_reason="length" if n_tokens < n_natural else "stop",
        n_prompt_tokens=n_prompt_tokens,
        load_ns=cold_ns + 600_000 + lot % 2_400_000,
        prompt_ns=_stepped(n_prompt_tokens / (speed * PROMPT_SPEED_FACTOR) * NS_PER_S, step_ns),
        eval_ns=_stepped(n_tokens / speed * NS_PER_S, step_ns),
    )


def cold_ns(model: Model) -> int:
    """Return how long it takes to load a model into memory."""
    return model.size_bytes * NS_PER_S // LOAD_BYTES_PER_S


def embedding(text: str) -> list[float]:
    """Make up a vector of length 1; the same text gives the same one."""
    dice = random.Random(text)  # noqa: S311 - not for secrets, and it has to be the same one
    vector = [dice.uniform(-1.0, 1.0) for _ in range(EMBEDDING_LENGTH)]
    length = math.hypot(*vector)
    return [round(number / length, 8) for number in vector]


class AnswerWriter(ErrorWriter, Protocol):
    """How an API words its answers."""

    is_openai: bool
    whole_type: str
    stream_type: str

    def piece(self, job: ModelJob, text: str, *, now_s: float) -> bytes:
        """Write one piece of a streamed answer."""
        ...

    def end(self, job: ModelJob, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write the end of a streamed answer."""
        ...

    def whole(self, job: ModelJob, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write an answer in one piece."""
        ...

    def embedded(self, job: ModelJob, work: Work, *, waited_ns: int) -> bytes:
        """Write the vectors that were asked for."""
        ...

    def broken(self, job: ModelJob, message: str, *, now_s: float) -> bytes:
        """Write the end of a stream that fails."""
        ...


class OllamaWriter:
    """AnswerWriter of the endpoints under `/api`."""

    is_openai = False
    whole_type = JSON_UTF8
    stream_type = NDJSON

    def piece(self, job: ModelJob, text: str, *, now_s: float) -> bytes:
        """Write the line of one piece of a streamed answer."""
        return encode_json(_beginning(job, text, now_s) | {"done": False}) + b"\n"

    def end(self, job: ModelJob, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write the last line of a streamed answer, which has the numbers."""
        return self._last(job, work, "", waited_ns, now_s) + b"\n"

    def whole(self, job: ModelJob, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write an answer in one piece."""
        return self._last(job, work, work.text, waited_ns, now_s)

    def embedded(self, job: ModelJob, work: Work, *, waited_ns: int) -> bytes:
        """Write the vectors that were asked for."""
        vectors = [embedding(text) for text in job.inputs]
        if job.deed is Operation.EMBEDDINGS:
            return encode_json({"embedding": vectors[0] if vectors else []})
        numbers = {
            "total_duration": (work.total_ns + waited_ns) * bool(vectors),
            "load_duration": work.load_ns * bool(vectors),
            "prompt_eval_count": work.n_prompt_tokens * bool(vectors),
        }
        return encode_json({"model": job.name, "embeddings": vectors} | _without_zeros(numbers))

    def broken(self, job: ModelJob, message: str, *, now_s: float) -> bytes:
        """Write the last line of a stream that fails."""
        return encode_json({"error": message}) + b"\n"

    def failure(self, status: HTTPStatus, message: str) -> Response:
        """Write an error."""
        return Response(status, JSON_UTF8, encode_json({"error": message}))

    def misread(self, message: str) -> Response:
        """Write the error of a body that cannot be read."""
        return self.failure(HTTPStatus.BAD_REQUEST, message)

    def _last(self, job: ModelJob, work: Work, text: str, waited_ns: int, now_s: float) -> bytes:
        """Time waited for a turn is in the total and in none of the parts; a zero is left out."""
        numbers = {
            "total_duration": (work.total_ns + waited_ns) * bool(work.tokens),
            "load_duration": work.load_ns * bool(work.tokens),
            "prompt_eval_count": work.n_prompt_tokens,
            "prompt_eval_duration": work.prompt_ns,
            "eval_count": len(work.tokens),
            "eval_duration": work.eval_ns,
        }
        context = (
            {"context": _context(work)} if job.deed is Operation.GENERATE and work.tokens else {}
        )
        return encode_json(
            _beginning(job, text, now_s)
            | {"done": True, "done_reason": work.done_reason}
            | context
            | _without_zeros(numbers)
        )


OLLAMA = OllamaWriter()


def _beginning(job: ModelJob, text: str, now_s: float) -> dict[str, object]:
    is_chat = job.deed is Operation.CHAT
    said: dict[str, object] = (
        {"message": {"role": "assistant", "content": text}} if is_chat else {"response": text}
    )
    return {"model": job.name, "created_at": timestamp(now_s)} | said


def _context(work: Work) -> list[int]:
    """Make up token numbers for prompt and answer."""
    return [17 + 31 * i % 32_000 for i in range(work.n_prompt_tokens + len(work.tokens))]


def _without_zeros(numbers: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in numbers.items() if number}


def _stepped(duration_ns: float, step_ns: int) -> int:
    return int(duration_ns) // step_ns * step_ns


TYPE_BY_STATUS = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
}
PREFIX = {Operation.CHAT: "chatcmpl", Operation.GENERATE: "cmpl"}
N_IDS = 999


class OpenAiWriter:
    """AnswerWriter of the endpoints under `/v1`."""

    is_openai = True
    whole_type = JSON
    stream_type = EVENT_STREAM

    def piece(self, job: ModelJob, text: str, *, now_s: float) -> bytes:
        """Write the event of one piece of a streamed answer."""
        usage = {"usage": _usage()} if job.includes_usage and job.deed is Operation.GENERATE else {}
        return _event(_chunk(job, job.name, text, None, now_s) | usage)

    def end(self, job: ModelJob, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write the events that end a streamed answer."""
        last = _chunk(job, job.name, "", work.done_reason, now_s)
        usage = {"choices": [], "usage": _usage(work)}
        counted = _event(last | usage) if job.includes_usage else b""
        return _event(last) + counted + b"data: [DONE]\n\n"

    def whole(self, job: ModelJob, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write an answer in one piece."""
        said: dict[str, object] = (
            {"index": 0, "message": {"role": "assistant", "content": work.text}}
            if job.deed is Operation.CHAT
            else {"text": work.text, "index": 0}
        )
        kind = "chat.completion" if job.deed is Operation.CHAT else "text_completion"
        return _line(
            _openai_beginning(job, job.name, kind, now_s)
            | {"choices": [said | {"finish_reason": work.done_reason}], "usage": _usage(work)}
        )

    def embedded(self, job: ModelJob, work: Work, *, waited_ns: int) -> bytes:
        """Write the vectors that were asked for."""
        data = [
            {"object": "embedding", "embedding": embedding(text), "index": index}
            for index, text in enumerate(job.inputs)
        ]
        usage = {"prompt_tokens": work.n_prompt_tokens, "total_tokens": work.n_prompt_tokens}
        return _line({"object": "list", "data": data, "model": job.name, "usage": usage})

    def broken(self, job: ModelJob, message: str, *, now_s: float) -> bytes:
        """Write what comes of an error in a stream: an empty piece of no model, and no end."""
        return _event(_chunk(job, "", "", None, now_s))

    def failure(self, status: HTTPStatus, message: str) -> Response:
        """Write an error."""
        return Response(status, JSON, _line(_error(status, message)))

    def misread(self, message: str) -> Response:
        """Write the error of a body that cannot be read."""
        status = HTTPStatus.BAD_REQUEST
        return Response(status, JSON_UTF8, encode_json(_error(status, message)))


OPENAI = OpenAiWriter()


def _chunk(
    job: ModelJob, model: str, text: str, finish_reason: str | None, now_s: float
) -> dict[str, object]:
    is_chat = job.deed is Operation.CHAT
    said: dict[str, object] = (
        {"index": 0, "delta": {"role": "assistant", "content": text}}
        if is_chat
        else {"text": text, "index": 0}
    )
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    beginning = _openai_beginning(job, model, kind, now_s)
    return beginning | {"choices": [said | {"finish_reason": finish_reason}]}


def _openai_beginning(job: ModelJob, model: str, kind: str, now_s: float) -> dict[str, object]:
    number = zlib.crc32(job.prompt.encode("utf-8", "replace")) % N_IDS
    return {
        "id": f"{PREFIX[job.deed]}-{number}",
        "object": kind,
        "created": int(now_s),
        "model": model,
        "system_fingerprint": "fp_ollama",
    }


def _usage(work: Work | None = None) -> dict[str, int]:
    n_read, n_generated = (work.n_prompt_tokens, len(work.tokens)) if work else (0, 0)
    return {
        "prompt_tokens": n_read,
        "completion_tokens": n_generated,
        "total_tokens": n_read + n_generated,
    }


def _error(status: HTTPStatus, message: str) -> dict[str, object]:
    kind = TYPE_BY_STATUS.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _event(value: object) -> bytes:
    return b"data: " + encode_json(value) + b"\n\n"


def _line(value: object) -> bytes:
    return encode_json(value) + b"\n"
