"""Propose thresholds from the history that a Prometheus has of the fleet."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from alerts.errors import AlertsError, CheckError
from alerts.explain import value_of
from alerts.model import Alert
from alerts.names import INVENTORY
from alerts.proposals import NEVER, Episodes, History, Point, episodes, propose
from alerts.settings import Settings
from alerts.tunables import FINEST_S, TUNABLES, Tunable, firing_query
from ollama_fleet.durations import duration_text
from ollama_fleet.prometheus import PrometheusClient, PrometheusError

TIMEOUT_S = 60.0
MAX_POINTS = 10_080
"""Of each quantity: a week of minutes, two weeks of two minutes each."""
POINTS_PER_QUERY = 2016
"""Prometheus gives at most 11,000, and has a bound on what a query may load at a time."""
MAX_SINCE_S = 12 * 604_800.0
MAX_BODY_BYTES = 2**20
WIDTH = 96


class TuneError(AlertsError):
    """A Prometheus has no history to propose from."""


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


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is looked at."""

    start_s: float
    end_s: float
    step_s: float

    @classmethod
    def until(cls, end_s: float, since_s: float) -> Span:
        """Return the span of a length, in steps of whole minutes."""
        step_s = math.ceil(since_s / MAX_POINTS / FINEST_S) * FINEST_S
        end_s = end_s // step_s * step_s
        return cls(end_s - since_s // step_s * step_s + step_s, end_s, step_s)


class Archive:
    """Asks one Prometheus for the past."""

    def __init__(self, client: PrometheusClient, span: Span) -> None:
        self._client = client
        self._span = span

    async def points(self, query: str) -> list[Point]:
        """Return the points of a query that gives one series at most."""
        span, points = self._span, []
        part_s = POINTS_PER_QUERY * span.step_s
        start_s = span.start_s
        while start_s <= span.end_s:
            end_s = min(start_s + part_s - span.step_s, span.end_s)
            answer = await self._client.query_range(
                query, start_s=start_s, end_s=end_s, step_s=span.step_s
            )
            points += [point for series in answer for point in series.numbers]
            start_s += part_s
        return [point for point in points if math.isfinite(point[1])]

    async def firing(self, alert: Alert) -> tuple[list[float], Episodes]:
        """Return when an alert would have fired."""
        times_s = [at_s for at_s, _ in await self.points(firing_query(alert))]
        return times_s, episodes(times_s, self._span.step_s, alert.keep_firing_for_s)

    async def tuned(self, tunable: Tunable, settings: Settings) -> Tuned | None:
        """Return what is proposed for a threshold; None where its alert is left out."""
        alert = tunable.alert_of(settings)
        if alert is None:
            return None
        points = await self.points(tunable.history_query(settings))
        fired_s, fired = await self.firing(alert) if points else ([], NEVER)
        proposal = propose(
            History(
                points=points,
                step_s=self._span.step_s,
                fired_s=fired_s,
                is_floor=tunable.is_floor(alert),
                moves_both_ways=tunable.moves_both_ways,
                is_share=tunable.is_share,
                absent=tunable.absent,
                text=tunable.text,
            )
        )
        changed, would_fire = settings, fired
        if proposal.value is not None:
            changed = tunable.changed(settings, proposal.value)
            _, would_fire = await self.firing(tunable.alert_of(changed) or alert)
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


async def run(settings: Settings, url: str, *, since_s: float, now_s: float) -> list[Tuned]:
    """Ask Prometheus for the fleet's history, one quantity after the other.

    Raises:
        CheckError: It cannot be asked, or does not give so much.
        TuneError: It has no history of the fleet.
    """
    client = PrometheusClient(url.rstrip("/"), timeout_s=TIMEOUT_S, max_body_bytes=MAX_BODY_BYTES)
    # A password in the address must not be repeated in messages.
    shown, asked = re.sub(r"//[^/@]*@", "//", client.url), INVENTORY
    try:
        async with client:
            archive = Archive(client, Span.until(now_s, since_s))
            if not await archive.points(f"max({INVENTORY})"):
                raise TuneError(
                    f"{shown} has no {INVENTORY} in the last {duration_text(since_s)}: load the "
                    "built rules there, or name another Prometheus with --prometheus"
                )
            found = []
            for tunable in TUNABLES:
                asked = tunable.key
                found.append(await archive.tuned(tunable, settings))
    except PrometheusError as error:
        raise CheckError(
            f"{shown} {error} (asked for {asked} of {duration_text(since_s)}); is --prometheus the "
            "address of a Prometheus that runs? A shorter --since asks for less"
        ) from error
    return [tuned for tuned in found if tuned is not None]


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
