"""The commands `ollama-fleet provisioner …`: run, plan, apply, check, nodes, orphans, scale."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ollama_fleet import logs
from ollama_fleet.clock import SystemClock
from ollama_fleet.signals import ignore_hangup
from ollama_fleet.tables import count_text, table
from provisioning.api.routes import MAX_COUNT, NodeDocument, OrphanDocument
from provisioning.app import Settings, running
from provisioning.cli.common import (
    age_text,
    agree,
    ask,
    json_option,
    show_plan,
    shown,
    spec_in_force,
    wait_for,
    waiting_options,
    with_client,
    yes_option,
)
from provisioning.cli.run_options import run_options, settings_of
from provisioning.cli.setup_cli import node_files, systemd_units
from provisioning.client.client import Client, SpecInForce, etag_of
from provisioning.errors import ProvisionerError
from provisioning.eventlog import RateLimit
from provisioning.model import ContainerState, Fleet
from provisioning.plan import Plan
from provisioning.spec import fleet_json, fleet_yaml, load_fleet
from provisioning.state import LIST_COMMAND

HEAD = ("NODE", "RUNTIME", "STATE", "INSTANCES", "FAILED", "CPUS", "MEMORY", "NOTE")
ANSWERS, SILENT, NOT_ASKED = "answers", "silent", "not asked"
GIB = 2**30


def nodes_text(nodes: Sequence[NodeDocument], *, now_s: float) -> str:
    """Return a table, and how many there are and do not answer."""
    if not nodes:
        return "no nodes"
    rows = table(HEAD, (_row(node, now_s) for node in nodes))
    return f"{rows}\n{count_text(len(nodes), 'node')}, {_answering(nodes)}"


def _answering(nodes: Sequence[NodeDocument]) -> str:
    """Return how many do not answer; those that were not asked say nothing of it."""
    tally = Counter(map(_state, nodes))
    unheard = (state for state in (SILENT, NOT_ASKED) if tally[state])
    return ", ".join(f"{tally[state]:,} of them {state}" for state in unheard) or "all answer"


def _row(node: NodeDocument, now_s: float) -> tuple[str, ...]:
    return (
        node.name,
        node.runtime or "-",
        _state(node),
        f"{node.n_instances:,}",
        f"{node.n_failed:,}",
        f"{node.cpus_used:g} of {node.cpus:g}",
        f"{node.memory_used_bytes / GIB:.1f} of {node.memory_bytes / GIB:.1f} GiB",
        _note(node, now_s),
    )


def _state(node: NodeDocument) -> str:
    if node.is_reachable:
        return ANSWERS
    return SILENT if node.is_asked else NOT_ASKED


def _note(node: NodeDocument, now_s: float) -> str:
    """Return what is out of the ordinary, on one line."""
    heard = f"heard {age_text(now_s - node.heard_s)} ago" if node.heard_s else "never heard"
    fault = shown(node.fault)
    notes = (
        f"{heard}: {fault}" if fault and node.is_asked else fault,
        "" if node.is_listed else "not in the specification",
        "cordoned" if node.is_cordoned else "",
    )
    return "; ".join(filter(None, notes))


@click.command(short_help="Show how each node is, and what it holds.")
@json_option
@with_client
def nodes(*, client: Client, is_json: bool) -> None:
    """Show how each node is: whether it answers, since when not and why, and what it holds.

    Only the provisioner that leads knows; where there are several, name them all.
    """
    found = client.nodes()
    words = nodes_text(found, now_s=SystemClock().unix_s())
    click.echo(msgspec.json.encode(found) if is_json else words)


@click.command(short_help="Change how many instances a pool has.")
@click.argument("pool")
@click.argument("count", type=click.IntRange(0, MAX_COUNT))
@yes_option
@waiting_options
@json_option
@with_client
def scale(
    *,
    client: Client,
    pool: str,
    count: int,
    is_agreed: bool,
    is_waiting: bool,
    timeout_s: float,
    is_json: bool,
) -> None:
    """Change how many instances POOL has to COUNT, and show how the fleet gets there.

    Where instances are removed, it asks first; where nobody can be asked, it needs --yes. Change
    your specification as well, or the next `apply` sets the number back.
    """
    in_force = spec_in_force(client)
    scaled = _scaled(in_force.fleet, pool, count)
    planned = client.plan(scaled)
    _check_same(in_force, planned)
    agree(planned, is_agreed=is_agreed, is_json=is_json)
    client.scale(pool, count, etag=in_force.etag)
    if is_waiting:
        # Read again, it might come from a provisioner that does not know of the change yet.
        wait_for(client, scaled, timeout_s)


def _check_same(in_force: SpecInForce, planned: Plan) -> None:
    """Refuse a plan that is not made against what was read: it would show what else differs."""
    read, base = in_force.etag.removeprefix("W/"), etag_of(planned)
    if read != base:
        raise click.ClickException(
            f"the plan is against version {base} of the specification, and {read or 'another'} was "
            "read: it was changed in between, or a provisioner does not reach its store; try again"
        )


def _scaled(fleet: Fleet, name: str, count: int) -> Fleet:
    names = [pool.name for pool in fleet.pools]
    if name not in names:
        raise click.ClickException(f"there is no pool {name!r}; there are {', '.join(names)}")
    pools = tuple(
        msgspec.structs.replace(pool, count=count) if pool.name == name else pool
        for pool in fleet.pools
    )
    return msgspec.structs.replace(fleet, pools=pools)


ORPHANS_HEAD = ("NODE", "ORPHANS", "RUNNING", "FOR EXAMPLE")


@click.group(short_help="List and delete what runs without a record.")
def orphans() -> None:
    """List and delete orphans: containers and processes of the fleet without a record in the store.

    Many orphans mean that the store is the wrong one, empty, or an old backup: restore the right
    store. Delete orphans only if nobody needs them.
    """


@orphans.command("list", short_help="Count the orphans of each node.")
@json_option
@with_client
def list_(*, client: Client, is_json: bool) -> None:
    """Count the orphans of each node; with --json, list every one."""
    found = client.orphans()
    click.echo(msgspec.json.encode(found).decode() if is_json else orphans_text(found))


@orphans.command(short_help="Delete all orphans.")
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask before orphans are deleted.")
@with_client
def delete(*, client: Client, is_agreed: bool) -> None:
    """Delete all orphans: show how many each node has, ask, and have the provisioner delete them.

    If their number changes before the answer, nothing is deleted. Those on a node that does not
    answer are deleted once it does, as long as the same provisioner leads.
    """
    found = client.orphans()
    click.echo(orphans_text(found))
    if not found:
        return
    counted = count_text(len(found), "orphan")
    if not is_agreed:
        ask(f"Delete {counted}?", what="this ends what runs without a record")
    client.delete_orphans(len(found))
    click.echo(f"the provisioner deletes {counted}; see what is left: {LIST_COMMAND}", err=True)


def orphans_text(found: Sequence[OrphanDocument]) -> str:
    """Return a table with a row for each node, and how many there are."""
    if not found:
        return "no orphans"
    rows = table(ORPHANS_HEAD, _rows(found))
    return f"{rows}\n{count_text(len(found), 'orphan')}"


def _rows(found: Sequence[OrphanDocument]) -> Iterator[tuple[str, ...]]:
    counted = Counter(one.node for one in found)
    running = Counter(one.node for one in found if one.state is ContainerState.RUNNING)
    example = {one.node: one.name for one in reversed(found)}
    for node in sorted(counted):
        yield node, f"{counted[node]:,}", f"{running[node]:,}", shown(example[node])


log = logging.getLogger("provisioning.cli.provisioner")

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
