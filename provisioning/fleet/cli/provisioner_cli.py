"""The commands `ollama-fleet provisioner …`: run one, and tell it what the fleet is to be.

`run` is the long-running process. `plan`, `apply` and `show` speak with it through its API.
Exit status: 0 done; 1 it cannot be done; 2 wrong options; 130 stopped waiting by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from provisioning.fleet.app import Settings, running
from provisioning.fleet.cli.connection import with_client
from provisioning.fleet.cli.instances_text import shown
from provisioning.fleet.cli.run_options import run_options, settings_of
from provisioning.fleet.cli.setup_cli import node_files, systemd_units
from provisioning.fleet.client.client import Client
from provisioning.fleet.client.progress import Progress, progress_until_done
from provisioning.fleet.errors import ProvisionerError
from provisioning.fleet.fleet import Fleet
from provisioning.fleet.plan import Plan
from provisioning.fleet.plan_text import plan_text
from provisioning.fleet.spec import load_fleet

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
STOPPED_WAITING = 130
BAR_CELLS = 30

log = logging.getLogger("provisioning.fleet")

spec_argument = click.argument(
    "spec", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="SPEC"
)
json_option = click.option("--json", "is_json", is_flag=True, help="JSON instead of words.")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Create, watch, rotate and replace instances.",
)
def provisioner() -> None:
    """Create, watch, rotate and replace the instances of a fleet, as one file says.

    \b
    Examples:
      ollama-fleet provisioner run --fleet lab
      ollama-fleet provisioner plan fleet.yml
      ollama-fleet provisioner apply fleet.yml
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@provisioner.command()
@run_options
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged, to stderr.",
)
def run(*, log_level: str, **options: Any) -> None:
    """Run a provisioner until SIGTERM or Ctrl-C; instances go on without it.

    Several of them on one etcd stand in for each other: one leads, the others answer reads.
    """
    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format=LOG_FORMAT, force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    with _translated():
        asyncio.run(_until_stopped(settings_of(options)))
    log.info("stopped; instances go on")


@provisioner.command()
@spec_argument
@json_option
@with_client
def plan(*, client: Client, spec: Path, is_json: bool) -> None:
    """Show what a specification would change; change nothing."""
    _show_plan(client.plan(load_fleet(spec)), is_json=is_json)


@provisioner.command()
@spec_argument
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask before instances are ended.")
@click.option(
    "--wait/--no-wait", "is_waiting", default=True, show_default=True, help="Until all are ready."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Of the waiting; as long as it takes unless given.",
)
@json_option
@with_client
def apply(
    *,
    client: Client,
    spec: Path,
    is_agreed: bool,
    is_waiting: bool,
    timeout_s: float | None,
    is_json: bool,
) -> None:
    """Put a specification in force, and show how the fleet gets there.

    Where instances are removed, replaced or moved, it asks first; where nobody can be asked, it
    needs --yes. Ctrl-C only stops the waiting: the provisioner goes on. To go back, apply the
    former file.
    """
    fleet = load_fleet(spec)
    planned = client.plan(fleet)
    _show_plan(planned, is_json=is_json)
    if planned.is_ending_some and not is_agreed:
        _ask()
    client.apply(fleet, plan=planned)
    if is_waiting:
        _wait(client, fleet, math.inf if timeout_s is None else timeout_s)


@provisioner.command()
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(spec: Path) -> None:
    """Check a specification; needs no provisioner."""
    with _translated():
        fleet = load_fleet(spec)
    n_instances = sum(pool.count for pool in fleet.pools)
    click.echo(
        f"fleet {fleet.name}: {n_instances:,} instances in {len(fleet.pools)} pools "
        f"on {len(fleet.nodes)} nodes",
        err=True,
    )


@provisioner.command()
@json_option
@with_client
def show(*, client: Client, is_json: bool) -> None:
    """Show the specification in force, every default written out."""
    in_force = client.spec()
    if in_force is None:
        raise click.ClickException(
            "no specification is in force; put one there with: ollama-fleet provisioner apply SPEC"
        )
    encoded = msgspec.json.encode(in_force.fleet)
    click.echo(encoded if is_json else msgspec.json.format(encoded))


async def _until_stopped(settings: Settings) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(settings) as url:
        log.info("the API is at %s", url)
        await stopped.wait()


def _show_plan(planned: Plan, *, is_json: bool) -> None:
    click.echo(msgspec.json.encode(planned) if is_json else plan_text(planned))


def _ask() -> None:
    if not sys.stdin.isatty():
        raise click.ClickException(
            "this ends instances, and nobody can be asked here whether it may; "
            "if it may, say so with --yes"
        )
    click.confirm("Put this in force?", abort=True, err=True)


def _wait(client: Client, fleet: Fleet, timeout_s: float) -> None:
    """Show how far the fleet is, until it is there, cannot get there, or the time is over."""
    steps = progress_until_done(client.instances, fleet, sleep=time.sleep)
    try:
        last = _last_shown(_within(steps, timeout_s))
    except KeyboardInterrupt:
        click.echo("\nstopped waiting; the provisioner goes on", err=True)
        raise SystemExit(STOPPED_WAITING) from None
    if last.is_stuck:
        faults = "".join(f"\n  {shown(fault)}" for fault in last.faults)
        raise click.ClickException(f"{last}, and what is missing cannot start:{faults}")
    if not last.is_done:
        raise click.ClickException(f"{last} after {timeout_s:g} s; the provisioner goes on")


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
        click.echo(f"\r\x1b[K{last}", err=True)
    return last


def _show(step: Progress, *, is_watched: bool) -> None:
    if is_watched:
        click.echo(f"\r\x1b[K{_bar(step)}", err=True, nl=False)
    else:
        click.echo(str(step), err=True)


def _bar(progress: Progress) -> str:
    n_filled = BAR_CELLS * progress.n_ready // max(1, progress.n_wanted)
    return f"[{'#' * n_filled:{BAR_CELLS}}] {progress}"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ProvisionerError as error:
        raise click.ClickException(str(error)) from error


provisioner.add_command(systemd_units)
provisioner.add_command(node_files)
