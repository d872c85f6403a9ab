"""The `ollama` engine: stock Ollama servers.

`/` says that the server runs, `/api/ps` which models are loaded, `/api/tags` which are installed,
`/api/version` what it is. Measured on 0.4.7, 0.23.0 and 0.32.15. None of them reports tokens,
latency or queue; `/metrics`, which two proposals add, is read where a server has it.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import msgspec

from exporter.engines.base import (
    MAX_NAME_CHARACTERS,
    MAX_VERSION_CHARACTERS,
    Amount,
    Answers,
    Engine,
    clipped,
    decode_json,
    excerpt,
    good_body,
    healthy,
    metrics_body,
    status_verdict,
)
from exporter.engines.generation import (
    CanaryRequest,
    Prompt,
    TimedLine,
    TrainedRequest,
    speed,
)
from exporter.engines.json_objects import ObjectReader, read_each
from exporter.engines.prometheus_text import PageLayout, PageReader
from exporter.errors import PollError
from exporter.model import (
    MAX_LOADED,
    Answer,
    Context,
    Generation,
    LoadedModel,
    Outcome,
    Values,
    Verdict,
    model_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


ROOT = "/"
LOADED = "/api/ps"
INSTALLED = "/api/tags"
VERSION = "/api/version"
METRICS = "/metrics"

RUNNING = b"Ollama is running"
MAX_INSTALLED = 200
NEVER_S = 4_102_444_800.0
"""2100. What expires later never does: `keep_alive: -1` gives 292 years from now."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _LoadedModel(msgspec.Struct, gc=False):
    name: Name
    size: Amount | None = None
    size_vram: Amount | None = None
    expires_at: Time | None = None
    context_length: Amount | None = None


class _InstalledModel(msgspec.Struct, gc=False):
    name: Name


class _LoadedModels(msgspec.Struct, gc=False):
    models: list[_LoadedModel] | None


class _InstalledModels(msgspec.Struct, gc=False):
    models: list[_InstalledModel] | None


class _RawModels(msgspec.Struct, gc=False):
    models: list[msgspec.Raw] | None


class _Version(msgspec.Struct, gc=False):
    version: str


_decode_loaded = msgspec.json.Decoder(_LoadedModels).decode
_decode_installed = msgspec.json.Decoder(_InstalledModels).decode
_decode_raw = msgspec.json.Decoder(_RawModels).decode
_decode_version = msgspec.json.Decoder(_Version).decode
_read_loaded_model = ObjectReader(_LoadedModel).read
_read_installed_model = ObjectReader(_InstalledModel).read

_read_page = PageReader(
    PageLayout(
        requests_queued=("ollama_requests_queued",),
        generated_tokens_total=("ollama_eval_total",),
        prompt_tokens_total=("ollama_prompt_eval_total",),
        generating_seconds_total=(
            "ollama_eval_duration_seconds",
            "ollama_eval_duration_seconds_sum",
            "ollama_eval_duration_total",
        ),
        request_duration=("ollama_total_duration_seconds",),
    )
).read
"""Names of both proposals."""


def read(answers: Answers) -> Verdict:
    """Judge by `/`; take the models from `/api/ps` and, where they were asked for, `/api/tags`."""
    verdict = _read_root(answers[ROOT])
    if verdict.outcome is not Outcome.OK:
        return verdict
    faults: list[PollError] = []
    loaded = _read_loaded(answers[LOADED], faults)
    values = Values(
        models=() if loaded is None else tuple([model.name for model in loaded]),
        version=read_version(answers.get(VERSION)),
        loaded=loaded,
        installed=_read_installed(answers[INSTALLED], faults) if INSTALLED in answers else None,
    )
    if METRICS in answers:
        values = _with_page(values, answers[METRICS], faults)
    return healthy(values, faults)


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


def _read_loaded(
    answer: Answer | PollError, faults: list[PollError]
) -> tuple[LoadedModel, ...] | None:
    """Return the loaded models, sorted by name; None, and a fault, where they cannot be read."""
    try:
        body = metrics_body(LOADED, answer)
        try:
            models = decode_json(_decode_loaded, body, LOADED).models or []
        except PollError:
            raw_models = decode_json(_decode_raw, body, LOADED).models or []
            models = read_each(_read_loaded_model, raw_models, LOADED, faults)
    except PollError as error:
        faults.append(error)
        return None
    loaded = [
        LoadedModel(
            model_name(model.name),
            model.size,
            model.size_vram,
            _expiry_s(model.expires_at),
            model.context_length,
            model.expires_at is not None and model.expires_at.timestamp() >= NEVER_S,
        )
        for model in models
    ]
    if len(loaded) > 1:
        by_name = {model.name: model for model in loaded}  # each name is a series
        loaded = [by_name[name] for name in sorted(by_name)]
    return tuple(loaded[:MAX_LOADED])


def _read_installed(answer: Answer | PollError, faults: list[PollError]) -> tuple[str, ...] | None:
    """Return the names of the installed models, sorted; None, and a fault, if unreadable.

    Servers that only speak Ollama's language may lack the list; that is no fault.
    """
    if isinstance(answer, Answer) and answer.status == 404:
        return None
    try:
        body = metrics_body(INSTALLED, answer)
        try:
            models = decode_json(_decode_installed, body, INSTALLED).models or []
        except PollError:
            raw_models = decode_json(_decode_raw, body, INSTALLED).models or []
            models = read_each(_read_installed_model, raw_models, INSTALLED, faults)
    except PollError as error:
        faults.append(error)
        return None
    return _shared(tuple(sorted({model_name(model.name) for model in models})[:MAX_INSTALLED]))


