"""Say how often each alert would have fired in the history that a Prometheus has of the fleet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from alerts import check, inhibition, rulebook
from alerts.archive import Archive, Span, archive
from alerts.explain import dependencies
from alerts.loaded import Loaded
from alerts.model import Alert, Group, Recording, Severity
from alerts.names import INVENTORY
from alerts.needs import Needs
from alerts.proposals import LEAST_S, NEVER, Episodes, Point, split
from alerts.settings import Settings
from alerts.tunables import firing_query

WEEK_S = 604_800.0
RECORDED_POINTS = 168
STEADY = 0.9
"""A recorded series that is there for this share of the time since it began is there always."""
NOTIFIES = (Severity.CRITICAL, Severity.WARNING)
OTHERWISE = "the loaded rules record otherwise than these settings do"
NOT_RECORDED = "not recorded: load the built rules, and wait"
Key = tuple[str, Severity]
"""Alerts of one name and severity notify as one."""
Times = Mapping[str, Sequence[float]]
"""When something fired, by cluster."""


class Verdict(StrEnum):
    """What the history says of an alert."""

    FIRED = "would have fired"
    SILENT = "would not have fired"
    NEVER = "can never fire here"
    UNKNOWN = "cannot be judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtested:
    """What the history says of the alerts of one name and severity."""

    alert: str
    severity: Severity
    verdict: Verdict
    because: tuple[str, ...] = ()
    fired: Episodes = NEVER
    """In each cluster; without the episodes that other alerts mute from beginning to end."""
    n_muted: int = 0
    history_s: float = 0.0
    """How long what it reads has been recorded."""

    @property
    def per_week(self) -> float | None:
        """Return the notifications in a week; None where the history is too short to say."""
        if self.history_s < LEAST_S:
            return None
        return round(self.fired.count * WEEK_S / self.history_s, 2)


async def run(
    settings: Settings, url: str, *, since_s: float, now_s: float, say: Callable[[str], None]
) -> list[Backtested]:
    """Ask Prometheus when each alert would have fired, one after the other.

    Raises:
        CheckError: It cannot be asked, or does not give so much.
        HistoryError: It has no history of the fleet.
    """
    groups, label = rulebook.groups(settings), settings.scope.cluster_label
    alerts = _by_key(groups)
    found, times = dict[Key, Backtested](), dict[Key, Times]()
    async with archive(url, since_s=since_s, now_s=now_s) as past:
        record = await _record(past, settings, groups)
        for n, (key, variants) in enumerate(alerts.items(), start=1):
            past.asked = key[0]
            say(f"{n} of {len(alerts)}: {key[0]}")
            found[key] = record.judged(key, variants)
            if found[key].verdict is Verdict.SILENT:
                began_s = past.span.end_s - found[key].history_s
                times[key] = await _firing(past, variants, label, began_s=began_s)
    return [
        _counted(one, times, past.span.step_s, alerts[key][0].keep_firing_for_s)
        for key, one in found.items()
    ]


def _by_key(groups: Sequence[Group]) -> dict[Key, list[Alert]]:
    alerts: dict[Key, list[Alert]] = defaultdict(list)
    for group in groups:
        for alert in group.alerts:
            if alert.severity in NOTIFIES:
                alerts[alert.name, alert.severity].append(alert)
    return alerts


async def _firing(past: Archive, variants: Sequence[Alert], label: str, *, began_s: float) -> Times:
    found: dict[str, set[float]] = defaultdict(set)
    for alert in variants:
        for cluster, points in (await past.points_by(firing_query(alert, label), label)).items():
            # Before there was a fleet, its metrics were absent.
            found[cluster].update(at_s for at_s, _ in points if at_s > began_s)
    return {cluster: sorted(times_s) for cluster, times_s in found.items()}


def _counted(
    one: Backtested, times: Mapping[Key, Times], step_s: float, keep_firing_for_s: float
) -> Backtested:
    """Return an alert with its episodes, without those in which others mute it all the time."""
    key = one.alert, one.severity
    muting = [theirs for other, theirs in times.items() if _mutes(other, key)]
    episodes = [
        (episode, {at_s for theirs in muting for at_s in theirs.get(cluster, ())})
        for cluster, times_s in times.get(key, {}).items()
        for episode in split(times_s, step_s, keep_firing_for_s)
    ]
    heard = [episode for episode, muted_s in episodes if not muted_s.issuperset(episode)]
    fired = Episodes(len(heard), round(sum(map(len, heard)) * step_s / 60))
    verdict = Verdict.FIRED if episodes else one.verdict
    return replace(one, verdict=verdict, fired=fired, n_muted=len(episodes) - len(heard))


def _mutes(source: Key, target: Key) -> bool:
    labels = [{"alertname": name, "severity": str(severity)} for name, severity in (source, target)]
    return inhibition.mutes(*labels)


@dataclass(frozen=True, slots=True)
class _Record:
    """What the history holds, and so what it can judge."""

    groups: tuple[Group, ...]
    needs: Needs
    fault_by_name: Mapping[str, str]
    """Why a series is not recorded as the settings would record it."""
    length_s: float
    recorded_s: Mapping[str, float]
    """How long series have been recorded; 0 for those that are not there always."""

    def judged(self, key: Key, variants: Sequence[Alert]) -> Backtested:
        """Return an alert as silent, or why nothing can be said of it."""
        silent = Backtested(alert=key[0], severity=key[1], verdict=Verdict.SILENT)
        gaps = [self.needs.lacking(alert.expr) for alert in variants]
        if all(gaps):
            because = sorted({gap.reason for each in gaps for gap in each})
            return replace(silent, verdict=Verdict.NEVER, because=tuple(because))
        rules = [rule for alert in variants for rule in dependencies(alert.expr, self.groups)]
        names = sorted({rule.name for rule in rules})
        for fault in (NOT_RECORDED, OTHERWISE):
            if wrong := [name for name in names if self.fault_by_name.get(name) == fault]:
                why = f"{fault}: {', '.join(wrong)}"
                return replace(silent, verdict=Verdict.UNKNOWN, because=(why,))
        lengths = [self.recorded_s.get(name, 0.0) for name in (INVENTORY, *names)]
        return replace(silent, history_s=min(filter(None, lengths), default=self.length_s))


async def _record(past: Archive, settings: Settings, groups: tuple[Group, ...]) -> _Record:
    rules = [rule for group in groups for rule in group.recordings]
    present = await check.present(past.client, settings, since_s=past.span.start_s)
    needs, seen = Needs(rules, present), await _recorded(past, rules)
    is_loaded = Loaded.of(await past.client.rule_groups())
    faults = {}
    for rule in rules:
        twins = is_loaded.twins(rule)
        if await check.other_expr(past.client, rule.expr, twins):
            faults[rule.name] = OTHERWISE
        elif not twins and rule.name not in seen and not needs.lacking(rule.expr):
            faults[rule.name] = NOT_RECORDED
    return _Record(groups, needs, faults, past.span.end_s - past.span.start_s, seen)


async def _recorded(past: Archive, rules: Sequence[Recording]) -> dict[str, float]:
    """Return how long each series has been recorded; 0 for those that are not there always."""
    names = "|".join(sorted({rule.name for rule in rules}))
    query = f'count by (__name__) (last_over_time({{__name__=~"{names}"}}[1h]))'
    start_s, end_s = past.span.start_s, past.span.end_s
    coarse = Span.until(end_s, end_s - start_s, max_points=RECORDED_POINTS)
    found = await past.points_by(query, "__name__", span=coarse)
    return {name: _steady_s(points, coarse) for name, points in found.items() if points}


def _steady_s(points: Sequence[Point], span: Span) -> float:
    length_s = span.end_s - points[0][0]
    return length_s if len(points) * span.step_s >= STEADY * length_s else 0.0


def as_json(found: Sequence[Backtested]) -> dict[str, Any]:
    """Return all of it as JSON's types."""
    return {
        "per_week": {severity: per_week(found, severity) for severity in NOTIFIES},
        "alerts": [asdict(one) | {"per_week": one.per_week} for one in found],
    }


def per_week(found: Sequence[Backtested], severity: Severity) -> float | None:
    """Return the notifications of a severity in a week; None where nothing can be said."""
    rates = [one.per_week for one in found if one.severity is severity]
    known = [rate for rate in rates if rate is not None]
    return round(sum(known), 2) if known else None
