"""The commands `ollama-fleet provisioner …`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ollama_fleet import logs
from ollama_fleet.clock import SystemClock
from ollama_fleet.colours import red
from ollama_fleet.options import Group, json_option
from ollama_fleet.signals import on_hangup
from ollama_fleet.systemd import notify
from ollama_fleet.tables import count_text, table
from ollama_fleet.tokens import TokenFileError
from provisioning.api.routes import MAX_COUNT, NodeDocument, OrphanDocument
from provisioning.app import Settings, running
from provisioning.cli.common import (
    active_spec,
    age_text,
    agree,
    ask,
    show_plan,
    shown,
    wait_for,
    waiting_options,
    with_client,
    yes_option,
)
from provisioning.cli.completion import completing
from provisioning.cli.settings import run_options, settings_of
from provisioning.cli.setup import node_files, systemd
from provisioning.client import ActiveSpec, Client, etag_of
from provisioning.errors import ProvisionerError
from provisioning.eventlog import RateLimit
from provisioning.model import ContainerState, Fleet
from provisioning.plan import Plan
from provisioning.spec.document import encode_fleet, fleet_yaml, load_fleet
from provisioning.state import LIST_COMMAND

log = logging.getLogger("provisioning.cli.provisioner")

HEAD = ("NODE", "RUNTIME", "STATE", "INSTANCES", "FAILED", "CPUS", "MEMORY", "NOTE")
ANSWERS, SILENT, NOT_ASKED = "answers", "silent", "not asked"
GIB = 2**30
ORPHANS_HEAD = ("NODE", "ORPHANS", "RUNNING", "FOR EXAMPLE")

spec_argument = click.argument(
    "spec", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="SPEC"
)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Create, watch, rotate and replace instances.",
)
def provisioner() -> None:
    """Create, watch, rotate and replace the instances of a fleet, as declared in one file.

    The file, SPEC, is YAML: the fleet's nodes, its pools of instances, its limits.

    \b
    Examples:
      ollama-fleet provisioner check fleet.yml
      ollama-fleet provisioner run --fleet lab
      ollama-fleet provisioner plan fleet.yml
      ollama-fleet provisioner apply fleet.yml
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@provisioner.command(short_help="Run a provisioner until SIGTERM or Ctrl-C.")
@run_options
def run(*, log_level: str, log_format: str, **options: Any) -> None:
    """Run a provisioner until SIGTERM or Ctrl-C; instances keep running without it.

    Of several provisioners on one etcd one leads; the others answer reads and take over.
    Each option is an environment variable too: --web.listen-address is
    OLLAMA_FLEET_PROVISIONER_WEB_LISTEN_ADDRESS.
    """
    logs.configure(log_level, log_format)
    # Its errors repeat, with a traceback each time.
    logging.getLogger("asyncio").addFilter(RateLimit(SystemClock()))
    with _translated():
        asyncio.run(_until_stopped(settings_of(options)))
    log.info("stopped; instances keep running")


@provisioner.command()
@spec_argument
@json_option
@with_client
def plan(*, client: Client, spec: Path, is_json: bool) -> None:
    """Show what a specification would change; change nothing."""
    show_plan(client.plan(load_fleet(spec)), is_json=is_json)


