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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from provisioning.fleet.app import Settings, running
from provisioning.fleet.cli.awaiting import wait_for
from provisioning.fleet.cli.connection import with_client
from provisioning.fleet.cli.run_options import run_options, settings_of
from provisioning.fleet.cli.setup_cli import node_files, systemd_units
from provisioning.fleet.client.client import Client
from provisioning.fleet.errors import ProvisionerError
from provisioning.fleet.plan import Plan
from provisioning.fleet.plan_text import plan_text
from provisioning.fleet.spec import load_fleet

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

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

    The file, SPEC, is YAML: the fleet's nodes, its pools of instances, its limits.

    \b
    Examples:
      ollama-fleet provisioner check fleet.yml
      ollama-fleet provisioner run --fleet lab
      ollama-fleet provisioner plan fleet.yml
      ollama-fleet provisioner apply fleet.yml
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@provisioner.command(short_help="Run a provisioner until it is told to stop.")
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
    Each option but --log-level is a variable of the environment too: --web.listen-address is
    OLLAMA_FLEET_PROVISIONER_WEB_LISTEN_ADDRESS.
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


@provisioner.command(short_help="Put a specification in force; wait until it is so.")
@spec_argument
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask before instances are ended.")
@click.option(
    "--wait/--no-wait",
    "is_waiting",
    default=True,
    show_default=True,
    help="Until all instances are ready, or what is missing cannot start.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    show_default="as long as it takes",
    help="How long to wait; then it exits with 1.",
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
    if planned.is_ending_some and not planned.nodes_in_use and not is_agreed:
        _ask()  # not about what is refused in any case
    client.apply(fleet, plan=planned)
    if is_waiting:
        wait_for(client, fleet, math.inf if timeout_s is None else timeout_s)


@provisioner.command()
@spec_argument
def check(spec: Path) -> None:
    """Check a specification; needs no provisioner."""
    with _translated():
        fleet = load_fleet(spec)
    n_instances = sum(pool.count for pool in fleet.pools)
    click.echo(
        f"fleet {fleet.name}: {_counted(n_instances, 'instance')} in "
        f"{_counted(len(fleet.pools), 'pool')} on {_counted(len(fleet.nodes), 'node')}",
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


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


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


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ProvisionerError as error:
        raise click.ClickException(str(error)) from error


provisioner.add_command(systemd_units)
provisioner.add_command(node_files)
