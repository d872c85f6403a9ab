"""Write instances for people: a table of many, all facts about one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ollama_fleet.tables import count_text, table
from provisioning.api.routes import Details, HistoryLine, InstanceDocument
from provisioning.cli.common import age_text, shown
from provisioning.model import Phase

HEAD = ("ID", "PHASE", "FOR", "URL", "NODE", "MODEL", "DEVELOPER", "GENERATION", "NOTE")
MAX_NOTE_CHARACTERS = 60
PHASE_ORDER = (Phase.FAILED, Phase.STARTING, Phase.DRAINING, Phase.STOPPING, Phase.RUNNING)
"""What needs a person's eye comes first."""
SORTS: Mapping[str, Callable[[Details], Any]] = {
    "id": lambda one: one.id,
    "phase": lambda one: PHASE_ORDER.index(one.phase),
    "for": lambda one: -one.phase_since_s,
    "node": lambda one: one.node,
    "model": lambda one: one.model,
    "developer": lambda one: (not one.developer, one.developer),
    "generation": lambda one: -one.generation,
}
"""Columns of the table; of times and numbers the shortest or largest first."""


def list_text(
    instances: Sequence[Details],
    *,
    now_s: float,
    is_cut: bool = False,
    most: int | None = None,
    paint: Callable[[str], str] = str,
) -> str:
    """Return a table, and the count of each phase."""
    if not instances:
        return "no instances"
    listed = instances[:most]
    rows = table(HEAD, (_row(instance, now_s, is_cut=is_cut) for instance in listed))
    head, *lines = rows.splitlines()
    painted = [
        paint(line) if one.phase is Phase.FAILED else line
        for one, line in zip(listed, lines, strict=True)
    ]
    n_more = len(instances) - len(listed)
    more = [f"… and {n_more:,} more"] if n_more else []
    return "\n".join((head, *painted, *more, summary(instances)))


def summary(instances: Sequence[Details]) -> str:
    """Return `3 instances: 2 running, 1 failed`."""
    n_by_phase = Counter(instance.phase for instance in instances)
    phases = ", ".join(f"{n_by_phase[phase]:,} {phase}" for phase in Phase if n_by_phase[phase])
    return f"{count_text(len(instances), 'instance')}: {phases}"


def show_text(
    instance: InstanceDocument, *, now_s: float, paint: Callable[[str], str] = str
) -> str:
    """Return all facts about an instance, and its history; `paint` marks why it has failed."""
    return "\n".join(_lines(instance, now_s, paint))


def moment(at_s: float) -> str:
    """Return a time of day as UTC; empty where there was none."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}Z" if at_s else ""


def event_text(event: HistoryLine) -> str:
    """Return what has happened, on one line."""
    return shown(f"{event.what} {event.detail}")


def _row(instance: Details, now_s: float, *, is_cut: bool) -> tuple[str, ...]:
    return (
        instance.id,
        instance.phase,
        age_text(now_s - instance.phase_since_s),
        instance.url or "-",
        instance.node,
        instance.model or "-",
        instance.developer or "-",
        str(instance.generation),
        _note(instance, is_cut=is_cut),
    )


def _note(instance: Details, *, is_cut: bool) -> str:
    """Return why an instance is where it is, on one line."""
    requested = "replacement requested" if instance.is_replace_asked else ""
    words = "; ".join(filter(None, (instance.reason or "", requested, instance.fault)))
    line = shown(words)
    is_long = len(line) > MAX_NOTE_CHARACTERS
    return f"{line[:MAX_NOTE_CHARACTERS]}…" if is_long and is_cut else line


def _lines(instance: InstanceDocument, now_s: float, paint: Callable[[str], str]) -> Iterator[str]:
    facts = _facts(instance, now_s)
    width = max(len(name) for name, text in facts.items() if text)
    for name, text in facts.items():
        if text:
            line = f"{name.ljust(width)}  {text}"
            is_wrong = instance.phase is Phase.FAILED and name in ("phase", "fault")
            yield paint(line) if is_wrong else line
    if instance.history:
        yield "history"
    for event in instance.history:
        yield f"  {moment(event.at_s)}  {event.generation}  {event_text(event)}"


def _facts(instance: InstanceDocument, now_s: float) -> Mapping[str, str]:
    return {
        "id": instance.id,
        "url": instance.url,
        "phase": f"{instance.phase} for {age_text(now_s - instance.phase_since_s)}",
        "reason": instance.reason or "",
        "fault": shown(instance.fault),
        "next try": _in(instance.retry_at_s, now_s),
        "pool": instance.pool,
        "node": instance.node,
        "model": instance.model,
        "engine": instance.engine,
        "developer": instance.developer,
        "generation": f"{instance.generation}, workload {instance.workload}",
        "log": f"{shown(instance.log)} on {instance.node}" if instance.log else "",
        "healthy since": moment(instance.started or 0.0),
        "failed starts": str(instance.n_failures or ""),
        "replacement": "requested" if instance.is_replace_asked else "",
    }


def _in(at_s: float, now_s: float) -> str:
    return f"in {age_text(at_s - now_s)}" if at_s > now_s else ""
