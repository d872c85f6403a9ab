"""The `llamacpp` engine: llama.cpp's own server, `llama-server`.

`/health` is 503 while the model loads, as is every other path. `/metrics` exists only with
`--metrics` (else 501). Its two speed gauges are averages since the last scrape, so a
second scraper makes them wrong: only its counters are read. They have six significant digits.

In router mode `/metrics` answers 400: it wants a model, and would load one that is not loaded. Then
`/v1/models` is asked instead, which loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.engines.base import (
    HEALTH,
    MAX_NAME_CHARACTERS,
    MAX_VERSION_CHARACTERS,
    Amount,
    Engine,
    decode_json,
    good_body,
    healthy,
    metrics_body,
    read_health,
    without_metrics,
)
from exporter.engines.generation import CanaryRequest, Prompt, TimedLine, events, speed
from exporter.engines.json_objects import ObjectReader, read_each, read_if_good
from exporter.engines.prometheus_text import METRICS, PageLayout, PageReader, page_verdict
from exporter.errors import PollError
from exporter.model import (
    MAX_LOADED,
    Answer,
    Generation,
    LoadedModel,
    Outcome,
    Values,
    Verdict,
    model_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.engines.base import Answers


PROPS = "/props"
MODELS = "/v1/models"

PREFIX = b"llamacpp:"
SWITCHED_OFF = b"not_supported_error"
MODEL_MISSING = b"model name is missing"

_page = PageReader(
    PageLayout(
        requests_running=("llamacpp:requests_processing",),
        requests_queued=("llamacpp:requests_deferred",),
        generated_tokens_total=("llamacpp:tokens_predicted_total",),
        prompt_tokens_total=("llamacpp:prompt_tokens_total",),
        generating_seconds_total=("llamacpp:tokens_predicted_seconds_total",),
    )
)


class _Props(msgspec.Struct, gc=False):
    model_alias: str = ""
    model_path: str = ""
    build_info: str | None = None


class _Status(msgspec.Struct, gc=False):
    value: str = ""


class _Model(msgspec.Struct, gc=False):
    id: str
    status: _Status


class _Models(msgspec.Struct, gc=False):
    data: list[_Model]


class _RawModels(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


_read_props = read_if_good(_Props)
_decode_models = msgspec.json.Decoder(_Models).decode
_decode_raw = msgspec.json.Decoder(_RawModels).decode
_read_model = ObjectReader(_Model).read


def read(answers: Answers) -> Verdict:
    """Judge by `/health`; take the metrics from `/metrics`, the model from `/props`."""
    verdict = read_health(answers[HEALTH])
    if verdict.outcome is not Outcome.OK:
        return verdict
    props = _read_props(answers, PROPS)
    version = (props.build_info or "")[:MAX_VERSION_CHARACTERS] or None
    if MODELS in answers:
        return _read_router(answers[MODELS], version)
    if _is_router(answers):
        return healthy(Values(version=version))
    name = (props.model_alias or props.model_path.rpartition("/")[2])[:MAX_NAME_CHARACTERS]
    known = Values(models=(name,) if name else (), version=version)
    return page_verdict(answers[METRICS], _page, known, hint="is this a llama-server?")


def _read_router(answer: Answer | PollError, version: str | None) -> Verdict:
    faults: list[PollError] = []
    try:
        models = _read_models(metrics_body(MODELS, answer), faults)
    except PollError as error:
        return without_metrics(error.outcome, error.detail, Values(version=version))
    names = sorted({model_name(model.id) for model in models if model.status.value == "loaded"})
    kept = [name[:MAX_NAME_CHARACTERS] for name in names[:MAX_LOADED]]
    loaded = tuple([LoadedModel(name) for name in kept])
    return healthy(Values(models=tuple(kept), version=version, loaded=loaded), faults)


def _read_models(body: bytes, faults: list[PollError]) -> list[_Model]:
    """Return the models of a router's list; one that cannot be read is a fault.

    Raises:
        PollError: BAD_BODY. The body is no list of models, or none of them can be read.
    """
    try:
        return decode_json(_decode_models, body, MODELS).data
    except PollError:
        raw_models = decode_json(_decode_raw, body, MODELS).data
    models = read_each(_read_model, raw_models, MODELS, faults)
    if not models:
        raise PollError(faults[0].outcome, faults[0].detail)
    return models


COMPLETION = "/completion"
MS_PER_S = 1e3


class _Timings(msgspec.Struct, gc=False):
    predicted_n: Amount = 0
    predicted_ms: Amount = 0


class _Event(msgspec.Struct, gc=False):
    stop: bool = False
    timings: _Timings | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


def completion_body(prompt: Prompt) -> bytes:
    """Return the body of a request for exactly `n_tokens`; only a router reads the model."""
    return msgspec.json.encode(
        {
            "model": prompt.model,
            "prompt": prompt.text,
            "n_predict": prompt.n_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
    )


def read_completion(lines: Sequence[TimedLine]) -> Generation:
    """Read a streamed answer: its last event has the server's own times.

    Raises:
        PollError: BAD_BODY. It holds an error, or has no such times.
    """
    first_s: float | None = None
    for event in events(lines, COMPLETION):
        said = decode_json(_decode_event, event.text, COMPLETION)
        if first_s is None and not said.stop:
            first_s = event.arrived_s
        if said.stop and said.timings is not None:
            n_tokens, spent_s = said.timings.predicted_n, said.timings.predicted_ms / MS_PER_S
            # The time begins with the first token.
            return Generation(n_tokens, speed(n_tokens - 1, spent_s), first_s)
    raise PollError(Outcome.BAD_BODY, f"{COMPLETION}: the answer ends before it is done")


def recognise(answers: Answers) -> bool:
    """Return whether `/metrics` is llama-server's, is not switched on, or wants a model named."""
    if PREFIX in (good_body(answers, METRICS) or b""):
        return True
    answer = answers.get(METRICS)
    is_off = isinstance(answer, Answer) and answer.status == 501 and SWITCHED_OFF in answer.body
    return is_off or _is_router(answers)


def _is_router(answers: Answers) -> bool:
    answer = answers.get(METRICS)
    return isinstance(answer, Answer) and answer.status == 400 and MODEL_MISSING in answer.body


def choose_requests(answers: Answers) -> tuple[str, ...]:
    """Return what to ask at each poll: the list of models in router mode."""
    return (HEALTH, MODELS) if _is_router(answers) else (HEALTH, METRICS)


ENGINE = Engine(
    name="llamacpp",
    requests=(HEALTH, METRICS),
    read=read,
    probes=(METRICS,),
    recognise=recognise,
    identity_requests=(PROPS,),
    choose_requests=choose_requests,
    canary=CanaryRequest(COMPLETION, completion_body, read_completion, is_checked_first=True),
)
