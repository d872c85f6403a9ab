"""Define an engine, what engines share, and which values are implausible from any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec

from exporter.errors import PollError
from exporter.model import NO_VALUES, Answer, Outcome, Values, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.engines.generation import CanaryRequest


Answers = Mapping[str, Answer | PollError]
Decoded = TypeVar("Decoded")

HEALTH = "/health"

UNSPECIFIED = "unspecified"
"""The type of errors whose type is not said."""

MAX_DETAIL_CHARACTERS: Final = 200
MAX_NAME_CHARACTERS: Final = 256
MAX_VERSION_CHARACTERS: Final = 64
MAX_AMOUNT: Final = 2.0**53
"""Up to here a float counts every one; far larger ones would add up to infinity."""

Amount = Annotated[float, msgspec.Meta(ge=0, le=MAX_AMOUNT)]


@dataclass(frozen=True, slots=True)
class Engine:
    """A server kind: what to ask it, and how to read what it says."""

    name: str
    requests: tuple[str, ...]
    """Paths asked at each poll, the health check first."""
    read: Callable[[Answers], Verdict]
    probes: tuple[str, ...]
    """Paths that only such a server answers so. No health check: some of those cost a generation.

    Every instance of unknown kind is asked for the probes of all engines."""
    recognise: Callable[[Answers], bool]
    """Return whether the answers to the probes are those of such a server."""
    identity_requests: tuple[str, ...] = ()
    """Paths asked as well when an instance is new, came back, or was last identified long ago."""
    costly_requests: tuple[str, ...] = ()
    """The same, but only for a healthy instance, and not when just its connection was closed, which
    some servers do every 5 s."""
    choose_requests: Callable[[Answers], tuple[str, ...]] | None = None
    """Return the paths to ask at each poll, by the answers when it was identified; None: always
    `requests`."""
    canary: CanaryRequest | None = None
    """How to ask for a tiny generation; None: such a server is sent no canary."""

    def requests_for(self, answers: Answers) -> tuple[str, ...]:
        """Return the paths to ask at each poll of an instance that was identified."""
        return self.requests if self.choose_requests is None else self.choose_requests(answers)


def good_body(answers: Answers, path: str) -> bytes | None:
    """Return what a path answered with status 200; None where it did not, or was not asked."""
    answer = answers.get(path)
    return answer.body if isinstance(answer, Answer) and answer.status == 200 else None


class _HealthBody(msgspec.Struct, gc=False):
    status: str | bool | None = None
    healthy: bool | None = None


_decode_health = msgspec.json.Decoder(_HealthBody | bool | str).decode
_decode_anything = msgspec.json.Decoder(msgspec.Raw).decode

USUAL_BODIES = frozenset((b'{"status":"ok"}', b"", b"OK", b"ok"))
"""The bodies of nearly all good health checks, accepted without parsing."""
GOOD_WORDS = frozenset(("ok", "healthy", "up", "pass", "ready", "alive"))
LOADING_WORDS = frozenset(("loading", "loading model", "starting"))


def read_health(answer: Answer | PollError) -> Verdict:
    """Judge the answer to a `/health` request.

    Healthy is 200 with an empty body, one of a few words, also as a JSON string, or a JSON object
    whose `status` is one of them or missing and whose `healthy` is not false. A page of HTML from
    some proxy is not. 503 with nothing, JSON or a word for it is loading: llama-server and the
    `fleet` engine's servers answer so until their model is in memory. A proxy whose backend is dead
    answers 503 with a page of its own.
    """
    if isinstance(answer, PollError):
        return Verdict(answer.outcome, answer.detail)
    if answer.status == 200 and answer.body in USUAL_BODIES:
        return HEALTHY
    if answer.status == 503 and _may_be_loading(answer.body):
        return Verdict(Outcome.LOADING, f"503: {excerpt(answer.body)}")
    if answer.status != 200:
        return status_verdict(HEALTH, answer)
    return _judge_word(_health_word(answer.body), answer.body)


def read_health_of_loaded(answer: Answer | PollError) -> Verdict:
    """Judge `/health` of a server that listens only once its model is loaded: no 503 is loading."""
    if isinstance(answer, Answer) and answer.status != 200:
        return status_verdict(HEALTH, answer)
    return read_health(answer)


def _may_be_loading(body: bytes) -> bool:
    word = _text(body)
    if not word or word in LOADING_WORDS:
        return True
    try:
        decode_json(_decode_anything, body, HEALTH)
    except PollError:
        return False
    return True


def _health_word(body: bytes) -> str:
    """Return the health that a body claims, as a lower-case word; the empty string for good."""
    try:
        claim = decode_json(_decode_health, body, HEALTH)
    except PollError:
        return _text(body)
    if isinstance(claim, _HealthBody):
        claim = "unhealthy" if claim.healthy is False else claim.status
    return "" if claim is None or claim is True else str(claim).lower()


def _text(body: bytes) -> str:
    return body[:MAX_DETAIL_CHARACTERS].decode(errors="replace").strip().lower()


def _judge_word(word: str, body: bytes) -> Verdict:
    if not word or word in GOOD_WORDS:
        return HEALTHY
    if word in LOADING_WORDS:
        return Verdict(Outcome.LOADING, excerpt(body))
    return Verdict(Outcome.BAD_BODY, f"{HEALTH} answered 200 with: {excerpt(body)}")


HEALTHY = Verdict(Outcome.OK)


def status_verdict(path: str, answer: Answer) -> Verdict:
    """Return the verdict on an answer whose status is not a good one."""
    if answer.status == 403 and not answer.body:
        return Verdict(
            Outcome.FORBIDDEN,
            f"{path} answered 403 with an empty body: so does an Ollama that is bound to loopback "
            "when the Host is a name it does not know; list the instance by IP address instead",
        )
    said = f": {excerpt(answer.body)}" if answer.body else ""
    return Verdict(Outcome.HTTP_STATUS, f"{path} answered {answer.status}{said}")


def healthy(values: Values, faults: Sequence[PollError] = ()) -> Verdict:
    """Return the verdict on an instance that is well and reported its metrics, but for faults."""
    if not faults:
        return Verdict(Outcome.OK, values=values)
    detail = "; ".join([fault.detail for fault in faults])
    return without_metrics(faults[0].outcome, clipped(detail), values)


def without_metrics(outcome: Outcome, detail: str, values: Values = NO_VALUES) -> Verdict:
    """Return the verdict on an instance that is well, but whose metrics could not be read."""
    return Verdict(Outcome.OK, values=values, metrics_outcome=outcome, metrics_detail=detail)


def metrics_body(path: str, answer: Answer | PollError) -> bytes:
    """Return the body of an answer with metrics.

    Raises:
        PollError: The request failed, or its status is not 200.
    """
    if isinstance(answer, PollError):
        # Not the answer itself: the frames that it passes hold it, and it would hold them.
        raise PollError(answer.outcome, answer.detail)
    if answer.status != 200:
        verdict = status_verdict(path, answer)
        raise PollError(verdict.outcome, verdict.detail)
    return answer.body


def decode_json(decode: Callable[[bytes], Decoded], body: bytes, path: str) -> Decoded:
    """Decode what `path` answered.

    Raises:
        PollError: BAD_BODY. It is not the JSON that `decode` reads, or nested without end.
    """
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PollError(Outcome.BAD_BODY, f"{path}: {clipped(str(error))}") from error


def excerpt(body: bytes) -> str:
    """Return the start of a body as one printable line, for messages."""
    longest_bytes = 4 * (MAX_DETAIL_CHARACTERS + 1)
    return clipped(body[:longest_bytes].decode(errors="replace"))


def clipped(text: str, limit: int = MAX_DETAIL_CHARACTERS) -> str:
    """Return the start of what an instance said as one printable line, for messages."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:limit])
    return shown if len(text) <= limit else f"{shown}…"


