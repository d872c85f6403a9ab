"""Write instances for people: a table of many, all facts about one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ollama_fleet.tables import count_text, table
from provisioning.api.routes import Details, InstanceDocument
from provisioning.cli.common import age_text, shown
from provisioning.model import Phase

HEAD = ("ID", "PHASE", "FOR", "NODE", "MODEL", "DEVELOPER", "GENERATION", "NOTE")
MAX_NOTE_CHARACTERS = 60


def list_text(instances: Sequence[Details], *, now_s: float, is_cut: bool = False) -> str:
    """Return a table, and the count of each phase.

    Args:
        instances: In this order.
        now_s: For ages.
        is_cut: Whether to shorten long notes.
    """
    if not instances:
        return "no instances"
    rows = table(HEAD, (_row(instance, now_s, is_cut=is_cut) for instance in instances))
    return f"{rows}\n{summary(instances)}"


def summary(instances: Sequence[Details]) -> str:
    """Return `3 instances: 2 running, 1 failed`."""
    n_by_phase = Counter(instance.phase for instance in instances)
    phases = ", ".join(f"{n_by_phase[phase]:,} {phase}" for phase in Phase if n_by_phase[phase])
    return f"{count_text(len(instances), 'instance')}: {phases}"


def show_text(instance: InstanceDocument, *, now_s: float) -> str:
    """Return all facts about an instance, and its history."""
    return "\n".join(_lines(instance, now_s))


def _row(instance: Details, now_s: float, *, is_cut: bool) -> tuple[str, ...]:
    return (
        instance.id,
        instance.phase,
        age_text(now_s - instance.phase_since_s),
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


def _lines(instance: InstanceDocument, now_s: float) -> Iterator[str]:
    facts = {
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
        "healthy since": _moment(instance.started or 0.0),
        "failed starts": str(instance.n_failures or ""),
        "replacement": "requested" if instance.is_replace_asked else "",
    }
    width = max(len(name) for name, text in facts.items() if text)
    for name, text in facts.items():
        if text:
            yield f"{name.ljust(width)}  {text}"
    if instance.history:
        yield "history"
    for event in instance.history:
        what = shown(f"{event.what} {event.detail}")
        yield f"  {_moment(event.at_s)}  {event.generation}  {what}"


def _moment(at_s: float) -> str:
    """Return a time of day as UTC; empty where there was none."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}Z" if at_s else ""


def _in(at_s: float, now_s: float) -> str:
    return f"in {age_text(at_s - now_s)}" if at_s > now_s else ""
