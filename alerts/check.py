"""Say of each rule what it can do in a live Prometheus, and whether that one has it loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from alerts import loaded, rulebook
from alerts.errors import CheckError
from alerts.groups.pipeline import lists_differ
from alerts.loaded import Loaded
from alerts.model import Alert, Group, Recording, Severity
from alerts.needs import Needs
from alerts.settings import Settings
from alerts.sources import Present
from ollama_fleet.prometheus import (
    LoadedRule,
    PrometheusClient,
    PrometheusError,
    QueryRefusedError,
)
from ollama_fleet.urls import without_password

TIMEOUT_S = 30.0
MAX_BODY_BYTES = 64 * 2**20
"""An alert may fire for each of 100,000 instances."""
RECENT_S = 3600.0
"""A series that ended within this time is there: speeds of an idle fleet come back."""


class Answer(StrEnum):
    """What a rule can do here."""

    REFUSED = "refused"
    """Prometheus does not evaluate its expression."""
    FIRES = "fires now"
    """The condition of an alert holds; it fires once it has held for long enough."""
    ALWAYS = "fires, as it should"
    """It tells that notifications arrive: whoever receives it misses it."""
    NEVER = "can never fire"
    """A series that it needs is not there."""
    CAN = "can fire"
    RECORDS = "records"


@dataclass(frozen=True, slots=True)
class Checked:
    """One rule, and what Prometheus made of it."""

    group: str
    title: str
    """Its name, with the labels that tell it from its namesakes."""
    severity: str
    """Empty for recording rules."""
    answer: Answer
    n_results: int
    missing: tuple[str, ...]
    """Series that it needs and that are not there."""
    because: tuple[str, ...]
    """Why they are not there, and what would give them."""
    difference: str
    """How it differs from what is loaded; empty if it does not."""
    evaluation_s: float
    error: str


@dataclass(frozen=True, slots=True)
class Result:
    """All rules, in the order of the files, and what is wrong beside them."""

    rules: tuple[Checked, ...]
    unknown: tuple[str, ...]
    """Rules that are loaded in groups of ours, and that the settings do not make."""
    mixed_up: tuple[str, ...]
    """Sentences on fleets that only a label would tell apart."""

    @property
    def alerts(self) -> tuple[Checked, ...]:
        """Return the alerts among the rules."""
        return tuple(rule for rule in self.rules if rule.severity)

    def answered(self, answer: Answer) -> tuple[Checked, ...]:
        """Return the rules with an answer."""
        return tuple(rule for rule in self.rules if rule.answer is answer)

    @property
    def different(self) -> tuple[Checked, ...]:
        """Return the rules that differ from what is loaded."""
        return tuple(rule for rule in self.rules if rule.difference)

    @property
    def is_any_loaded(self) -> bool:
        """Return whether Prometheus evaluates any of the rules."""
        return any(rule.difference != loaded.NOT_LOADED for rule in self.rules)

    @property
    def evaluation_s(self) -> float:
        """Return how long Prometheus took for all expressions together."""
        return sum(rule.evaluation_s for rule in self.rules)

    @property
    def n_recorded(self) -> int:
        """Return how many series the recording rules make."""
        return sum(rule.n_results for rule in self.answered(Answer.RECORDS))

    @property
    def is_good(self) -> bool:
        """Return whether nothing is to be mended; an alert may fire."""
        refused = self.answered(Answer.REFUSED)
        return not (refused or self.different or self.unknown or self.mixed_up)

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON's types."""
        counts = {str(answer): len(self.answered(answer)) for answer in Answer}
        return {
            "counts": {**counts, "differs": len(self.different) + len(self.unknown)},
            "evaluation_seconds": self.evaluation_s,
            "recorded_series": self.n_recorded,
            "label_missing": list(self.mixed_up),
            "unknown": list(self.unknown),
            "rules": [asdict(rule) for rule in self.rules],
        }


