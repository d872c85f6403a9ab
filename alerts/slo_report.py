"""Write a report of the service level for a terminal, and as JSON's types."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from alerts.slo import Level, Report, Verdict, Worst
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import percent
from ollama_fleet.logs import escaped
from ollama_fleet.tables import table

UNKNOWN = "-"
MAX_NAME = 60
WIDTH = 100


def text(report: Report) -> str:
    """Return the report as tables."""
    parts = (
        f"SERVICE LEVEL{of_cluster(report)}, {period(report)}",
        table(("", "OBJECTIVE", "MEASURED", "VERDICT", "BUDGET USED", "LEFT"), _levels(report)),
        "\n".join(textwrap.fill(remark, WIDTH) for remark in remarks(report)),
        _gaps(report),
        _worst(report),
    )
    return "\n\n".join(filter(None, parts))


def of_cluster(report: Report) -> str:
    """Return ` of NAME`, or nothing for a fleet without a name."""
    return f" of {name(report.cluster)}" if report.cluster else ""


def period(report: Report) -> str:
    """Return begin and end."""
    length = duration_text(report.end_s - report.start_s)
    return f"{moment(report.start_s)} to {moment(report.end_s)} UTC ({length})"


def levels(report: Report) -> tuple[tuple[str, Level], ...]:
    """Return both objectives with their names."""
    return ("availability", report.availability), ("requests", report.requests)


def _levels(report: Report) -> Iterator[tuple[str, ...]]:
    for what, level in levels(report):
        used = level.budget_used
        yield (
            what,
            percent(level.objective),
            share(level.measured),
            str(level.verdict),
            UNKNOWN if used is None else f"{used:.0%}",
            UNKNOWN if used is None else f"{1 - used:.0%}",
        )


def remarks(report: Report) -> Iterator[str]:
    """Yield what a reader has to know of the figures."""
    if report.n_requests is None or report.n_failed is None:
        yield "Requests are not measured: no server and no gateway counts them."
    else:
        yield f"{report.n_requests:,.0f} requests, {report.n_failed:,.0f} of them failed."
    missing = len(report.hours) - report.covered_hours
    # A scrape or two are missing in every period.
    if missing * 60 < 1:
        yield f"There are data of all {len(report.hours):,} hours."
        return
    yield (
        f"There are data of {report.covered_hours:,.1f} of {len(report.hours):,} hours. What is "
        f"missing counts neither as good nor as bad; if all of it were an outage, availability "
        f"would be {share(report.at_worst)}."
    )


def _gaps(report: Report) -> str:
    return "\n".join(["HOURS WITHOUT DATA", *gaps(report)]) if report.gaps else ""


def gaps(report: Report) -> list[str]:
    """Return the times without data."""
    return [
        f"{moment(begin_s)} to {moment(end_s)} UTC ({duration_text(end_s - begin_s)})"
        for begin_s, end_s in report.gaps
    ]


def _worst(report: Report) -> str:
    if not report.worst:
        return "No hour took a noteworthy part of a budget."
    head = ("HOUR (UTC)", "OF BUDGET", "AVAILABLE", "FAILED", "ALERTS", "NODES")
    rows = [
        (
            moment(one.hour.start_s),
            f"{one.of_budget:.0%}",
            share(one.hour.available),
            failed(one),
            "; ".join(f"{name(fired.alert)} ({fired.minutes}m)" for fired in one.fired) or UNKNOWN,
            ", ".join(map(name, one.nodes)) or UNKNOWN,
        )
        for one in report.worst
    ]
    return f"WORST HOURS\n{table(head, rows)}"


def failed(worst: Worst) -> str:
    """Return how many requests failed in an hour."""
    return UNKNOWN if worst.hour.failed is None else f"{worst.hour.failed:,.0f}"


def share(ratio: float | None) -> str:
    """Return a ratio in percent, rounded down: 99.8999% is not 99.9%."""
    return UNKNOWN if ratio is None else percent(math.floor(ratio * 1e5 + 1e-6) / 1e5)


def moment(at_s: float) -> str:
    """Return a time to the minute."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")


def name(label: str) -> str:
    """Return the value of a label as a terminal and a page can show it."""
    shown = escaped(label)
    return shown if len(shown) <= MAX_NAME else f"{shown[:MAX_NAME]}…"


def as_json(report: Report) -> dict[str, Any]:
    """Return the report, with every hour, as JSON's types."""
    return {
        "cluster": report.cluster,
        "start_s": report.start_s,
        "end_s": report.end_s,
        "hours_with_data": report.covered_hours,
        "gaps": report.gaps,
        **{
            what: asdict(level) | {"verdict": level.verdict, "budget_used": level.budget_used}
            for what, level in levels(report)
        },
        "availability_at_worst": report.at_worst,
        "n_requests": report.n_requests,
        "n_failed": report.n_failed,
        "worst": [asdict(one) | {"of_budget": one.of_budget} for one in report.worst],
        "hours": [asdict(hour) for hour in report.hours],
    }


def is_missed(report: Report) -> bool:
    """Return whether an objective was missed."""
    return any(level.verdict is Verdict.MISSED for _, level in levels(report))
