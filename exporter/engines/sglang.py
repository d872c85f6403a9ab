"""The `sglang` engine: SGLang's server.

Its `/health` generates a token and waits for it, so it is never asked: `/ready` says the same for
nothing, and `/model_info` where a server has no `/ready` yet. `/metrics` is there with
`--enable-metrics`. Written after the source of 0.5.23.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.engines.base import (
    HEALTHY,
    MAX_NAME_CHARACTERS,
    MAX_VERSION_CHARACTERS,
    Engine,
    good_body,
    status_verdict,
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
from exporter.errors import PollError
from exporter.model import Answer, Outcome, Values, Verdict

if TYPE_CHECKING:
    from exporter.engines.base import Answers

READY = "/ready"
MODEL_INFO = "/model_info"
SERVER_INFO = "/server_info"

_page = PageReader(
    PageLayout(
        requests_running=("sglang:num_running_reqs",),
        requests_queued=("sglang:num_queue_reqs",),
        generated_tokens_total=("sglang:generation_tokens_total",),
        prompt_tokens_total=("sglang:prompt_tokens_total",),
        tokens_per_second=("sglang:gen_throughput",),
        kv_cache_usage_ratio=("sglang:token_usage",),
        request_duration=("sglang:e2e_request_latency_seconds",),
        time_to_first_token=("sglang:time_to_first_token_seconds",),
        queue_time=("sglang:queue_time_seconds",),
        errors=(
            ErrorSeries(
                "sglang:http_responses_total", "status_code", failures="5..", prefix="http_"
            ),
        ),
        model_label="model_name",
        repeats='[{,](?:tp_rank|pp_rank)="[1-9]',
    )
)
"""SGLang counts tokens when a request ends, so the counter does not give the speed."""


class _ModelInfo(msgspec.Struct, gc=False):
    served_model_name: str | None = None
    model_path: str | None = None
    is_generation: bool | None = None


class _ServerInfo(msgspec.Struct, gc=False):
    version: str = ""


_read_model_info = read_if_good(_ModelInfo)
_read_server_info = read_if_good(_ServerInfo)


def read(answers: Answers) -> Verdict:
    """Judge by `/ready` or `/model_info`; take the rest from `/metrics`."""
    verdict = _read_ready(answers)
    if verdict.outcome is not Outcome.OK:
        return verdict
    info = _read_model_info(answers, MODEL_INFO)
    name = (info.served_model_name or info.model_path or "")[:MAX_NAME_CHARACTERS]
    version = _read_server_info(answers, SERVER_INFO).version[:MAX_VERSION_CHARACTERS]
    known = Values(models=(name,) if name else (), version=version or None)
    return page_verdict(
        answers[METRICS], _page, known, hint="SGLang runs without --enable-metrics?"
    )


def _read_ready(answers: Answers) -> Verdict:
    """Judge by the readiness: 503 while it starts, is paused or stops."""
    path = READY if _has_ready(answers) else MODEL_INFO
    answer = answers.get(path) or answers[READY]
    if isinstance(answer, PollError):
        return Verdict(answer.outcome, answer.detail)
    if answer.status == 503:
        return Verdict(Outcome.LOADING, f"{path} answered 503")
    return HEALTHY if answer.status == 200 else status_verdict(path, answer)


def _has_ready(answers: Answers) -> bool:
    answer = answers.get(READY)
    return isinstance(answer, PollError) or (
        isinstance(answer, Answer) and answer.status in (200, 503)
    )


def recognise(answers: Answers) -> bool:
    """Return whether `/metrics` has SGLang's series or `/model_info` names a model."""
    if b"\nsglang:" in (good_body(answers, METRICS) or b""):
        return True
    info = _read_model_info(answers, MODEL_INFO)
    return info.model_path is not None and info.is_generation is not None


def choose_requests(answers: Answers) -> tuple[str, ...]:
    """Return what to ask at each poll: `/model_info` for the health where there is no `/ready`."""
    return (READY, METRICS) if _has_ready(answers) else (MODEL_INFO, METRICS)


ENGINE = Engine(
    name="sglang",
    requests=(READY, METRICS),
    read=read,
    probes=(MODEL_INFO, METRICS),
    recognise=recognise,
    identity_requests=(MODEL_INFO,),
    costly_requests=(SERVER_INFO,),  # asks the scheduler
    choose_requests=choose_requests,
    canary=COMPLETIONS_CANARY,
)