@provisioner.command(short_help="Apply a specification; wait until the fleet is ready.")
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
    """Apply a specification, and show the progress of the fleet.

    It asks before it removes, replaces or moves instances; without a terminal it needs --yes.
    Ctrl-C stops only the waiting, with exit status 130: the provisioner continues. To roll back,
    apply the previous file.
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
    """Check a specification, without a provisioner."""
    with _translated():
        fleet = load_fleet(spec)
    n_instances = sum(pool.count for pool in fleet.pools)
    click.echo(
        f"fleet {fleet.name}: {count_text(n_instances, 'instance')} in "
        f"{count_text(len(fleet.pools), 'pool')} on {count_text(len(fleet.nodes), 'node')}",
        err=True,
    )


@provisioner.command(short_help="Show the active specification.")
@json_option
@with_client
def show(*, client: Client, is_json: bool) -> None:
    """Show the active specification with every default, as a file for check, plan and apply.

    It holds the values of environment variables: if those are secrets, keep the file secret.
    """
    fleet = active_spec(client).fleet
    click.echo(encode_fleet(fleet) if is_json else fleet_yaml(fleet).rstrip("\n"))


async def _until_stopped(settings: Settings) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    hangups = asyncio.Event()
    on_hangup(hangups.set)
    async with running(settings, hangups):
        notify("READY=1")
        await stopped.wait()
        notify("STOPPING=1")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (ProvisionerError, TokenFileError) as error:
        raise click.ClickException(str(error)) from error


@provisioner.command(short_help="Show the state of each node.")
@json_option
@with_client
def nodes(*, client: Client, is_json: bool) -> None:
    """Show for each node whether it answers, since when not and why, and what it holds.

    Only the leader knows: give --provisioner.url for each of several provisioners.
    """
    found = client.nodes()
    words = nodes_text(found, now_s=SystemClock().unix_s(), paint=red)
    click.echo(msgspec.json.encode(found) if is_json else words)


def nodes_text(
    nodes: Sequence[NodeDocument], *, now_s: float, paint: Callable[[str], str] = str
) -> str:
    """Return a table, and the count of those that do not answer, whose lines `paint` marks."""
    if not nodes:
        return "no nodes"
    head, *lines = table(HEAD, (_row(node, now_s) for node in nodes)).splitlines()
    rows = (
        paint(line) if _state(node) == SILENT else line
        for node, line in zip(nodes, lines, strict=True)
    )
    return "\n".join((head, *rows, f"{count_text(len(nodes), 'node')}, {_answering(nodes)}"))


def _answering(nodes: Sequence[NodeDocument]) -> str:
    """Return how many do not answer, or were not asked yet."""
    n_by_state = Counter(map(_state, nodes))
    others = (state for state in (SILENT, NOT_ASKED) if n_by_state[state])
    return ", ".join(f"{n_by_state[state]:,} {state}" for state in others) or "all answer"


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
    """Return what is wrong or unusual, on one line."""
    answered = (
        f"last answer {age_text(now_s - node.heard_s)} ago" if node.heard_s else "no answer yet"
    )
    fault = shown(node.fault)
    notes = (
        f"{answered}: {fault}" if fault and node.is_asked else fault,
        "" if node.is_listed else "not in the specification",
        "cordoned" if node.is_cordoned else "",
    )
    return "; ".join(filter(None, notes))


@provisioner.command(short_help="Change how many instances a pool has.")
@click.argument("pool", shell_complete=completing("pool"))
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
    """Set the number of instances of POOL to COUNT, and show the progress of the fleet.

    It asks before it removes instances; without a terminal it needs --yes. Change your
    specification as well, or the next `apply` restores the old count.
    """
    active = active_spec(client)
    scaled = _scaled(active.fleet, pool, count)
    planned = client.plan(scaled)
    _check_same(active, planned)
    agree(planned, is_agreed=is_agreed, is_json=is_json)
    client.scale(pool, count, etag=active.etag)
    if is_waiting:
        # A provisioner that has not seen the change yet would return the old specification.
        wait_for(client, scaled, timeout_s)


def _check_same(active: ActiveSpec, planned: Plan) -> None:
    """Refuse a plan against another version than was read: it would show other changes too."""
    read, base = active.etag, etag_of(planned)
    if read != base:
        raise click.ClickException(
            f"the plan is against version {base} of the specification, not the {read or 'version'} "
            "that was read: it has changed, or a provisioner has lost its store; try again"
        )


def _scaled(fleet: Fleet, name: str, count: int) -> Fleet:
    names = [pool.name for pool in fleet.pools]
    if name not in names:
        raise click.ClickException(f"there is no pool {name!r}; there are {', '.join(names)}")
    pools = tuple(pool.replace(count=count) if pool.name == name else pool for pool in fleet.pools)
    return fleet.replace(pools=pools)


@provisioner.group(short_help="List and delete what runs without a record.")
def orphans() -> None:
    """List and delete orphans: containers and processes of the fleet without a record in the store.

    Many orphans mean that the store is the wrong one, empty, or an old backup: restore the right
    one. Delete orphans only if nobody needs them.
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
    """Count the orphans of each node, ask, and delete all of them.

    If their number has changed by then, none is deleted. Those on a node that does not answer are
    deleted when it does, if the same provisioner still leads.
    """
    found = client.orphans()
    click.echo(orphans_text(found))
    if not found:
        return
    counted = count_text(len(found), "orphan")
    if not is_agreed:
        ask(f"Delete {counted}?", what="this stops what runs without a record")
    client.delete_orphans(len(found))
    click.echo(f"the provisioner deletes {counted}; list the rest: {LIST_COMMAND}", err=True)


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


provisioner.add_command(systemd)
provisioner.add_command(node_files)
