"""The commands `ollama-fleet provisioner …`: run one, and tell it what the fleet is to be.

`run` is the long-running process. `plan`, `apply` and `show` speak with it through its API.
Exit status: 0 done; 1 it cannot be done; 2 wrong options; 130 stopped waiting by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask before instances are removed.")
@click.option(
    "--wait/--no-wait", "is_waiting", default=True, show_default=True, help="Until all are ready."
)
@json_option
@with_client
def apply(*, client: Client, spec: Path, is_agreed: bool, is_waiting: bool, is_json: bool) -> None:
    """Put a specification in force, and show how the fleet gets there.

    Ctrl-C only stops the waiting: the provisioner goes on. To go back, apply the former file.
    """
    fleet = load_fleet(spec)
    planned = client.plan(fleet)
    _show_plan(planned, is_json=is_json)
    if not (is_agreed or planned.is_empty or not sys.stdin.isatty()):
        click.confirm("Put this in force?", abort=True, err=True)
    client.apply(fleet, plan=planned)
    if is_waiting:
        _wait(client, fleet)


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


def _wait(client: Client, fleet: Fleet) -> None:
    """Show how far the fleet is: on a terminal all the time, elsewhere when all is done."""
    steps = progress_until_done(client.instances, fleet, sleep=time.sleep)
    try:
        last = _last_shown(steps)
    except KeyboardInterrupt:
        click.echo("\nstopped waiting; the provisioner goes on", err=True)
        raise SystemExit(STOPPED_WAITING) from None
    click.echo(str(last), err=True)


def _last_shown(steps: Iterable[Progress]) -> Progress | None:
    """Show each step where a person looks; return the last one."""
    last = None
    is_watched = sys.stderr.isatty()
    for last in steps:
        if is_watched:
            click.echo(f"\r\x1b[K{_bar(last)}", err=True, nl=False)
    if is_watched:
        click.echo("\r\x1b[K", err=True, nl=False)
    return last


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
