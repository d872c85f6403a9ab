"""Write the findings as one table with ratios and targets, or as JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from bench.figures import Durations, Finding, Row, Target

CPU_LIMIT_S = 0.5
RESIDENT_LIMIT_BYTES = 200_000_000
GROWTH_LIMIT_BYTES = 20_000_000
RENDER_LIMIT_S = 0.050
BLOCKING_LIMIT_S = 0.020
TARGETS_LINE = (
    "targets: at most 0.5 CPU-s per cycle, 200 MB, 20 MB growth, 50 ms for a page of 60,000 "
    "samples, 20 ms blocking; dead instances cheaper than healthy ones"
)

NOTHING = "–"
GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head over one or two lines, and its text for a row."""

    head: str
    unit: str
    text: Callable[[Row, Row | None], str]


def render(findings: Sequence[Finding]) -> str:
    """Return the table of all rows, the targets, and the sentences below it."""
    rows = [finding for finding in findings if isinstance(finding, Row)]
    notes = [finding for finding in findings if isinstance(finding, str)]
    parts = [*_lines(rows), "", TARGETS_LINE] if rows else []
    return "\n".join([*parts, *notes])


def as_json(findings: Sequence[Finding]) -> str:
    """Return rows and sentences as a JSON object; times in seconds, sizes in bytes."""
    rows = [finding for finding in findings if isinstance(finding, Row)]
    notes = [finding for finding in findings if isinstance(finding, str)]
    document = {"rows": rows, "notes": notes}
    return msgspec.json.format(msgspec.json.encode(document, order="sorted")).decode()


def ratio(row: Row, baseline: Row | None) -> float | None:
    """Return how many times the baseline's CPU time a row needs."""
    if baseline is None or not baseline.cpu_s or row.cpu_s is None:
        return None
    return row.cpu_s / baseline.cpu_s


def missed(row: Row, baseline: Row | None) -> list[Target]:
    """Return the targets that a row is held against and does not reach."""
    return [
        target for target in Target if target in row.targets and not _reaches(row, baseline, target)
    ]


def _reaches(row: Row, baseline: Row | None, target: Target) -> bool:
    """Say whether a target is reached; one without a figure is not."""
    match target:
        case Target.CPU:
            return _is_at_most(row.cpu_s, CPU_LIMIT_S)
        case Target.MEMORY:
            return _is_at_most(row.resident_bytes, RESIDENT_LIMIT_BYTES)
        case Target.FLAT:
            return _is_at_most(row.grown_bytes, GROWTH_LIMIT_BYTES)
        case Target.PAGE:
            return _is_at_most(row.render_s, RENDER_LIMIT_S)
        case Target.BLOCKING:
            return _is_at_most(row.blocked_s, BLOCKING_LIMIT_S)
        case Target.BELOW_OURS:
            times = ratio(row, baseline)
            return times is not None and times < 1


def _is_at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit


# Text of the cells


def _verdict(row: Row, baseline: Row | None) -> str:
    if not row.targets:
        return NOTHING
    too_high = missed(row, baseline)
    return f"no: {', '.join(too_high)}" if too_high else "yes"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _milliseconds(value_s: float | None) -> str:
    return NOTHING if value_s is None else f"{value_s * 1e3:.0f}"


def _megabytes(value: int | None) -> str:
    return NOTHING if value is None else f"{value / 1e6:.1f}"


def _times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}x"


def _median_and_worst(durations: Durations | None) -> str:
    if durations is None:
        return NOTHING
    return f"{_milliseconds(durations.median)}/{_milliseconds(durations.worst)}"


COLUMNS = (
    Column("", "", lambda row, _: row.what),
    Column("seen", "healthy", lambda row, _: _count(row.healthy)),
    Column("CPU", "s/cycle", lambda row, _: _seconds(row.cpu_s)),
    Column("user", "s", lambda row, _: _seconds(row.user_s)),
    Column("system", "s", lambda row, _: _seconds(row.system_s)),
    Column("CPU", "to ours", lambda row, baseline: _times(ratio(row, baseline))),
    Column("memory", "MB", lambda row, _: _megabytes(row.resident_bytes)),
    Column("growth", "MB", lambda row, _: _megabytes(row.grown_bytes)),
    Column("page", "samples", lambda row, _: _count(row.samples)),
    Column("page", "MB", lambda row, _: _megabytes(row.page_bytes)),
    Column("gzip", "MB", lambda row, _: _megabytes(row.gzip_bytes)),
    Column("render", "ms", lambda row, _: _milliseconds(row.render_s)),
    Column("fetch", "ms/worst", lambda row, _: _median_and_worst(row.fetch_s)),
    Column("gzip fetch", "ms/worst", lambda row, _: _median_and_worst(row.gzip_fetch_s)),
    Column("blocked", "ms", lambda row, _: _milliseconds(row.blocked_s)),
    Column("targets", "met", _verdict),
)


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    baseline = next((row for row in rows if row.is_baseline), None)
    cells = [
        [column.head for column in COLUMNS],
        [column.unit for column in COLUMNS],
        *([column.text(row, baseline) for column in COLUMNS] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield GAP.join(_aligned(line, widths)).rstrip()


def _aligned(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Yield the cells as wide as their columns: words to the left, figures to the right."""
    last = len(line) - 1
    for index, (cell, width) in enumerate(zip(line, widths, strict=True)):
        yield cell.ljust(width) if index in (0, last) else cell.rjust(width)
