"""The `tgi` engine: Hugging Face's text-generation-inference.

Its `/metrics` has thousands of series; a dozen are read. Written after the source of 3.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.engines.base import (
    HEALTH,
    MAX_NAME_CHARACTERS,
    MAX_VERSION_CHARACTERS,
    Engine,
    read_health_of_loaded,
)
from exporter.engines.generation import COMPLETIONS_CANARY
from exporter.engines.json_objects import read_if_good
from exporter.engines.prometheus_text import (
    METRICS,
    ErrorSeries,
    PageLayout,
    PageReader,
    page_verdict,
)
from exporter.model import Outcome, Values, Verdict

if TYPE_CHECKING:
    from exporter.engines.base import Answers

INFO = "/info"

_page = PageReader(
    PageLayout(
        requests_running=("tgi_batch_current_size",),
        requests_queued=("tgi_queue_size",),
        generated_tokens_total=("tgi_request_generated_tokens_sum",),
        prompt_tokens_total=("tgi_request_input_length_sum",),
        generating_seconds_total=("tgi_request_inference_duration_sum",),
        request_duration=("tgi_request_duration",),
        queue_time=("tgi_request_queue_duration",),
        errors=(ErrorSeries("tgi_request_failure", "err", failures="(?!validation$).*"),),
    )
)
"""TGI counts tokens and inference time when a request ends; the time includes reading the prompt.
An invalid request (`validation`) is its client's failure."""


class _Info(msgspec.Struct, gc=False):
    model_id: str | None = None
    max_total_tokens: int | None = None
    version: str = ""


_read_info = read_if_good(_Info)


def read(answers: Answers) -> Verdict:
    """Judge by `/health`, where 503 means that a shard is dead; take the rest from `/metrics`.

    The router listens only once the shards have loaded the model.
    """
    verdict = read_health_of_loaded(answers[HEALTH])
    if verdict.outcome is not Outcome.OK:
        return verdict
    info = _read_info(answers, INFO)
    known = Values(
        models=(info.model_id[:MAX_NAME_CHARACTERS],) if info.model_id else (),
        version=info.version[:MAX_VERSION_CHARACTERS] or None,
    )
    return page_verdict(answers[METRICS], _page, known, hint="is this TGI?")


def recognise(answers: Answers) -> bool:
    """Return whether `/info` names a model as TGI's does."""
    info = _read_info(answers, INFO)
    return info.model_id is not None and info.max_total_tokens is not None


ENGINE = Engine(
    name="tgi",
    requests=(HEALTH, METRICS),
    read=read,
    probes=(INFO,),
    recognise=recognise,
    identity_requests=(INFO,),
    canary=COMPLETIONS_CANARY,
)