async def run(settings: Settings, url: str) -> Result:
    """Ask Prometheus for every expression, one after the other.

    Raises:
        CheckError: It cannot be asked.
    """
    client = PrometheusClient(url.rstrip("/"), timeout_s=TIMEOUT_S, max_body_bytes=MAX_BODY_BYTES)
    try:
        async with client:
            return await _result(client, settings)
    except PrometheusError as error:
        shown = without_password(client.url)
        helps = "is --prometheus.url the address of a Prometheus that runs?"
        raise CheckError(f"{shown} {error}; {helps}") from error


async def _result(client: PrometheusClient, settings: Settings) -> Result:
    groups = rulebook.groups(settings)
    is_loaded = Loaded.of(await client.rule_groups())
    recordings = [rule for group in groups for rule in group.recordings]
    needs = Needs(recordings, await present(client, settings, since_s=time.time() - RECENT_S))
    rules = [
        await _checked(client, group, rule, needs, is_loaded)
        for group in groups
        for rule in group.rules
    ]
    ours = [rule for group in groups for rule in group.rules]
    unknown = tuple(is_loaded.unknown(ours))
    return Result(tuple(rules), unknown, await _mixed_up(client, settings))


async def present(client: PrometheusClient, settings: Settings, *, since_s: float) -> Present:
    """Return the series of the scrape jobs that there were since a time."""
    prometheus = settings.prometheus
    jobs = (prometheus.job, prometheus.provisioner_job, prometheus.gateway_job)
    names = {
        job: frozenset(await client.series_names(f'{{job="{job}"}}', since_s=since_s))
        for job in jobs
    }
    return Present(names, prometheus.job, prometheus.gateway_job)


async def _checked(
    client: PrometheusClient,
    group: Group,
    rule: Recording | Alert,
    needs: Needs,
    is_loaded: Loaded,
) -> Checked:
    evaluated = await _evaluate(client, rule.expr)
    gaps = sorted(needs.lacking(rule.expr))
    twins = is_loaded.twins(rule)
    other = await other_expr(client, rule.expr, twins)
    return Checked(
        group=group.name,
        title=loaded.title(rule.name, rule.labels),
        severity=str(rule.severity) if isinstance(rule, Alert) else "",
        answer=_answer(rule, evaluated, is_lacking=bool(gaps)),
        n_results=evaluated.n_results,
        missing=tuple(gap.name for gap in gaps),
        because=tuple(dict.fromkeys(gap.reason for gap in gaps)),
        difference=loaded.difference(rule, twins, other),
        evaluation_s=evaluated.evaluation_s,
        error=evaluated.error,
    )


def _answer(rule: Recording | Alert, evaluated: _Evaluated, *, is_lacking: bool) -> Answer:
    if evaluated.error:
        return Answer.REFUSED
    if isinstance(rule, Recording):
        return Answer.RECORDS
    if evaluated.n_results:
        return Answer.ALWAYS if rule.severity is Severity.NONE else Answer.FIRES
    return Answer.NEVER if is_lacking else Answer.CAN


async def other_expr(client: PrometheusClient, expr: str, twins: Sequence[LoadedRule]) -> str:
    """Return the first loaded expression that means something else; empty if none does.

    Prometheus does not give an expression as the file has it, but as it writes it.
    """
    for twin in twins:
        if loaded.squeezed(twin.expr) == loaded.squeezed(expr):
            continue
        with suppress(PrometheusError):
            if await client.formatted(twin.expr) == await client.formatted(expr):
                continue
        return twin.expr
    return ""


async def _mixed_up(client: PrometheusClient, settings: Settings) -> tuple[str, ...]:
    """Tell fleets without a label of their own: replicas of a shard count the same instances."""
    found = await client.query(lists_differ(settings))
    return tuple(
        f"exporters of shard {one.metric.get('shard', '')} list different numbers of instances: "
        f"give each fleet a label `{settings.prometheus.cluster_label}` of its own in Prometheus, "
        "or replicas the same inventory"
        for one in found.series
    )


@dataclass(frozen=True, slots=True)
class _Evaluated:
    n_results: int
    evaluation_s: float
    error: str = ""


async def _evaluate(client: PrometheusClient, expression: str) -> _Evaluated:
    try:
        result = await client.query(expression)
    except QueryRefusedError as error:
        return _Evaluated(0, 0.0, error.reason)
    return _Evaluated(len(result.series), result.evaluation_s)
