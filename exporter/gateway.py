"""Read what gateways count of the requests that pass them: durations, errors, tokens."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import aiohttp

from exporter import catalogue
from exporter.counters import Delta, TrafficCounters
from exporter.engines.base import MAX_AMOUNT, MAX_NAME_CHARACTERS, clipped
from exporter.histograms import boundaries_of, gained
from exporter.model import Histogram, model_name
from exporter.poller import MIN_STALE_S, STALE_INTERVALS
from exporter.steps import with_pauses
from ollama_fleet.bounded_http import BodyTooLargeError, read_body

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from exporter.selfmetrics import SelfMetrics
    from ollama_fleet.clock import Clock


log = logging.getLogger("exporter.gateway")

METRICS = "/metrics"
TIMEOUT_S = 5.0
MAX_BODY_BYTES = 32 * 2**20
"""A gateway writes at most 2,048 pairs of model and node, in 12 MB."""
MAX_REASON_CHARACTERS = 300
SERVER_ERROR = "5xx"
"""The error type of failed requests: one for all status codes, so that each first one counts."""
OK = 200

HISTOGRAMS: Final = (
    catalogue.GATEWAY_REQUEST_DURATION,
    catalogue.GATEWAY_TIME_TO_FIRST_TOKEN,
    catalogue.GATEWAY_QUEUE_TIME,
)
WANTED = re.compile(
    rf"^({'|'.join(series.name for series in HISTOGRAMS)})_(?:bucket|(sum))"
    r"\{([^\n]*)\} (\S+)".encode(),
    re.MULTILINE,
)
COUNTED = re.compile(
    rf"^({catalogue.GATEWAY_REQUESTS.name}|{catalogue.GATEWAY_GENERATED_TOKENS.name})"
    r"\{([^\n]*)\} (\S+)".encode(),
    re.MULTILINE,
)
LABEL = re.compile(rb'(\w+)="((?:[^"\\\n]|\\.)*)"')


class GatewayError(Exception):
    """A gateway's page cannot be read; the text says why."""


Pair = tuple[str, str]
"""Model and node."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one gateway has counted since it started, by model."""

    histograms: Mapping[catalogue.Series, Mapping[str, Histogram]]
    tokens: Mapping[str, float]
    errors: Mapping[Pair, float]
    """Failed requests; 0 where none of some requests failed."""


def read_page(body: bytes) -> Page:
    """Return what a page says.

    Raises:
        GatewayError: It is no page of a gateway, or has values or buckets that cannot be.
    """
    if catalogue.GATEWAY_BUILD_INFO.name.encode() not in body:
        raise GatewayError("its /metrics has no series of a gateway; give the ops listener's URL")
    tokens: dict[str, list[float]] = {}
    errors: dict[Pair, list[float]] = {}
    for found in with_pauses(COUNTED.finditer(body)):
        name, labels, text = found.groups()
        of, amount = _labels(labels), _amount(text)
        model = of.get("model", "")
        if name == catalogue.GATEWAY_GENERATED_TOKENS.name.encode():
            tokens.setdefault(model, []).append(amount)
        else:
            is_error = of.get("code", "").startswith("5")
            errors.setdefault((model, of.get("node", "")), []).append(amount if is_error else 0.0)
    return Page(
        dict(_histograms(body)),
        {model: math.fsum(some) for model, some in tokens.items()},
        {pair: math.fsum(some) for pair, some in errors.items()},
    )


@dataclass(slots=True)
class _Sum:
    """Histograms of one model in the making: those of all its nodes."""

    buckets: dict[str, list[float]] = field(default_factory=dict)
    """By upper bound."""
    sums_s: list[float] = field(default_factory=list)

    def histogram(self) -> Histogram:
        les = tuple(sorted(self.buckets, key=float))
        counts = tuple([math.fsum(self.buckets[le]) for le in les])
        boundaries_s = boundaries_of(les)
        if {len(self.sums_s)} != {len(some) for some in self.buckets.values()}:
            raise ValueError("has series of different buckets")
        if list(counts) != sorted(counts):
            raise ValueError("is not cumulative")
        # fsum: nodes may come in another order next time, and no sum may seem to go back.
        return Histogram(counts, math.fsum(self.sums_s), boundaries_s)


def _histograms(body: bytes) -> Iterator[tuple[catalogue.Series, dict[str, Histogram]]]:
    sums: dict[str, dict[str, _Sum]] = {series.name: {} for series in HISTOGRAMS}
    for found in with_pauses(WANTED.finditer(body)):
        name, is_sum, labels, text = found.groups()
        of, amount = _labels(labels), _amount(text)
        of_model = sums[name.decode()].setdefault(of.get("model", ""), _Sum())
        if is_sum:
            of_model.sums_s.append(amount)
        else:
            of_model.buckets.setdefault(of.get("le", ""), []).append(amount)
    for series in HISTOGRAMS:
        try:
            yield (
                series,
                {model: one.histogram() for model, one in sums[series.name].items()},
            )
        except ValueError as error:
            raise GatewayError(f"{series.name} {error}") from None


def _amount(text: bytes) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= MAX_AMOUNT:  # nor is NaN
        shown = clipped(text.decode(errors="replace"))
        raise GatewayError(f"its /metrics has a value that cannot be: {shown}")
    return amount


