"""Instances in words: a table of many, everything of one.

In:   the API's documents, and the time for ages.
Out:  texts without a line end after the last line. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from provisioning.api.forms import Details, InstanceDocument
from provisioning.model import Phase
from provisioning.plan import table
from provisioning.spec.amounts import count_text

HEAD = ("ID", "PHASE", "FOR", "NODE", "MODEL", "DEVELOPER", "GENERATION", "NOTE")
MAX_NOTE_CHARACTERS = 60
UNITS_S = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def list_text(instances: Sequence[Details], *, now_s: float, is_cut: bool = False) -> str:
    """Return a table, and how many there are of each phase.

    Args:
        instances: In this order.
        now_s: For ages.
        is_cut: Long notes are; whole ones can be searched.
    """
    if not instances:
        return "no instances"
    rows = table(HEAD, (_row(instance, now_s, is_cut=is_cut) for instance in instances))
    return f"{rows}\n{summary(instances)}"


def summary(instances: Sequence[Details]) -> str:
    """Return `3 instances: 2 running, 1 failed`."""
    tally = Counter(instance.phase for instance in instances)
    phases = ", ".join(f"{tally[phase]:,} {phase}" for phase in Phase if tally[phase])
    return f"{count_text(len(instances), 'instance')}: {phases}"


def show_text(instance: InstanceDocument, *, now_s: float) -> str:
    """Return everything that is known of an instance, and its history."""
    return "\n".join(_lines(instance, now_s))


def age_text(age_s: float) -> str:
    """Return an age in its two largest units: `3d 4h`, `12s`."""
    rest_s = max(0, int(age_s))
    parts: list[str] = []
    for unit, unit_s in UNITS_S:
        amount, rest_s = divmod(rest_s, unit_s)
        if amount or parts:
            parts.append(f"{amount}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0")) or "0s"


def shown(text: str) -> str:
    """Return a text on one line, without what could move a terminal's cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _row(instance: Details, now_s: float, *, is_cut: bool) -> tuple[str, ...]:
    return (
        instance.id,
        instance.phase,
        age_text(now_s - instance.since_s),
        instance.node,
        instance.model or "-",
        instance.developer or "-",
        str(instance.generation),
        _note(instance, is_cut=is_cut),
    )


def _note(instance: Details, *, is_cut: bool) -> str:
    """Return why an instance is where it is, on one line."""
    asked = "replacement asked for" if instance.is_replace_asked else ""
    words = "; ".join(filter(None, (instance.reason or "", asked, instance.fault)))
    line = shown(words)
    is_long = len(line) > MAX_NOTE_CHARACTERS
    return f"{line[:MAX_NOTE_CHARACTERS]}…" if is_long and is_cut else line


def _lines(instance: InstanceDocument, now_s: float) -> Iterator[str]:
    facts = {
        "id": instance.id,
        "url": instance.url,
        "phase": f"{instance.phase} for {age_text(now_s - instance.since_s)}",
        "reason": instance.reason or "",
        "fault": shown(instance.fault),
        "tried again": _in(instance.retry_at_s, now_s),
        "pool": instance.pool,
        "node": instance.node,
        "model": instance.model,
        "engine": instance.engine,
        "developer": instance.developer,
        "generation": f"{instance.generation}, workload {instance.workload}",
        "log": f"{shown(instance.log)} on {instance.node}" if instance.log else "",
        "healthy since": _moment(instance.started_s),
        "failed starts": str(instance.n_failures or ""),
        "replacement": "asked for" if instance.is_replace_asked else "",
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
