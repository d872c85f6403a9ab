"""Write about failing instances: one line per instance and window, and never a flood.

In:   the watches and the length of the window.
Out:  lines for the log. Their tallies begin anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporter.watch import Watch

MAX_LINES = 20
"""Per window. When a rack goes, one number says more than a thousand lines."""


def failure_lines(watches: Iterable[Watch], window_s: float) -> Iterator[str]:
    """Yield a line for each instance whose polls failed since the last call, up to MAX_LINES."""
    n_failing = 0
    for watch in watches:
        if watch.tally.failed:
            n_failing += 1
            if n_failing <= MAX_LINES:
                yield failure_line(watch, window_s)
        watch.tally.tried = watch.tally.failed = 0
    if n_failing > MAX_LINES:
        rest = n_failing - MAX_LINES
        yield f"{rest:,} more instances failed polls in the last {window_s:.0f} s; see /instances"


def failure_line(watch: Watch, window_s: float) -> str:
    """Return what there is to say of one failing instance."""
    tally, last = watch.tally, watch.last_failure
    said = "" if last is None else f"; last: {last.outcome}, {last.detail}"
    return (
        f"{watch.target.id} ({watch.target.url}) failed {tally.failed} of {tally.tried} polls in "
        f"the last {window_s:.0f} s{said}"
    )
