"""The `llamacpp` engine: llama.cpp's own server, `llama-server`.

`/health` is 503 while the model loads, as is every other path. `/metrics` exists only with
`--metrics` (else 501). Its two speed gauges are averages since the last scrape, which a second
scraper spoils: only its counters are read. They have six significant digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.engines.base import (
    HEALTH,
    MAX_AMOUNT,
    MAX_NAME_CHARACTERS,
    MAX_VERSION_CHARACTERS,
    Answers,
    Engine,
    clipped,
    decode_json,
    excerpt,
    healthy,
    metrics_body,
    read_health,
    without_metrics,
)
from exporter.errors import PollError
from exporter.model import NO_VALUES, Answer, Outcome, Values, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable


METRICS = "/metrics"
PROPS = "/props"

PREFIX = b"llamacpp:"
GENERATED = "llamacpp:tokens_predicted_total"
GENERATING_S = "llamacpp:tokens_predicted_seconds_total"
PROMPT = "llamacpp:prompt_tokens_total"
RUNNING = "llamacpp:requests_processing"
QUEUED = "llamacpp:requests_deferred"

WANTED = (GENERATED, GENERATING_S, PROMPT, RUNNING, QUEUED)


class _Props(msgspec.Struct, gc=False):
    model_alias: str = ""
    model_path: str = ""
    build_info: str | None = None


_decode_props = msgspec.json.Decoder(_Props).decode


def read(answers: Answers) -> Verdict:
    """Judge by `/health`; take the metrics from `/metrics`, the model from `/props`."""
    verdict = read_health(answers[HEALTH])
    if verdict.outcome is not Outcome.OK:
        return verdict
    known = _known(_read_props(answers.get(PROPS)))
    try:
        page = metrics_body(METRICS, answers[METRICS])
    except PollError as error:
        return without_metrics(error.outcome, error.detail, known)
    samples, faults = samples_without_labels(page, WANTED)
    if GENERATED not in samples and not faults:
        faults.append(f"no {GENERATED}: is this a llama-server?")
    if not faults:
        return healthy(_values(known, samples))
    values = _values(known, samples) if samples else known
    return without_metrics(Outcome.BAD_BODY, f"{METRICS}: {clipped('; '.join(faults))}", values)


def _known(props: _Props) -> Values:
    name = props.model_alias or props.model_path.rpartition("/")[2]
    if not name and props.build_info is None:
        return NO_VALUES
    version = (props.build_info or "")[:MAX_VERSION_CHARACTERS]
    return Values(models=(name[:MAX_NAME_CHARACTERS],) if name else (), version=version or None)


def _values(known: Values, samples: dict[str, float]) -> Values:
    return Values(
        models=known.models,
        version=known.version,
        requests_running=samples.get(RUNNING),
        requests_queued=samples.get(QUEUED),
        generated_tokens_total=samples.get(GENERATED),
        prompt_tokens_total=samples.get(PROMPT),
        generating_seconds_total=samples.get(GENERATING_S),
    )


def _read_props(answer: Answer | PollError | None) -> _Props:
    """Return what `/props` says; nothing where it was not asked or is guarded by an API key."""
    if not isinstance(answer, Answer) or answer.status != 200:
        return _Props()
    try:
        return decode_json(_decode_props, answer.body, PROPS)
    except PollError:
        return _Props()


SWITCHED_OFF = b"not_supported_error"


def recognise(answers: Answers) -> bool:
    """Return whether `/metrics` is llama-server's, or says with 501 that it was not switched on."""
    answer = answers.get(METRICS)
    if not isinstance(answer, Answer):
        return False
    if answer.status == 501:
        return SWITCHED_OFF in answer.body
    return answer.status == 200 and PREFIX in answer.body


ENGINE = Engine(
    name="llamacpp",
    requests=(HEALTH, METRICS),
    read=read,
    probes=(METRICS,),
    recognise=recognise,
    identity_requests=(PROPS,),
)


MAX_SHOWN_BYTES = 50


def samples_without_labels(
    page: bytes, wanted: Iterable[str]
) -> tuple[dict[str, float], list[str]]:
    """Return the value of each wanted sample that has no labels, and the faults.

    Values are 0 to MAX_AMOUNT. Of a sample that stands there repeatedly, the last one counts. One
    without such a value is left out, and a fault says so.
    """
    samples: dict[str, float] = {}
    faults: list[str] = []
    for name in wanted:
        rest = _last(page, name.encode())
        if rest is None:
            continue
        value = _value(rest)
        if value is None:
            faults.append(f"{name} has no usable value: {excerpt(rest[:MAX_SHOWN_BYTES])}")
        else:
            samples[name] = value
    return samples, faults


def _last(page: bytes, name: bytes) -> bytes | None:
    """Return what follows the name on the last line that begins with it; None without one."""
    head = name + b" "
    before = page.rfind(b"\n" + head)
    if before < 0 and not page.startswith(head):
        return None
    start = before + 1 + len(head)
    end = page.find(b"\n", start)
    return page[start:] if end < 0 else page[start:end]


def _value(rest: bytes) -> float | None:
    fields = rest.split(maxsplit=1)  # value, and maybe a timestamp
    try:
        value = float(fields[0])
    except (IndexError, ValueError):
        return None
    return value if 0 <= value <= MAX_AMOUNT else None  # nor is NaN
