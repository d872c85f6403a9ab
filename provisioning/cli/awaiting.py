"""Wait, before a person's eyes, for a fleet to become what was applied.

In:   a Client, the Fleet, how long to wait.
Out:  on a terminal a bar, elsewhere a line whenever it differs; on stderr.
Fails with click's errors. Whoever stops waiting stops nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator

import click

from provisioning.cli.instances_text import shown
from provisioning.client.client import Client
from provisioning.client.progress import Progress, progress_until_done
from provisioning.errors import ProvisionerError
from provisioning.model import Fleet

STOPPED = 130
"""Exit status after Ctrl-C."""
BAR_CELLS = 30
LEAST_BAR_CELLS = 10
USUAL_COLUMNS = 80
CLEARED = "\r\x1b[K"
"""Takes what the last line of a terminal shows away."""


def wait_for(client: Client, fleet: Fleet, timeout_s: float) -> None:
    """Show how far the fleet is, until it is there, cannot get there, or the time is over.

    Raises:
        click.ClickException: It does not get there.
        SystemExit: Ctrl-C ends the waiting.
    """
    steps = progress_until_done(
        client.instances, fleet, silent_nodes=lambda: _silent_nodes(client), sleep=time.sleep
    )
    try:
        last = _last_shown(_within(steps, timeout_s))
    except KeyboardInterrupt:
        click.echo("\nstopped waiting; the provisioner goes on", err=True)
        raise SystemExit(STOPPED) from None
    except ProvisionerError as error:
        if sys.stderr.isatty():
            click.echo(CLEARED, err=True, nl=False)
        raise click.ClickException(f"the specification is in force, but {error}") from error
    if last.is_stuck:
        faults = "".join(f"\n  {shown(fault)}" for fault in last.faults)
        raise click.ClickException(f"{last}, and what is missing cannot start:{faults}")
    if not last.is_done:
        raise click.ClickException(f"{last} after {timeout_s:g} s; the provisioner goes on")


def _silent_nodes(client: Client) -> frozenset[str]:
    """Return the nodes that do not answer; one that is being asked, after a take-over, may yet."""
    nodes = [one for one in client.nodes() if one.is_listed and one.is_asked]
    return frozenset(one.name for one in nodes if not one.is_reachable)


def _within(steps: Iterable[Progress], timeout_s: float) -> Iterator[Progress]:
    """Yield steps until the time is over; the first one in any case."""
    deadline_s = time.monotonic() + timeout_s
    for step in steps:
        yield step
        if time.monotonic() >= deadline_s:
            return


def _last_shown(steps: Iterator[Progress]) -> Progress:
    """Show each step: on a terminal as a bar, elsewhere as a line when it differs."""
    is_watched = sys.stderr.isatty()
    last = next(steps)
    _show(last, is_watched=is_watched)
    for step in steps:
        if is_watched or str(step) != str(last):
            _show(step, is_watched=is_watched)
        last = step
    if is_watched:
        click.echo(f"{CLEARED}{last}", err=True)
    return last


def _show(step: Progress, *, is_watched: bool) -> None:
    if is_watched:
        click.echo(f"{CLEARED}{bar(step, _n_columns())}", err=True, nl=False)
    else:
        click.echo(str(step), err=True)


def bar(progress: Progress, n_columns: int) -> str:
    """Return the line for a terminal so wide; one that wrapped could not be taken away again."""
    text = str(progress)
    n_free = n_columns - 1  # some terminals wrap once the last column is written
    n_cells = min(BAR_CELLS, n_free - len(f"[] {text}"))
    if n_cells < LEAST_BAR_CELLS:
        return text if len(text) <= n_free else f"{text[: n_free - 1]}…"
    n_filled = n_cells * progress.n_ready // max(1, progress.n_wanted)
    return f"[{'#' * n_filled:{n_cells}}] {text}"


def _n_columns() -> int:
    """Return how wide the terminal is that words go to."""
    try:
        n_columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return USUAL_COLUMNS
    return n_columns or USUAL_COLUMNS  # 0 where it does not know
