"""Write answers as the endpoints under `/v1` do, which OpenAI's clients understand.

In:   an Ask and its Work. Out: JSON, or server-sent events where a stream is wanted.
They give numbers of tokens and no times. Shapes as in Ollama's middleware/openai.go: an error of
the model is written with a line break, one of the request's body without.
"""

from __future__ import annotations

import zlib
from http import HTTPStatus

from provisioning.simulator.asking import Ask, Deed
from provisioning.simulator.generate import Work, embedding
from provisioning.simulator.golang import encode_json
from provisioning.simulator.wire import EVENT_STREAM, JSON, JSON_UTF8, Response

TYPE_BY_STATUS = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
}
PREFIX = {Deed.CHAT: "chatcmpl", Deed.GENERATE: "cmpl"}
N_IDS = 999


class OpenAiAnswers:
    """Answers of the endpoints under `/v1`."""

    is_openai = True
    whole_type = JSON
    stream_type = EVENT_STREAM

    def piece(self, ask: Ask, text: str, *, now_s: float) -> bytes:
        """Write the event of one piece of a streamed answer."""
        usage = {"usage": _usage()} if ask.includes_usage and ask.deed is Deed.GENERATE else {}
        return _event(_chunk(ask, ask.name, text, None, now_s) | usage)

    def end(self, ask: Ask, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write the events that end a streamed answer."""
        last = _chunk(ask, ask.name, "", work.done_reason, now_s)
        usage = {"choices": [], "usage": _usage(work)}
        counted = _event(last | usage) if ask.includes_usage else b""
        return _event(last) + counted + b"data: [DONE]\n\n"

    def whole(self, ask: Ask, work: Work, *, waited_ns: int, now_s: float) -> bytes:
        """Write an answer in one piece."""
        said: dict[str, object] = (
            {"index": 0, "message": {"role": "assistant", "content": work.text}}
            if ask.deed is Deed.CHAT
            else {"text": work.text, "index": 0}
        )
        kind = "chat.completion" if ask.deed is Deed.CHAT else "text_completion"
        return _line(
            _beginning(ask, ask.name, kind, now_s)
            | {"choices": [said | {"finish_reason": work.done_reason}], "usage": _usage(work)}
        )

    def embedded(self, ask: Ask, work: Work, *, waited_ns: int) -> bytes:
        """Write the vectors that were asked for."""
        data = [
            {"object": "embedding", "embedding": embedding(text), "index": index}
            for index, text in enumerate(ask.inputs)
        ]
        usage = {"prompt_tokens": work.n_prompt_tokens, "total_tokens": work.n_prompt_tokens}
        return _line({"object": "list", "data": data, "model": ask.name, "usage": usage})

    def broken(self, ask: Ask, message: str, *, now_s: float) -> bytes:
        """Write what comes of an error in a stream: an empty piece of no model, and no end."""
        return _event(_chunk(ask, "", "", None, now_s))

    def failure(self, status: HTTPStatus, message: str) -> Response:
        """Write an error."""
        return Response(status, JSON, _line(_error(status, message)))

    def misread(self, message: str) -> Response:
        """Write the error of a body that cannot be read."""
        status = HTTPStatus.BAD_REQUEST
        return Response(status, JSON_UTF8, encode_json(_error(status, message)))


OPENAI = OpenAiAnswers()


def _chunk(
    ask: Ask, model: str, text: str, finish_reason: str | None, now_s: float
) -> dict[str, object]:
    is_chat = ask.deed is Deed.CHAT
    said: dict[str, object] = (
        {"index": 0, "delta": {"role": "assistant", "content": text}}
        if is_chat
        else {"text": text, "index": 0}
    )
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    beginning = _beginning(ask, model, kind, now_s)
    return beginning | {"choices": [said | {"finish_reason": finish_reason}]}


def _beginning(ask: Ask, model: str, kind: str, now_s: float) -> dict[str, object]:
    number = zlib.crc32(ask.prompt.encode("utf-8", "replace")) % N_IDS
    return {
        "id": f"{PREFIX[ask.deed]}-{number}",
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
