"""Query a Prometheus over its HTTP API, within bounds of time and size."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Self, TypeVar

import aiohttp
import msgspec

from ollama_fleet.bounded_http import BodyTooLargeError, read_body

MAX_BODY_BYTES = 2**20
MAX_REASON_CHARACTERS = 200
OK = 200
REFUSALS = frozenset({"bad_data", "execution", "timeout", "canceled"})
"""Types of errors that are about the query, not about the server."""
# Brackets within brackets, ever deeper, exhaust the decoder.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

BodyT = TypeVar("BodyT")


def quoted(label: str) -> str:
    """Return the value of a label as a query has it; PromQL knows no surrogates of JSON."""
    return json.dumps(label, ensure_ascii=False)


class PrometheusError(Exception):
    """There is no good answer; the text begins with a verb."""


class QueryRefusedError(PrometheusError):
    """Prometheus does not evaluate the query; `reason` is what it says."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"refuses the query: {reason[:MAX_REASON_CHARACTERS]}")


class Series(msgspec.Struct, frozen=True):
    """One series of an instant query."""

    metric: dict[str, str]
    value: tuple[float, str]
    """Time and value."""

    @property
    def number(self) -> float:
        """Return the value; NaN where there is none."""
        return _number(self.value[1])


class _Timings(msgspec.Struct):
    evaluation_s: float = msgspec.field(default=0.0, name="evalTotalTime")


class _Stats(msgspec.Struct):
    timings: _Timings = msgspec.field(default_factory=_Timings)
    """VictoriaMetrics answers without it."""


class Result(msgspec.Struct):
    """The answer to an instant query."""

    series: list[Series] = msgspec.field(name="result")
    stats: _Stats | None = None

    @property
    def evaluation_s(self) -> float:
        """Return how long Prometheus took; 0 where it does not say."""
        return self.stats.timings.evaluation_s if self.stats else 0.0


class _QueryBody(msgspec.Struct):
    data: Result


class History(msgspec.Struct, frozen=True):
    """One series of a range query."""

    metric: dict[str, str]
    values: list[tuple[float, str]]
    """Times and values, oldest first."""

    @property
    def numbers(self) -> list[tuple[float, float]]:
        """Return times and values; NaN where there is none."""
        return [(at_s, _number(text)) for at_s, text in self.values]


class _Histories(msgspec.Struct):
    result: list[History]


class _RangeBody(msgspec.Struct):
    data: _Histories


class LoadedRule(msgspec.Struct, frozen=True):
    """A rule that Prometheus evaluates."""

    name: str
    expr: str = msgspec.field(default="", name="query")
    """As Prometheus writes it, not as the rule file does."""
    for_s: float = msgspec.field(default=0.0, name="duration")
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    type: str = ""
    """`alerting` or `recording`."""


class LoadedGroup(msgspec.Struct, frozen=True):
    """Rules that Prometheus evaluates together."""

    name: str
    rules: list[LoadedRule]


class _Groups(msgspec.Struct):
    groups: list[LoadedGroup]


class _RulesBody(msgspec.Struct):
    data: _Groups


class _NamesBody(msgspec.Struct):
    data: list[str]


class _TextBody(msgspec.Struct):
    data: str


class _Failure(msgspec.Struct):
    error_type: str = msgspec.field(name="errorType")
    error: str


class PrometheusClient:
    """Sends queries to one Prometheus; keeps its connections until it is closed."""

    def __init__(self, url: str, *, timeout_s: float, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        """Take a base URL without a slash at its end."""
        self.url = url
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def query(self, expression: str, *, at_s: float | None = None) -> Result:
        """Return the result of an instant query, now or at a moment of the past.

        Raises:
            PrometheusError: There is none.
        """
        moment = {} if at_s is None else {"time": f"{at_s:.3f}"}
        form = {"query": expression, "stats": "true", **moment}
        body = await self._get("query", form, _QueryBody)
        return body.data

    async def query_range(
        self, expression: str, *, start_s: float, end_s: float, step_s: float
    ) -> list[History]:
        """Return the series of a range query.

        Raises:
            PrometheusError: There is no result.
        """
        span = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:.3f}"}
        return (
            await self._get("query_range", {"query": expression, **span}, _RangeBody)
        ).data.result

    async def rule_groups(self) -> list[LoadedGroup]:
        """Return the rules that this Prometheus evaluates.

        Raises:
            PrometheusError: It does not say.
        """
        body = await self._get("rules", {"exclude_alerts": "true"}, _RulesBody)
        return body.data.groups

    async def series_names(self, selector: str, *, since_s: float) -> list[str]:
        """Return the names of the series that match, read from the index.

        Args:
            selector: Which series.
            since_s: Unix time. Series that ended some hours before it may be among them.

        Raises:
            PrometheusError: It does not say.
        """
        form = {"match[]": selector, "start": f"{since_s:.3f}"}
        return (await self._get("label/__name__/values", form, _NamesBody)).data

    async def formatted(self, expression: str) -> str:
        """Return an expression as this Prometheus writes it.

        Raises:
            PrometheusError: It does not: the expression is wrong, or it is VictoriaMetrics.
        """
        return (await self._get("format_query", {"query": expression}, _TextBody)).data

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _get(self, endpoint: str, form: dict[str, str], type_: type[BodyT]) -> BodyT:
        session = self._session = self._session or self._new_session()
        url = f"{self.url}/api/v1/{endpoint}"
        try:
            async with session.get(url, params=form, allow_redirects=False) as response:
                body = await read_body(response.content, self._max_body_bytes)
        except BodyTooLargeError as error:
            raise PrometheusError(f"answers with {error}") from error
        except TimeoutError as error:
            message = f"sent no complete answer within {self._timeout_s:g} s"
            raise PrometheusError(message) from error
        except (aiohttp.ClientError, UnicodeError) as error:  # a name that DNS has no way to spell
            reason = str(error) or type(error).__name__
            raise PrometheusError(f"cannot be asked: {reason[:MAX_REASON_CHARACTERS]}") from error
        return _decoded(response.status, body, type_)

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            # A small body can unpack to a huge one.
            auto_decompress=False,
        )


def _number(text: str) -> float:
    with suppress(ValueError):
        return float(text)
    return math.nan


def _decoded(status: int, body: bytes, type_: type[BodyT]) -> BodyT:
    if status != OK:
        with suppress(*UNDECODABLE):
            failure = msgspec.json.decode(body, type=_Failure)
            if failure.error_type in REFUSALS:
                raise QueryRefusedError(failure.error)
        raise PrometheusError(
            f"answers with status {status}; check that the URL and its path are those of Prometheus"
        )
    try:
        return msgspec.json.decode(body, type=type_)
    except UNDECODABLE as error:
        raise PrometheusError(f"does not answer as Prometheus does: {error}") from error
