"""Run every rule's expression against a live Prometheus.

In:   Settings and Prometheus' URL.
Out:  a Result: for each rule whether it holds, which of its series are missing, how long it took.
Fails with CheckError when Prometheus cannot be asked. Nothing is changed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import aiohttp

from alerts import rulebook
from alerts.errors import CheckError
from alerts.explain import mentions
from alerts.model import Alert, Group, Recording, Severity
from alerts.series import ALL_SERIES
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Kind

TIMEOUT_S = 30.0
SCRAPED = ("up", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling")


class State(StrEnum):
    """What a rule's expression gives now."""

    FIRES = "fires"
    """The condition of an alert holds; it fires once it has held for long enough."""
    QUIET = "quiet"
    RECORDS = "records"
    NO_DATA = "no data"
    """A series that it reads is not there, so it cannot judge."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Checked:
    """One rule, and what Prometheus made of it."""

    group: str
    name: str
    severity: str
    """Empty for recording rules."""
    state: State
    n_results: int
    missing: tuple[str, ...]
    """Series that it reads and that are not there."""
    evaluation_s: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """All rules, in the order of the files."""

    rules: tuple[Checked, ...]
    not_loaded: tuple[str, ...]
    """Rules of ours that this Prometheus does not evaluate itself."""

    @property
    def evaluation_s(self) -> float:
        """Return how long Prometheus took for all expressions together."""
        return sum(rule.evaluation_s for rule in self.rules)

    @property
    def n_refused(self) -> int:
        """Return how many expressions Prometheus did not take."""
        return sum(rule.state is State.REFUSED for rule in self.rules)

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON's types."""
        return {
            "evaluation_seconds": self.evaluation_s,
            "not_loaded": list(self.not_loaded),
            "rules": [asdict(rule) for rule in self.rules],
        }


async def run(settings: Settings, url: str) -> Result:
    """Ask Prometheus for every expression, one after the other.

    Raises:
        CheckError: It cannot be asked.
    """
    groups = rulebook.groups(settings)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        prometheus = _Prometheus(session, url.rstrip("/"))
        loaded = await prometheus.loaded()
        present = await prometheus.present(_readable(groups))
        rules = tuple(
            [
                await _checked(prometheus, group.name, rule, present)
                for group in groups
                for rule in group.rules
            ]
        )
    names = dict.fromkeys(rule.name for rule in rules)
    return Result(rules, tuple(name for name in names if name not in loaded))


def _readable(groups: Iterable[Group]) -> tuple[str, ...]:
    """Return the names of all series that an expression may read."""
    recorded = (rule.name for group in groups for rule in group.recordings)
    return (*SCRAPED, *_published(), *dict.fromkeys(recorded))


def _published() -> Iterable[str]:
    for series in ALL_SERIES:
        if series.kind is Kind.HISTOGRAM:
            yield from (f"{series.name}_bucket", f"{series.name}_count")
        elif series is not catalogue.FLEET_THRESHOLD:
            yield series.name


async def _checked(
    prometheus: _Prometheus, group: str, rule: Recording | Alert, present: dict[str, bool]
) -> Checked:
    answer = await prometheus.evaluate(rule.expr)
    missing = tuple(
        name for name, there in present.items() if not there and mentions(rule.expr, name)
    )
    return Checked(
        group=group,
        name=rule.name,
        severity=str(rule.severity) if isinstance(rule, Alert) else "",
        state=_state(rule, answer, missing),
        n_results=answer.n_results,
        missing=missing,
        evaluation_s=answer.evaluation_s,
        error=answer.error,
    )


def _state(rule: Recording | Alert, answer: _Answer, missing: tuple[str, ...]) -> State:
    if answer.error:
        return State.REFUSED
    if isinstance(rule, Recording):
        return State.RECORDS if answer.n_results else State.NO_DATA
    if answer.n_results:
        return State.QUIET if rule.severity is Severity.NONE else State.FIRES
    return State.NO_DATA if missing else State.QUIET


@dataclass(frozen=True, slots=True)
class _Answer:
    n_results: int
    evaluation_s: float
    error: str = ""


class _Prometheus:
    """The few calls of Prometheus' HTTP API that a check needs."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        # A password in the address must not be repeated in messages.
        self._shown = re.sub(r"//[^/@]*@", "//", url)

    async def evaluate(self, expression: str) -> _Answer:
        body = await self._ask("query", {"query": expression, "stats": "true"})
        if body["status"] != "success":
            return _Answer(0, 0.0, str(body.get("error", "no reason given")))
        # VictoriaMetrics answers without statistics.
        timings = (body["data"].get("stats") or {}).get("timings") or {}
        return _Answer(len(body["data"]["result"]), float(timings.get("evalTotalTime", 0.0)))

    async def present(self, names: Iterable[str]) -> dict[str, bool]:
        """Return for each name whether it has a series now."""
        return {name: bool((await self.evaluate(f"count({name})")).n_results) for name in names}

    async def loaded(self) -> set[str]:
        """Return the names of the rules that this Prometheus evaluates."""
        body = await self._ask("rules", {})
        groups = body.get("data", {}).get("groups", [])
        return {str(rule["name"]) for group in groups for rule in group["rules"]}

    async def _ask(self, endpoint: str, form: dict[str, str]) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{endpoint}"
        helps = "is --prometheus the address of a Prometheus that runs?"
        try:
            async with self._session.get(url, params=form) as answer:
                body: Any = await answer.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            seen = str(error) or type(error).__name__
            shown = f"{self._shown}/api/v1/{endpoint}"
            raise CheckError(f"cannot ask {shown}: {seen}; {helps}") from error
        if not _is_prometheus_answer(body):
            raise CheckError(
                f"{self._shown}/api/v1/{endpoint} does not answer as Prometheus does (status "
                f"{answer.status}); {helps}"
            )
        return dict(body)


def _is_prometheus_answer(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    if body.get("status") == "error":
        return body.get("errorType") in ("bad_data", "execution", "timeout", "canceled")
    data = body.get("data")
    known = isinstance(data, dict) and (
        isinstance(data.get("result"), list) or isinstance(data.get("groups"), list)
    )
    return body.get("status") == "success" and known
