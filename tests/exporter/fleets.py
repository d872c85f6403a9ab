"""Rows and snapshots for tests."""

from __future__ import annotations

from exporter.conditions import conditions_of
from exporter.counters import CounterState, FleetCounters, update
from exporter.exposition import Exposition, Format, assemble, fleet_chunks, instance_chunks
from exporter.model import (
    NO_VALUES,
    CanaryState,
    Outcome,
    Reading,
    State,
    Status,
    Target,
    Values,
    Verdict,
)
from exporter.snapshot import (
    Aggregation,
    Row,
    Snapshot,
    info_label_text,
    inventory_label_text,
    label_text,
)
from exporter.status import FAILING, is_up, polled_status, status_of

NOW_S = 1_800_000_000.0


def reading(
    outcome: Outcome = Outcome.OK, values: Values = NO_VALUES, duration_s: float = 0.002
) -> Reading:
    return Reading(Verdict(outcome, values=values), "fleet", NOW_S, duration_s)


def row(target: Target, seen: Reading | None = None, canary: CanaryState | None = None) -> Row:
    """Return the row of an instance that was polled once, or never."""
    counters = CounterState(model=target.model)
    if seen is not None:
        counters, _ = update(counters, seen.verdict.values, target, now_s=NOW_S)
    status = listed_status(target, seen, canary)
    return Row(
        target,
        status,
        seen,
        counters,
        is_up(seen),
        label_text(target),
        info_label_text(
            counters.model,
            target.engine if seen is None else seen.engine,
            counters.version,
            target.developer,
        ),
        conditions_of(target, seen, counters, canary),
        canary,
        NOW_S if status in FAILING else None,
        inventory_labels=inventory_label_text(target),
    )


def listed_status(
    target: Target, seen: Reading | None, canary: CanaryState | None = None
) -> Status:
    """Return the status of an instance that the exporter's first list had."""
    is_coming_up = target.state is State.PROVISIONING
    return status_of(target.state, polled_status(target, seen, canary), is_coming_up=is_coming_up)


def snapshot(*rows: Row, fleet_counters: FleetCounters | None = None) -> Snapshot:
    aggregation = Aggregation(now_s=NOW_S)
    aggregation.add(rows)
    return Snapshot(rows, aggregation.finish(fleet_counters or FleetCounters()), NOW_S)


def render(of: Snapshot, *, per_instance: bool = True) -> Exposition:
    """Return a snapshot's page, rendered in one go."""
    rows = of.rows if per_instance else ()
    rendered = (*fleet_chunks(of), *instance_chunks(rows, now_s=of.taken_at_s))
    return assemble(rendered, of.taken_at_s)


def text_of(of: Exposition, format_: Format = Format.TEXT) -> bytes:
    """Return a page in one piece."""
    return b"".join(of.parts(format_))
