"""One simulated instance: its models, and the counters that it reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from provisioning.simulator.spec import (
    KEEP_ALIVE_S,
    P50_S,
    P99_S,
    SPEED_BY_HARDWARE,
    Hardware,
    Instance,
    Model,
)

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


def speed_partly_on_cpu(instance: Instance, cpu_ratio: float) -> float:
    """Return the speed, against the usual, with `cpu_ratio` of the model on its node's CPU."""
    if instance.hardware is not Hardware.GPU:
        return 1.0
    cpu_slowness = SPEED_BY_HARDWARE[Hardware.GPU] / SPEED_BY_HARDWARE[Hardware.EPYC_9654]
    return 1.0 / (1.0 - cpu_ratio + cpu_ratio * cpu_slowness)


@dataclass(frozen=True, slots=True)
class Lifetime:
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


def new_lifetime(instance: Instance, *, start_s: float, condition: Condition = SOUND) -> Lifetime:
    """Begin a life with every counter at zero."""
    return Lifetime(
        start_s=start_s,
        since_s=start_s,
        at_since=NOTHING,
        per_second=growth(instance, condition),
        requests_at_since=NO_REQUESTS,
        tokens_per_second=instance.tokens_per_second * condition.speed_factor,
        latency_factor=instance.latency_factor / condition.speed_factor,
        error_ratio=_error_ratio(instance, condition),
    )


def changed(life: Lifetime, instance: Instance, *, now_s: float, condition: Condition) -> Lifetime:
    """Go on living under another condition; no counter jumps or falls."""
    return replace(
        new_lifetime(instance, start_s=life.start_s, condition=condition),
        since_s=max(now_s, life.since_s),
        at_since=life.counters(now_s),
        requests_at_since=life.requests_by_boundary(now_s),
    )


def with_request(life: Lifetime, done: Counters) -> Lifetime:
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


def n_running(instance: Instance, life: Lifetime, now_s: float) -> int:
    """Return 1 in as many seconds as its load keeps it busy, spread as if by chance, else 0."""
    # Multiplicative hashing, as it is quick: this is asked with every poll.
    throw = ((int(now_s) + instance.index * 40_503) * 2_654_435_761 & 0xFFFF_FFFF) >> 22
    return 1 if throw < 1024 * life.per_second.duration_s else 0


def _error_ratio(instance: Instance, condition: Condition) -> float:
    return instance.error_ratio if condition.error_ratio is None else condition.error_ratio


@dataclass(slots=True)
class Loaded:
    """A model in memory."""

    model: Model
    keep_alive_s: float = KEEP_ALIVE_S
    free_since_s: float | None = None
    """When its last request ended; None: the instance's imagined clients go on asking it."""
    n_users: int = 0
    is_loading: bool = False
    """It has its place, and is not listed yet."""
    loaded_s: float = 0.0
    """When the load ended, by the loop's clock."""

    @property
    def is_in_use(self) -> bool:
        """Say whether requests wait for it or are answered by it."""
        return self.is_loading or self.n_users > 0

    def expires_s(self, now_s: float) -> float:
        """Return when it will be unloaded if nobody asks it again."""
        since_s = now_s if self.is_in_use or self.free_since_s is None else self.free_since_s
        return since_s + self.keep_alive_s

    def is_over(self, now_s: float) -> bool:
        """Say whether its time is over."""
        return not self.is_in_use and self.expires_s(now_s) <= now_s

    @contextmanager
    def using(self, keep_alive_s: float | None, clock: Callable[[], float]) -> Iterator[None]:
        """Keep it in memory; its time to stay begins when nobody uses it any more."""
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
            self.free_since_s = clock()
        self.n_users += 1
        try:
            yield
        finally:
            self.n_users -= 1
            if self.free_since_s is not None:
                self.free_since_s = clock()


def canonical(name: str) -> str:
    """Return what tells one model from another: any case, `latest` where no tag is given."""
    lowered = name.lower()
    return lowered if ":" in lowered.rpartition("/")[2] else f"{lowered}:latest"


class ModelStore:
    """What one instance has in its store and in memory."""

    def __init__(
        self, installed: Iterable[Model], *, max_loaded: int, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        """Install models; the first is loaded."""
        self._installed = {canonical(model.name): model for model in installed}
        self._max_loaded = max_loaded
        self._keep_alive_s = keep_alive_s
        self._loaded: dict[str, Loaded] = {}
        self.restart()

    @property
    def installed(self) -> tuple[Model, ...]:
        """Return the models in the store."""
        return tuple(self._installed.values())

    def restart(self) -> None:
        """Be as after the server's start, once its imagined clients have asked."""
        first = [*self._installed.items()][:1]
        self._loaded = {name: Loaded(model, self._keep_alive_s) for name, model in first}

    def find(self, name: str) -> Model | None:
        """Return the installed model of a name as clients write it."""
        return self._installed.get(canonical(name))

    def install(self, model: Model) -> None:
        """Put a model into the store."""
        self._installed[canonical(model.name)] = model

    def copy(self, model: Model, name: str) -> None:
        """Put a model into the store under one more name."""
        tagged = name if canonical(name) == name.lower() else f"{name}:latest"
        self.install(replace(model, name=tagged))

    def delete(self, model: Model) -> None:
        """Take a model out of the store; while it is loaded it goes on working."""
        del self._installed[canonical(model.name)]

    def clear(self) -> None:
        """Empty the store and the memory."""
        self._installed.clear()
        self._loaded.clear()

    def loaded(self, now_s: float) -> list[Loaded]:
        """Return the loaded models, the one that stays longest first."""
        loaded = [one for one in self._in_memory(now_s).values() if not one.is_loading]
        return sorted(loaded, key=lambda one: -one.expires_s(now_s))

    def find_loaded(self, model: Model, now_s: float) -> Loaded | None:
        """Return a model in memory, or None where it has to be loaded."""
        return next((one for one in self.loaded(now_s) if one.model == model), None)

    def reserve(self, model: Model, now_s: float) -> Loaded | None:
        """Give a model that is to be loaded its place in memory; None: there is no room."""
        name = canonical(model.name)
        if name not in self._in_memory(now_s):
            if len(self._loaded) >= self._max_loaded:
                return None
            self._loaded[name] = Loaded(model, self._keep_alive_s, free_since_s=now_s)
        loaded = self._loaded[name]
        loaded.model, loaded.is_loading = model, True
        return loaded

    def victim(self) -> Model:
        """Return the model that has to go before another is loaded: idle, for the shortest time."""
        in_memory = self._loaded.values()
        return min(in_memory, key=lambda one: (one.is_in_use, one.keep_alive_s)).model

    def take(self, model: Model) -> None:
        """Take a model out of memory at once."""
        self._loaded.pop(canonical(model.name), None)

    def expire(self, model: Model) -> None:
        """Unload a model as soon as nobody uses it."""
        loaded = self._loaded.get(canonical(model.name))
        if loaded is not None:
            loaded.keep_alive_s, loaded.free_since_s = 0.0, 0.0

    def expire_all(self) -> None:
        """Unload every model as soon as nobody uses it."""
        for loaded in tuple(self._loaded.values()):
            self.expire(loaded.model)

    def _in_memory(self, now_s: float) -> dict[str, Loaded]:
        """Drop the models whose time is over; return the others by name."""
        self._loaded = {
            name: loaded for name, loaded in self._loaded.items() if not loaded.is_over(now_s)
        }
        return self._loaded