@lru_cache(maxsize=131_072)
def _labels(text: bytes) -> Mapping[str, str]:
    """Return the labels of a sample; a page has the same ones each time."""
    labels = {
        name.decode(): clipped(_unescaped(value), MAX_NAME_CHARACTERS)
        for name, value in LABEL.findall(text)
    }
    if "model" in labels:
        labels["model"] = model_name(labels["model"])
    return labels


def _unescaped(value: bytes) -> str:
    plain = re.sub(rb"\\(.)", lambda found: b"\n" if found[1] == b"n" else found[1], value)
    return plain.decode(errors="replace")


def add_gains(counters: TrafficCounters, before: Page | None, now: Page) -> None:
    """Add what a gateway has counted between two pages.

    The first page only sets the marks. A model that is new on a later one counts in full, as does
    a page whose counts went back: the gateway has started again.
    """
    for model in {*now.tokens}.union(*now.histograms.values()):
        counters.record("", model, _model_gain(before, now, model))
    for (model, node), count in now.errors.items():
        known = None if before is None else before.errors.get((model, node), 0.0)
        n_failed = _risen(known, count)
        if n_failed or before is None or (model, node) not in before.errors:
            gain = Delta(errors=((SERVER_ERROR, n_failed),), failed_requests=n_failed)
            counters.record(node, model, gain)


def _model_gain(before: Page | None, now: Page, model: str) -> Delta:
    tokens = None
    if model in now.tokens:
        known = None if before is None else before.tokens.get(model, 0.0)
        tokens = _risen(known, now.tokens[model])
    durations, first_token, queue_time = [
        _gained(before, now, series, model) for series in HISTOGRAMS
    ]
    return Delta(
        generated_tokens=tokens,
        durations=durations,
        time_to_first_token=first_token,
        queue_time=queue_time,
    )


def _risen(before: float | None, now: float) -> float:
    if before is None:
        return 0.0
    return now - before if now >= before else now


def _gained(
    before: Page | None, now: Page, series: catalogue.Series, model: str
) -> Histogram | None:
    histogram = now.histograms[series].get(model)
    if histogram is None:
        return None
    known = None if before is None else before.histograms[series].get(model)
    if before is not None and known is None:
        return histogram
    return gained(known, histogram)


class Gateway:
    """One gateway: its last page, and when that was read."""

    def __init__(self, url: str, metrics: SelfMetrics, clock: Clock) -> None:
        self.url = url
        self._clock = clock
        self._page: Page | None = None
        self._fault: str | None = None
        """Of the last read; empty: it was good; None: there was none."""
        self._read_at_s = -math.inf
        self._is_up, self._last_success_s = metrics.gateway(url)

    def is_fresh(self, max_age_s: float) -> bool:
        """Say whether it was read within a time."""
        return self._clock.monotonic_s() - self._read_at_s <= max_age_s

    async def read(self, session: aiohttp.ClientSession, counters: TrafficCounters) -> None:
        """Read its page and add what it has counted since the last one; a failure is logged."""
        try:
            page = await self._fetch(session)
        except GatewayError as error:
            self._note(str(error))
            return
        add_gains(counters, self._page, page)
        self._page, self._read_at_s = page, self._clock.monotonic_s()
        self._last_success_s.set(self._clock.unix_s())
        self._note("")

    async def _fetch(self, session: aiohttp.ClientSession) -> Page:
        try:
            async with session.get(f"{self.url}{METRICS}", allow_redirects=False) as response:
                if response.status != OK:
                    raise GatewayError(f"its /metrics answered {response.status}, expected 200")
                body = await read_body(response.content, MAX_BODY_BYTES)
        except TimeoutError:
            raise GatewayError(f"sent no whole /metrics within {TIMEOUT_S:g} s") from None
        except BodyTooLargeError as error:
            raise GatewayError(f"its /metrics has {error}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
            raise GatewayError(f"cannot be read: {reason or type(error).__name__}") from None
        return await asyncio.to_thread(read_page, body)

    def _note(self, fault: str) -> None:
        self._is_up.set(not fault)
        if fault and not self._fault:
            log.warning("gateway cannot be read gateway=%s: %s", self.url, fault)
        elif not fault and self._fault:
            log.info("gateway is read again gateway=%s", self.url)
        self._fault = fault


class GatewayReader:
    """Reads all gateways once per interval."""

    def __init__(
        self,
        urls: Collection[str],
        counters: TrafficCounters,
        metrics: SelfMetrics,
        clock: Clock,
        *,
        nodes: Callable[[], Collection[str]],
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._nodes = nodes
        self._gateways = [Gateway(url, metrics, clock) for url in dict.fromkeys(urls)]

    async def run(self, interval_s: float) -> None:
        """Read every interval, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        headers = {"Accept": "text/plain", "Accept-Encoding": "identity"}
        max_age_s = max(MIN_STALE_S, STALE_INTERVALS * interval_s)
        async with aiohttp.ClientSession(
            timeout=timeout,
            headers=headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            while True:
                started_s = self._clock.monotonic_s()
                reads = [one.read(session, self._counters) for one in self._gateways]
                await asyncio.gather(*reads)
                self._counters.keep_nodes({*self._nodes()})
                self._counters.is_stale = not any(one.is_fresh(max_age_s) for one in self._gateways)
                await self._clock.sleep(started_s + interval_s - self._clock.monotonic_s())