MAX_TOKENS_PER_SECOND = 10_000.0
"""The default of `metrics.max-tokens-per-second`. The engines that are known here serve a few
requests at once: some 1,000s of tokens/s on the largest GPUs. A server in full batches (a pool
behind one address) may be faster, and is why this is a setting; the lower it is, the fewer
instances one liar can stand for."""
MAX_LATENCY_S = 86_400.0
"""Clients and proxies give up after minutes to hours, overnight batches included."""
MAX_REQUESTS = 100_000.0
"""Each request that runs or waits holds a connection open."""
MAX_CLOCK_SKEW_S = 3600.0
"""By how much a start may seem to be in the future: clocks of two machines differ."""
EARLIEST_START_S = 1_577_836_800.0
"""2020. A start before it is not Unix time: seconds since boot, or a clock that was never set."""
MAX_YEARS_S = 10 * 365 * 86_400.0
"""Longer than any server has counted tokens."""
PROMPT_FACTOR = 100
"""Reading a prompt is some ten times as fast as generating; cached parts take no time at all."""


def drop_implausible(verdict: Verdict, *, now_s: float, max_tokens_per_second: float) -> Verdict:
    """Return the verdict without implausible values; the same object where there are none."""
    values = verdict.values
    if values is NO_VALUES:
        return verdict
    highest = {
        "tokens_per_second": max_tokens_per_second,
        "latency_p99_s": MAX_LATENCY_S,
        "requests_running": MAX_REQUESTS,
        "requests_queued": MAX_REQUESTS,
        "kv_cache_usage_ratio": 1.0,
        "start_time_s": now_s + MAX_CLOCK_SKEW_S,
        "generated_tokens_total": max_tokens_per_second * MAX_YEARS_S,
        "prompt_tokens_total": max_tokens_per_second * MAX_YEARS_S * PROMPT_FACTOR,
    }
    beyond = [name for name, most in highest.items() if (getattr(values, name) or 0.0) > most]
    if values.start_time_s is not None and values.start_time_s < EARLIEST_START_S:
        beyond.append("start_time_s")
    if not beyond:
        return verdict
    faults = [_fault(name, values) for name in beyond]
    kept = msgspec.structs.replace(values, **dict.fromkeys(beyond))
    return mark_implausible(msgspec.structs.replace(verdict, values=kept), faults)


def mark_implausible(verdict: Verdict, faults: Sequence[str]) -> Verdict:
    """Return the verdict without some values, which are implausible.

    Where others were broken, that stays the outcome: it is why most of them are missing.
    """
    outcome = verdict.metrics_outcome
    known = [verdict.metrics_detail] if verdict.metrics_detail else []
    return msgspec.structs.replace(
        verdict,
        metrics_outcome=Outcome.IMPLAUSIBLE if outcome is Outcome.OK else outcome,
        metrics_detail=clipped("; ".join([*known, *faults])),
    )


def _fault(name: str, values: Values) -> str:
    helps = " (metrics.max-tokens-per-second)" if "tokens" in name else ""
    return f"{name} is {getattr(values, name):.6g}, which no server has{helps}"