@lru_cache(maxsize=256)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return one object for equal names: most instances have the same models, and all keep them."""
    return names


def _expiry_s(expires_at: datetime | None) -> float | None:
    """Return when a model is unloaded; None for never, and for Go's time that was never set."""
    if expires_at is None:
        return None
    expiry_s = expires_at.timestamp()
    return expiry_s if 0 < expiry_s < NEVER_S else None


def _with_page(values: Values, answer: Answer | PollError, faults: list[PollError]) -> Values:
    """Return the values with what `/metrics` says, if there is such a page."""
    if isinstance(answer, PollError):
        faults.append(answer)
        return values
    if not has_metrics({METRICS: answer}):
        return values
    said, page_faults = _read_page(answer.body)
    faults += [PollError(Outcome.BAD_BODY, f"{METRICS}: {why}") for why in page_faults]
    return msgspec.structs.replace(
        said, models=values.models, loaded=values.loaded, installed=values.installed,
        version=values.version,
    )  # fmt: skip


def has_metrics(answers: Answers) -> bool:
    """Return whether `/metrics` answered with a page of Ollama's own series."""
    return b"\nollama_" in (good_body(answers, METRICS) or b"")


GENERATE = "/api/generate"
NS_PER_S = 1e9


class _Piece(msgspec.Struct, gc=False):
    """A line of a streamed answer; of the numbers, a zero is left out. Times are in ns."""

    done: bool = False
    error: str | None = None
    total_duration: Amount = 0
    load_duration: Amount = 0
    prompt_eval_duration: Amount = 0
    eval_count: Amount = 0
    eval_duration: Amount = 0


_decode_piece = msgspec.json.Decoder(_Piece).decode


def generate_body(prompt: Prompt) -> bytes:
    """Return the body of a request that neither loads the model again nor changes its stay."""
    options: dict[str, object] = {"num_predict": prompt.n_tokens, "temperature": 0}
    if prompt.context_length is not None:
        options["num_ctx"] = int(prompt.context_length)
    body: dict[str, object] = {
        "model": prompt.model,
        "prompt": prompt.text,
        "raw": True,
        "stream": True,
        "options": options,
    }
    if prompt.keep_alive is not None:
        body["keep_alive"] = prompt.keep_alive
    return msgspec.json.encode(body)


SHOW = "/api/show"
CONTEXT_LENGTH = ".context_length"
"""After the architecture's name: `llama.context_length`."""


class _Shown(msgspec.Struct, gc=False):
    model_info: dict[str, msgspec.Raw] = {}


_decode_shown = msgspec.json.Decoder(_Shown).decode
_decode_amount = msgspec.json.Decoder(Amount).decode


def show_body(model: str) -> bytes:
    """Return the body of a request for what is known of a model."""
    return msgspec.json.encode({"model": model})


def read_trained(body: bytes) -> float | None:
    """Return the context length that a model was trained with; None: it has none.

    Raises:
        PollError: BAD_BODY. The answer is no description of a model.
    """
    shown = decode_json(_decode_shown, body, SHOW).model_info
    found = [raw for name, raw in shown.items() if name.endswith(CONTEXT_LENGTH)]
    return decode_json(_decode_amount, found[0], SHOW) if found else None


def sent_context(loaded: float | None, known: Context) -> float | None:
    """Return the `num_ctx` with which a loaded model is not loaded again; None: to send none.

    Ollama reloads a model if a request asks for another `num_ctx` than the one that it was loaded
    for. `/api/ps` shows the length after it was cut to the trained one, so a model with its full
    trained length was mostly loaded for a longer default.
    """
    if loaded is None or known.trained is None:
        return loaded
    is_default = loaded >= known.trained
    return None if is_default != known.is_reversed else loaded


def read_generation(lines: Sequence[TimedLine]) -> Generation:
    """Read a streamed answer: its last line has the server's own times.

    Raises:
        PollError: BAD_BODY. It ends with an error, or without those times.
    """
    pieces = [decode_json(_decode_piece, line.text, GENERATE) for line in lines]
    error = next((piece.error for piece in pieces if piece.error is not None), None)
    if error is not None:
        raise PollError(Outcome.BAD_BODY, f"{GENERATE}: {clipped(error)}")
    if not pieces or not pieces[-1].done:
        raise PollError(Outcome.BAD_BODY, f"{GENERATE}: the answer ends before it is done")
    last = pieces[-1]
    worked_ns = last.load_duration + last.prompt_eval_duration + last.eval_duration
    return Generation(
        n_tokens=last.eval_count,
        tokens_per_second=speed(last.eval_count, last.eval_duration / NS_PER_S),
        time_to_first_token_s=None if pieces[0].done else lines[0].arrived_s,
        waiting_s=max(0.0, last.total_duration - worked_ns) / NS_PER_S,
        load_s=last.load_duration / NS_PER_S,
    )


def recognise(answers: Answers) -> bool:
    """Return whether `/api/version` gives a version, which no other server does."""
    return read_version(answers.get(VERSION)) is not None


def choose_requests(answers: Answers) -> tuple[str, ...]:
    """Return what to ask at each poll: also `/metrics`, where the server has it."""
    return (ROOT, LOADED, METRICS) if has_metrics(answers) else (ROOT, LOADED)


ENGINE = Engine(
    name="ollama",
    requests=(ROOT, LOADED),
    read=read,
    probes=(VERSION,),
    recognise=recognise,
    identity_requests=(VERSION,),
    costly_requests=(METRICS, INSTALLED),
    choose_requests=choose_requests,
    canary=CanaryRequest(
        GENERATE,
        generate_body,
        read_generation,
        needs_loaded=True,
        is_checked_first=True,
        trained=TrainedRequest(SHOW, show_body, read_trained, sent_context),
    ),
)
