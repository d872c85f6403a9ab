"""Write the results as one table with the complaints below. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.live.trial import Result

NOTHING = "–"
GAP = "  "
N_WORDS = 2
"""The first columns are words, the others figures."""
HEAD = (
    ("scenario", "alert", "told", "sum of", "lower", "pages", "over"),
    ("", "", "after s", "intervals s", "bound s", "", "after s"),
)
LEGEND = """\
told:      from the fault to the message at the pager's (or the tickets') web server
sum:       poll + scrape + evaluation + the alert's `for` + group_wait; where it is needed to see
           the fault, also the scrape's time-out or the inventory's refresh interval
bound:     grace period + `for` + group_wait: no message can come before, however short the others
pages:     notifications that woke somebody, until everything was over
over:      from the healing to the message that it is over"""


def render(results: Sequence[Result]) -> str:
    """Return the table, what its columns mean, and every complaint."""
    lines = [*HEAD, *map(_cells, results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = "\n".join(_line(cells, widths) for cells in lines)
    return "\n\n".join([table, LEGEND, *_arrived(results), _verdict(results)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return cells as wide as their columns: words to the left, figures to the right."""
    padded = (
        cell.ljust(width) if index < N_WORDS else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return GAP.join(padded).rstrip()


def _cells(result: Result) -> tuple[str, ...]:
    scenario = result.scenario
    return (
        scenario.title,
        scenario.alert if scenario.page else f"{scenario.alert} (ticket)",
        _seconds(result.told_after_s),
        _seconds(result.intervals_s),
        _seconds(result.least_s),
        str(result.n_pages),
        _seconds(result.resolved_after_s),
    )


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _arrived(results: Sequence[Result]) -> Iterator[str]:
    """Yield for each scenario what arrived, in order."""
    for result in results:
        pages = [f"pager: {page}" for page in result.arrived.pages]
        tickets = [f"tickets: {ticket}" for ticket in result.arrived.tickets]
        yield "\n  ".join([f"{result.scenario.title}:", *pages, *tickets])


def _verdict(results: Sequence[Result]) -> str:
    faults = [f"{one.scenario.name}: {fault}" for one in results for fault in one.complaints]
    return "\n".join(faults) or "everything arrived that should, and nothing else"
