"""The `ollama` engine: stock Ollama servers, which publish no metrics of their own.

`/` says that the server runs, `/api/ps` which models are loaded, `/api/version` what it is.
Measured on 0.4.7, 0.23.0 and 0.32.15. A stock Ollama reports neither tokens nor latency nor queue.
"""

from __future__ import annotations

import msgspec

from exporter.engines.base import (
    MAX_NAME_CHARACTERS,
    MAX_VERSION_CHARACTERS,
    Answers,
    Engine,
    decode_json,
    excerpt,
    healthy,
    metrics_body,
    status_verdict,
    without_metrics,
)
from exporter.errors import PollError
from exporter.model import Answer, Outcome, Values, Verdict

ROOT = "/"
LOADED = "/api/ps"
VERSION = "/api/version"

RUNNING = b"Ollama is running"
MAX_MODELS = 16


class _Model(msgspec.Struct, gc=False):
    name: str


class _Loaded(msgspec.Struct, gc=False):
    models: list[_Model] | None


class _Version(msgspec.Struct, gc=False):
    version: str


_decode_loaded = msgspec.json.Decoder(_Loaded).decode
_decode_version = msgspec.json.Decoder(_Version).decode


def read(answers: Answers) -> Verdict:
    """Judge by `/`; take the loaded models from `/api/ps`."""
    verdict = _read_root(answers[ROOT])
    if verdict.outcome is not Outcome.OK:
        return verdict
    version = read_version(answers.get(VERSION))
    try:
        models = _read_models(metrics_body(LOADED, answers[LOADED]))
        return healthy(Values(models=models, version=version))
    except PollError as error:
        return without_metrics(error.outcome, error.detail, Values(version=version))


def read_version(answer: Answer | PollError | None) -> str | None:
    """Return the version that an answer to `/api/version` gives; None where it gives none."""
    if not isinstance(answer, Answer) or answer.status != 200:
        return None
    try:
        answered = decode_json(_decode_version, answer.body, VERSION)
    except PollError:
        return None
    return answered.version[:MAX_VERSION_CHARACTERS]


def _read_root(answer: Answer | PollError) -> Verdict:
    if isinstance(answer, PollError):
        return Verdict(answer.outcome, answer.detail)
    if answer.status != 200:
        return status_verdict(ROOT, answer)
    if answer.body.strip() != RUNNING:
        return Verdict(Outcome.BAD_BODY, f"/ answered 200 with: {excerpt(answer.body)}")
    return Verdict(Outcome.OK)


def _read_models(body: bytes) -> tuple[str, ...]:
    loaded = decode_json(_decode_loaded, body, LOADED).models or []
    return tuple(sorted(model.name[:MAX_NAME_CHARACTERS] for model in loaded))[:MAX_MODELS]


def recognise(answers: Answers) -> bool:
    """Return whether `/api/version` gives a version, which no other server does."""
    return read_version(answers.get(VERSION)) is not None


ENGINE = Engine(
    name="ollama",
    requests=(ROOT, LOADED),
    read=read,
    probes=(VERSION,),
    recognise=recognise,
    identity_requests=(VERSION,),
)
