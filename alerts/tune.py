"""Propose thresholds from the history that a Prometheus has of the fleet."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from alerts.archive import Archive, Span, archive
from alerts.explain import value_of
from alerts.model import Alert
from alerts.proposals import NEVER, Episodes, History, episodes, propose
from alerts.settings import Settings
from alerts.tunables import TUNABLES, Tunable, firing_query
from ollama_fleet.durations import duration_text

WIDTH = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What is proposed for one threshold; values as the settings file has them."""

    key: str
    alert: str
    severity: str
    for_seconds: float
    present: str
    proposed: str
    """The same as `present` where that is kept."""
    reason: str
    seen: dict[str, str]
    """Median, 99th percentile and worst; empty where nothing was seen."""
    fired: Episodes
    """What the alert did, or would have done, under the present threshold."""
    would_fire: Episodes


async def run(settings: Settings, url: str, *, since_s: float, now_s: float) -> list[Tuned]:
    """Ask Prometheus for the fleet's history, one quantity after the other.

    Raises:
        CheckError: It cannot be asked, or does not give so much.
        HistoryError: It has no history of the fleet.
    """
    found = []
    async with archive(url, since_s=since_s, now_s=now_s) as opened:
        for tunable in TUNABLES:
            opened.asked = tunable.key
            found.append(await _tuned(opened, tunable, settings))
    return [tuned for tuned in found if tuned is not None]


async def _firing(past: Archive, alert: Alert) -> tuple[list[float], Episodes]:
    """Return when an alert would have fired."""
    times_s = [at_s for at_s, _ in await past.points(firing_query(alert))]
    return times_s, episodes(times_s, past.span.step_s, alert.keep_firing_for_s)


async def _tuned(past: Archive, tunable: Tunable, settings: Settings) -> Tuned | None:
    """Return what is proposed for a threshold; None where its alert is left out."""
    alert = tunable.alert_of(settings)
    if alert is None:
        return None
    points = await past.points(tunable.history_query(settings))
    fired_s, fired = await _firing(past, alert) if points else ([], NEVER)
    proposal = propose(
        History(
            points=points,
            step_s=past.span.step_s,
            fired_s=fired_s,
            is_floor=tunable.is_floor(alert),
            moves_both_ways=tunable.moves_both_ways,
            is_share=tunable.is_share,
            is_seasonal=tunable.is_seasonal,
            absent=tunable.absent,
            text=tunable.text,
        )
    )
    changed, would_fire = settings, fired
    if proposal.value is not None:
        changed = tunable.changed(settings, proposal.value)
        _, would_fire = await _firing(past, tunable.alert_of(changed) or alert)
    return Tuned(
        key=tunable.key,
        alert=alert.name,
        severity=str(alert.severity),
        for_seconds=alert.for_s,
        present=value_of(settings, tunable.key),
        proposed=value_of(changed, tunable.key),
        reason=proposal.reason,
        seen={name: tunable.text(value) for name, value in proposal.seen.items()},
        fired=fired,
        would_fire=would_fire,
    )


def as_json(found: list[Tuned]) -> list[dict[str, Any]]:
    """Return the proposals as JSON's types."""
    return [asdict(tuned) for tuned in found]


def as_yaml(found: list[Tuned], *, since_s: float, now_s: float) -> str:
    """Return the proposals as a settings file, with the reason of each as comments."""
    step = duration_text(Span.until(now_s, since_s).step_s)
    until = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = (
        f"Made by `ollama-fleet alerts tune` from {duration_text(since_s)} until {until}, a point "
        f"each {step}. What was seen is what held for the alert's `for`. Copy the thresholds into "
        "your settings file: it holds nothing else."
    )
    lines = [*_comment(head, ""), "thresholds:"]
    for tuned in found:
        lines += _entry(tuned)
    return "\n".join(lines)


def _entry(tuned: Tuned) -> Iterator[str]:
    texts = [
        f"{tuned.alert} ({tuned.severity}, for {duration_text(tuned.for_seconds)})",
        tuned.reason,
    ]
    if tuned.seen:
        texts.append(f"seen: {', '.join(f'{name} {text}' for name, text in tuned.seen.items())}")
        texts.append(f"{tuned.present} would have fired {_times(tuned.fired)}")
    if tuned.proposed != tuned.present:
        texts[-1] += f"; {tuned.proposed} {_times(tuned.would_fire)}"
    for text in texts:
        yield from _comment(text, "  ")
    yield f"  {tuned.key.rpartition('.')[2]}: {tuned.proposed}"


def _times(fired: Episodes) -> str:
    if not fired.count:
        return "never"
    times = "once" if fired.count == 1 else f"{fired.count} times"
    return f"{times}, {fired.minutes} minutes in all"


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, WIDTH, initial_indent=prefix, subsequent_indent=f"{prefix}  ")
