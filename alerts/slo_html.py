"""Write a report of the service level as one HTML file, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from alerts.slo import Hour, Level, Report, Verdict, days
from alerts.slo_report import (
    UNKNOWN,
    failed,
    gaps,
    levels,
    moment,
    name,
    of_cluster,
    period,
    remarks,
    share,
)
from ollama_fleet.levels import percent

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0; }
.card { flex: 1 1 16rem; border: 1px solid #bbb; border-left-width: .5rem; padding: .5rem 1rem; }
.met { border-left-color: #1b7f3b; } .missed { border-left-color: #b3261e; }
.figure { font-size: 2rem; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th, td:nth-child(-n+4) { white-space: nowrap; }
svg { width: 100%; height: auto; } .note { color: #555; font-size: .85rem; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; }
  tr, .card { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
GOOD, FAIR, BAD, EMPTY = "#5fae7b", "#e0b040", "#c0504d", "url(#none)"
BAR, GAP, HEIGHT = 20, 4, 60


def page(report: Report) -> str:
    """Return the file."""
    title = f"Service level{of_cluster(report)}"
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8" />',
            '<meta name="viewport" content="width=device-width, initial-scale=1" />',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1><p>{escape(period(report))}</p>",
            '<div class="cards">',
            *(_card(what, level) for what, level in levels(report)),
            "</div>",
            *(f"<p>{escape(remark)}</p>" for remark in remarks(report)),
            "<h2>Availability by day</h2>",
            _bars(report),
            *_worst(report),
            *_gaps(report),
            '<p class="note">Availability is the mean share of the instances that should serve and '
            "were healthy. The error budget is what the objective leaves for failures in this "
            "period. Times are UTC. Alerts fired in the hour, or in the 15 minutes after it.</p>",
            "</body></html>",
            "",
        )
    )


def _card(what: str, level: Level) -> str:
    kind = {Verdict.MET: "met", Verdict.MISSED: "missed"}.get(level.verdict, "")
    used = level.budget_used
    left = "" if used is None else f"{1 - used:.0%} left" if used < 1 else "nothing left"
    budget = "" if used is None else f"; {used:.0%} of the error budget used, {left}"
    return (
        f'<div class="card {kind}"><div>{escape(what)}</div>'
        f'<div class="figure">{escape(share(level.measured))}</div>'
        f"<div>{escape(str(level.verdict))}: objective {percent(level.objective)}{budget}</div>"
        "</div>"
    )


def _bars(report: Report) -> str:
    """Return a bar for each day; its colour and text say how good it was."""
    found = days(report.hours)
    width = len(found) * (BAR + GAP)
    bars = (
        f'<rect x="{n * (BAR + GAP)}" y="0" width="{BAR}" height="{HEIGHT}" '
        f'fill="{colour}"><title>{escape(words)}</title></rect>'
        for n, (colour, words) in enumerate(
            _day(begin_s, hours, report.availability.objective) for begin_s, hours in found
        )
    )
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" style="max-width: {2 * width}px" '
        f'aria-label="A bar for each of {len(found)} days" preserveAspectRatio="none">'
        '<defs><pattern id="none" width="6" height="6" patternUnits="userSpaceOnUse">'
        '<path d="M0 6 L6 0" stroke="#999" /></pattern></defs>'
        f"{''.join(bars)}</svg>"
        f'<p class="note">{moment(found[0][0])[:10]} to {moment(found[-1][0])[:10]}. '
        f"Green: {percent(report.availability.objective)} or better. Yellow: up to ten times the "
        "failures that the objective allows. Red: more. Hatched: no data.</p>"
    )


def _day(begin_s: int, hours: Sequence[Hour], objective: float) -> tuple[str, str]:
    covered = sum(hour.covered for hour in hours)
    date = moment(begin_s)[:10]
    if not covered:
        return EMPTY, f"{date}: no data"
    missing = sum(hour.missing_hours for hour in hours) / covered
    colour = GOOD if missing <= 1 - objective else FAIR if missing <= 10 * (1 - objective) else BAD
    return colour, f"{date}: {share(1 - missing)} available, {covered:.1f} hours with data"


def _worst(report: Report) -> Iterator[str]:
    yield "<h2>Worst hours</h2>"
    if not report.worst:
        yield "<p>No hour took a noteworthy part of a budget.</p>"
        return
    yield _table(
        ("Hour (UTC)", "Of budget", "Available", "Failed", "Alerts", "Nodes"),
        (
            (
                moment(one.hour.start_s),
                f"{one.of_budget:.0%}",
                share(one.hour.available),
                failed(one),
                "; ".join(_cause(fired.alert, fired.summary) for fired in one.fired) or UNKNOWN,
                ", ".join(map(name, one.nodes)) or UNKNOWN,
            )
            for one in report.worst
        ),
    )


def _cause(alert: str, summary: str) -> str:
    return f"{name(alert)}: {summary.rstrip('.')}" if summary else name(alert)


def _gaps(report: Report) -> Iterator[str]:
    if report.gaps:
        yield "<h2>Hours without data</h2>"
        yield _table(("From and to",), ((one,) for one in gaps(report)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
