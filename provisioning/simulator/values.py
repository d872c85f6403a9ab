"""What an instance says about itself at a moment: counters as straight lines through time.

No timer runs: an instance's counters are computed when it is asked, from the moment of its last
change (start, fault, healing), its counts then and their growth per second since.

The body of `GET /api/metrics` is one JSON object. Required, the article's three:

    tokens_per_second         number: generated tokens per second while generating
    latency_p99               number: seconds
    error_count               integer, cumulative since the start

Optional, this stack's own, each of them absent where a server does not count it (none of them
is given with `article_metrics`):

    errors                    object: error type -> integer, cumulative; sums to error_count
    model, version            strings
    requests_running          integer
    requests_queued           integer
    generated_tokens_total    integer, cumulative
    prompt_tokens_total       integer, cumulative
    generating_seconds_total  number, cumulative: generated_tokens_total grows by
                              tokens_per_second times its growth
    start_time_seconds        number: seconds since 1970 UTC
    request_duration_seconds  object, only with `request_histogram`:
                              {"buckets": {"0.05": n, ..., "+Inf": n}, "sum": seconds};
                              n = requests at or below the boundary, cumulative since the start
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from provisioning.simulator.spec import P50_S, P99_S, Instance

FINE_BOUNDARIES_S = (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25)
"""Close together around 0.15, where the latency alert is."""
COARSE_BOUNDARIES_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
BOUNDARIES_S = FINE_BOUNDARIES_S + COARSE_BOUNDARIES_S
"""Upper ends of the request durations' buckets below +Inf."""
N_BUCKETS = len(BOUNDARIES_S) + 1

GENERATING_SHARE = 0.8
"""Of a request's duration; the rest is reading the prompt."""
SIGMA = math.log(P99_S / P50_S) / 2.3263
"""Of the durations' log-normal distribution; 2.3263 is the normal one's 99th percentile."""
MEAN_DURATION_S = P50_S * math.exp(SIGMA**2 / 2)

TIMEOUT_SHARE = 0.6
OVERLOADED_SHARE = 0.4
"""Of the failed requests; that a server runs out of memory is a fault, and never usual."""


class Counters(NamedTuple):
    """What an instance has done since it started; or, per second, what it does."""

    requests: float = 0.0
    duration_s: float = 0.0
    generating_s: float = 0.0
    generated_tokens: float = 0.0
    prompt_tokens: float = 0.0
    timeouts: float = 0.0
    out_of_memory: float = 0.0
    overloaded: float = 0.0

    def __add__(self, other: tuple[float, ...]) -> Counters:  # type: ignore[override]
        """Add up field by field, unlike other tuples: these are vectors."""
        return Counters(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def times(self, factor: float) -> Counters:
        """Multiply every field."""
        return Counters(*(value * factor for value in self))


NOTHING = Counters()
NO_REQUESTS = (0.0,) * N_BUCKETS


@dataclass(frozen=True, slots=True)
class Condition:
    """How an instance does, as faults have it."""

    is_running: bool = True
    """False while it is killed or frozen: nothing grows then."""
    speed_factor: float = 1.0
    error_ratio: float | None = None
    """None: its own."""


SOUND = Condition()


@dataclass(frozen=True, slots=True)
class Life:
    """An instance between its start and its end, or the next change of its condition."""

    start_s: float
    """When the server started, in seconds since 1970 UTC."""
    since_s: float
    """When the present condition began; the counts `at_since` are of that moment."""
    at_since: Counters
    per_second: Counters
    requests_at_since: tuple[float, ...]
    """Requests at or below each boundary and, last, all of them."""
    tokens_per_second: float
    latency_factor: float
    error_ratio: float

    @property
    def latency_p99_s(self) -> float:
        """Return the 99th percentile of its present request durations."""
        return P99_S * self.latency_factor

    def counters(self, now_s: float) -> Counters:
        """Return its counts at a moment; before `since_s`, those of `since_s`."""
        return self.at_since + self.per_second.times(max(0.0, now_s - self.since_s))

    def requests_by_boundary(self, now_s: float) -> tuple[float, ...]:
        """Return the requests at or below each of BOUNDARIES_S and, last, all of them."""
        n_new = self.per_second.requests * max(0.0, now_s - self.since_s)
        return tuple(
            before + n_new * share
            for before, share in zip(
                self.requests_at_since, duration_shares(self.latency_factor), strict=True
            )
        )


def born(instance: Instance, *, start_s: float, condition: Condition = SOUND) -> Life:
    """Begin a life with every counter at zero."""
    return Life(
        start_s=start_s,
        since_s=start_s,
        at_since=NOTHING,
        per_second=growth(instance, condition),
        requests_at_since=NO_REQUESTS,
        tokens_per_second=instance.tokens_per_second * condition.speed_factor,
        latency_factor=instance.latency_factor / condition.speed_factor,
        error_ratio=_error_ratio(instance, condition),
    )


def changed(life: Life, instance: Instance, *, now_s: float, condition: Condition) -> Life:
    """Go on living under another condition; no counter jumps or falls."""
    return replace(
        born(instance, start_s=life.start_s, condition=condition),
        since_s=max(now_s, life.since_s),
        at_since=life.counters(now_s),
        requests_at_since=life.requests_by_boundary(now_s),
    )


def with_request(life: Life, done: Counters) -> Life:
    """Count a request that was really made, on top of the believed load."""
    duration_s = done.duration_s / max(done.requests, 1.0)
    reached = (*(duration_s <= boundary for boundary in BOUNDARIES_S), True)
    return replace(
        life,
        at_since=life.at_since + done,
        requests_at_since=tuple(
            before + done.requests * is_below
            for before, is_below in zip(life.requests_at_since, reached, strict=True)
        ),
    )


def growth(instance: Instance, condition: Condition) -> Counters:
    """Return what an instance does per second under its believed load."""
    if not condition.is_running:
        return NOTHING
    n = instance.requests_per_s
    mean_s = MEAN_DURATION_S * instance.latency_factor / condition.speed_factor
    ratio = _error_ratio(instance, condition)
    speed = instance.tokens_per_second * condition.speed_factor
    return Counters(
        requests=n,
        duration_s=n * mean_s,
        generating_s=n * mean_s * GENERATING_SHARE,
        generated_tokens=n * mean_s * GENERATING_SHARE * speed,
        prompt_tokens=n * instance.prompt_tokens_per_request,
        timeouts=n * ratio * TIMEOUT_SHARE,
        overloaded=n * ratio * OVERLOADED_SHARE,
    )


def duration_shares(latency_factor: float) -> tuple[float, ...]:
    """Return which share of requests takes at most each boundary; the last, of +Inf, is 1."""
    median_s = P50_S * latency_factor
    return (
        *(
            0.5 + 0.5 * math.erf(math.log(boundary / median_s) / (SIGMA * math.sqrt(2)))
            for boundary in BOUNDARIES_S
        ),
        1.0,
    )


def n_running(instance: Instance, life: Life, now_s: float) -> int:
    """Return 1 in as many seconds as its load keeps it busy, spread as if by chance, else 0."""
    # Multiplicative hashing, as it is quick: this is asked with every poll.
    throw = ((int(now_s) + instance.index * 40_503) * 2_654_435_761 & 0xFFFF_FFFF) >> 22
    return 1 if throw < 1024 * life.per_second.duration_s else 0


def _error_ratio(instance: Instance, condition: Condition) -> float:
    return instance.error_ratio if condition.error_ratio is None else condition.error_ratio
