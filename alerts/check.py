"""Run every rule's expression against a live Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from alerts import rulebook
from alerts.errors import CheckError
from alerts.explain import mentions
from alerts.model import Alert, Group, Recording, Severity
from alerts.series import ALL_SERIES
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Kind
from ollama_fleet.prometheus import PrometheusClient, PrometheusError, QueryRefusedError

TIMEOUT_S = 30.0
MAX_BODY_BYTES = 64 * 2**20
"""An alert may fire for each of 100,000 instances."""
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
    client = PrometheusClient(url.rstrip("/"), timeout_s=TIMEOUT_S, max_body_bytes=MAX_BODY_BYTES)
    try:
        async with client:
            loaded = await client.rule_names()
            present = {name: await _has_series(client, name) for name in _readable(groups)}
            rules = tuple(
                [
                    await _checked(client, group.name, rule, present)
                    for group in groups
                    for rule in group.rules
                ]
            )
    except PrometheusError as error:
        # A password in the address must not be repeated in messages.
        shown = re.sub(r"//[^/@]*@", "//", client.url)
        helps = "is --prometheus the address of a Prometheus that runs?"
        raise CheckError(f"{shown} {error}; {helps}") from error
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
        elif series not in catalogue.RULE_SERIES:
            yield series.name


async def _checked(
    client: PrometheusClient, group: str, rule: Recording | Alert, present: dict[str, bool]
) -> Checked:
    answer = await _evaluate(client, rule.expr)
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


async def _has_series(client: PrometheusClient, name: str) -> bool:
    return bool((await client.query(f"count({name})")).series)


async def _evaluate(client: PrometheusClient, expression: str) -> _Answer:
    try:
        result = await client.query(expression)
    except QueryRefusedError as error:
        return _Answer(0, 0.0, error.reason)
    return _Answer(len(result.series), result.evaluation_s)
