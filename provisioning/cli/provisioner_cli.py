"""The commands `ollama-fleet provisioner …`: run one, and tell it what the fleet is to be.

`run` is the long-running process. All but `check` and what makes files speak with it by its API.
Exit status: 0 done; 1 it cannot be done; 2 wrong options; 130 stopped by Ctrl-C,
which at a question is a no, and 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ollama_fleet import logs
from ollama_fleet.signals import ignore_hangup
from provisioning.app import Settings, running
from provisioning.cli.asking import yes_option
from provisioning.cli.awaiting import wait_for
from provisioning.cli.changing import agree, show_plan, spec_in_force, waiting_options
from provisioning.cli.connection import json_option, with_client
from provisioning.cli.nodes_cli import nodes
from provisioning.cli.orphans_cli import orphans
from provisioning.cli.run_options import run_options, settings_of
from provisioning.cli.scale_cli import scale
from provisioning.cli.setup_cli import node_files, systemd_units
from provisioning.client.client import Client
from provisioning.clock import SystemClock
from provisioning.errors import ProvisionerError
from provisioning.eventlog import RateLimit
from provisioning.spec import fleet_json, fleet_yaml, load_fleet
from provisioning.spec.amounts import count_text

log = logging.getLogger("provisioning")

spec_argument = click.argument(
    "spec", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="SPEC"
)


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
def run(*, log_level: str, **options: Any) -> None:
    """Run a provisioner until SIGTERM or Ctrl-C; instances go on without it.

    Several of them on one etcd stand in for each other: one leads, the others answer reads.
    Each option is a variable of the environment too: --web.listen-address is
    OLLAMA_FLEET_PROVISIONER_WEB_LISTEN_ADDRESS.
    """
    logs.configure(log_level)
    # What goes wrong in it goes wrong again and again, with a traceback each time.
    logging.getLogger("asyncio").addFilter(RateLimit(SystemClock()))
    with _translated():
        asyncio.run(_until_stopped(settings_of(options)))
    log.info("stopped; instances go on")


@provisioner.command()
@spec_argument
@json_option
@with_client
def plan(*, client: Client, spec: Path, is_json: bool) -> None:
    """Show what a specification would change; change nothing."""
    show_plan(client.plan(load_fleet(spec)), is_json=is_json)


@provisioner.command(short_help="Put a specification in force; wait until it is so.")
@spec_argument
@yes_option
@waiting_options
@json_option
@with_client
def apply(
    *,
    client: Client,
    spec: Path,
    is_agreed: bool,
    is_waiting: bool,
    timeout_s: float,
    is_json: bool,
) -> None:
    """Put a specification in force, and show how the fleet gets there.

    Where instances are removed, replaced or moved, it asks first; where nobody can be asked, it
    needs --yes. Ctrl-C only stops the waiting: the provisioner goes on. Then, as where it comes
    earlier, the exit status is 130; at the question it is a no, and the exit status 1. To go back,
    apply the former file.
    """
    fleet = load_fleet(spec)
    planned = client.plan(fleet)
    agree(planned, is_agreed=is_agreed, is_json=is_json)
    client.apply(fleet, plan=planned)
    if is_waiting:
        wait_for(client, fleet, timeout_s)


@provisioner.command()
@spec_argument
def check(spec: Path) -> None:
    """Check a specification; needs no provisioner."""
    with _translated():
        fleet = load_fleet(spec)
    n_instances = sum(pool.count for pool in fleet.pools)
    click.echo(
        f"fleet {fleet.name}: {count_text(n_instances, 'instance')} in "
        f"{count_text(len(fleet.pools), 'pool')} on {count_text(len(fleet.nodes), 'node')}",
        err=True,
    )


@provisioner.command(short_help="Show the specification in force, as a file.")
@json_option
@with_client
def show(*, client: Client, is_json: bool) -> None:
    """Show the specification in force, every default written out.

    What it prints is a file for check, plan and apply, as YAML or as JSON. It holds the values of
    environment variables, which may be secrets: keep it as you keep them.
    """
    fleet = spec_in_force(client).fleet
    click.echo(fleet_json(fleet) if is_json else fleet_yaml(fleet).rstrip("\n"))


async def _until_stopped(settings: Settings) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    ignore_hangup()
    async with running(settings) as url:
        log.info("the API is at %s", url)
        await stopped.wait()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ProvisionerError as error:
        raise click.ClickException(str(error)) from error


provisioner.add_command(nodes)
provisioner.add_command(orphans)
provisioner.add_command(scale)
provisioner.add_command(systemd_units)
provisioner.add_command(node_files)
