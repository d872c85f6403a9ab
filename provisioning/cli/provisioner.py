"""The commands `ollama-fleet provisioner …`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from ollama_fleet import logs
from ollama_fleet.clock import SystemClock
from ollama_fleet.signals import ignore_hangup
from ollama_fleet.tables import count_text, table
from ollama_fleet.tokens import TokenFileError
from ollama_fleet.urls import host_port
from provisioning.api.routes import MAX_COUNT, NodeDocument, OrphanDocument
from provisioning.api.server import MAX_CONNECTIONS
from provisioning.app import Settings, is_everywhere, running
from provisioning.cli.common import (
    STATE,
    active_spec,
    age_text,
    agree,
    ask,
    json_option,
    show_plan,
    shown,
    state_dir,
    token_file,
    wait_for,
    waiting_options,
    with_client,
    yes_option,
)
from provisioning.cli.setup import node_files, systemd
from provisioning.client import ActiveSpec, Client, etag_of
from provisioning.errors import ProvisionerError
from provisioning.eventlog import RateLimit
from provisioning.model import ContainerState, Fleet
from provisioning.plan import Plan
from provisioning.runtime.factory import RuntimePaths
from provisioning.spec.document import encode_fleet, fleet_yaml, load_fleet
from provisioning.spec.values import MAX_FLEET_NAME_CHARACTERS, name_fault
from provisioning.state import LIST_COMMAND
from provisioning.store.etcd.access import Credentials

log = logging.getLogger("provisioning.cli.provisioner")

VARIABLE_PREFIX = "OLLAMA_FLEET_PROVISIONER_"
LISTEN_ADDRESS = "127.0.0.1:8080"
LOG_LEVELS = ("debug", "info", "warning", "error")
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
HEAD = ("NODE", "RUNTIME", "STATE", "INSTANCES", "FAILED", "CPUS", "MEMORY", "NOTE")
ANSWERS, SILENT, NOT_ASKED = "answers", "silent", "not asked"
GIB = 2**30
ORPHANS_HEAD = ("NODE", "ORPHANS", "RUNNING", "FOR EXAMPLE")

spec_argument = click.argument(
    "spec", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="SPEC"
)


class Option(NamedTuple):
    """One option of `run`; its name is that of the setting."""

    name: str
    help: str
    type: Any = str
    default: Any = None
    shown_default: str = ""

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return VARIABLE_PREFIX + self.name.translate({ord("."): "_", ord("-"): "_"}).upper()

    @property
    def attribute(self) -> str:
        """Return the name of the keyword argument."""
        return self.name.translate({ord("."): "_", ord("-"): "_"})


OPTIONS = (
    Option("fleet", "Name of the fleet, as its specification says.", default="fleet"),
    Option(
        "store.url",
        "Store of the fleet: sqlite:PATH on one machine; etcd://host:port,… for several "
        "provisioners, etcds:// with TLS; memory: keeps nothing.",
        default="",
        shown_default="sqlite:FLEET.db in state-dir",
    ),
    Option("store.ca-file", "CA that signed etcd's certificates.", FILE),
    Option("store.certificate-file", "Client certificate for etcd.", FILE),
    Option("store.key-file", "Key of store.certificate-file.", FILE),
    Option("store.user", "User name for etcd.", default=""),
    Option("store.password-file", "File with the password of store.user.", FILE),
    Option(
        "store.lease",
        "Seconds until a silent leader loses its lease, with etcd.",
        click.IntRange(2, 600),
        10,
    ),
    Option("web.listen-address", "Listen address of the API.", default=LISTEN_ADDRESS),
    Option(
        "web.max-connections",
        "Maximum connections to the API; one more closes the longest idle one. At most a quarter "
        "of the open files limit.",
        click.IntRange(1),
        MAX_CONNECTIONS,
    ),
    Option(
        "web.external-url",
        "URL at which clients of the other provisioners reach this one.",
        default="",
        shown_default="web.listen-address",
    ),
    Option(
        "web.token-file",
        "Tokens for changes, one per line; created with one token if missing.",
        FILE,
        token_file,
        f"{STATE}/provisioner.token",
    ),
    Option(
        "web.audit-file",
        "Audit log: a line of JSON for each requested change, and for refused tokens one per "
        "address and minute with a count.",
        FILE,
    ),
    Option("state-dir", "Folder of the records and logs of processes.", FOLDER, state_dir, STATE),
    Option("nodes.ca-file", "CA that signed the nodes' certificates.", FILE),
    Option("nodes.certificate-file", "Client certificate for the nodes.", FILE),
    Option("nodes.key-file", "Key of nodes.certificate-file.", FILE),
    Option(
        "simulation.token-file",
        "Token of the process that hosts simulated instances.",
        FILE,
        lambda: state_dir() / "simulate.token",
        f"{STATE}/simulate.token",
    ),
    Option("log-level", "Minimum log level.", click.Choice(LOG_LEVELS), "info"),
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of the options."""
    for option in reversed(OPTIONS):
        add = click.option(
            f"--{option.name}",
            option.attribute,
            type=option.type,
            default=option.default,
            show_default=option.shown_default or option.default not in (None, ""),
            envvar=option.variable,
            help=option.help,
        )
        command = add(command)
    return command


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the settings that the options make.

    Raises:
        click.UsageError: An option is invalid, or one of a set is missing.
        StoreError: Likewise, of the store's options.
    """
    host, port = _address(given["web_listen_address"])
    _check_options(given, host)
    default_store = f"sqlite:{given['state_dir'] / given['fleet']}.db"
    return Settings(
        fleet=given["fleet"],
        store_url=given["store_url"] or default_store,
        host=host,
        port=port,
        advertised_url=given["web_external_url"],
        token_file=given["web_token_file"],
        audit_file=given["web_audit_file"],
        lease_s=given["store_lease"],
        max_connections=given["web_max_connections"],
        credentials=Credentials(
            ca_file=given["store_ca_file"],
            certificate_file=given["store_certificate_file"],
            key_file=given["store_key_file"],
            user=given["store_user"],
            password_file=given["store_password_file"],
        ),
        paths=RuntimePaths(
            state_dir=given["state_dir"] / "processes",
            simulation_token_file=given["simulation_token_file"],
            authority_file=given["nodes_ca_file"],
            certificate_file=given["nodes_certificate_file"],
            key_file=given["nodes_key_file"],
        ),
    )


def _check_options(given: Mapping[str, Any], host: str) -> None:
    """Refuse a name or options that do not go together.

    Raises:
        click.UsageError: They are so.
    """
    if fault := name_fault(given["fleet"], MAX_FLEET_NAME_CHARACTERS):
        raise click.UsageError(f"--fleet {fault}")
    if (
        given["store_url"].startswith("etcd")
        and is_everywhere(host)
        and not given["web_external_url"]
    ):
        raise click.UsageError(
            f"--web.listen-address {given['web_listen_address']!r} is no address for clients "
            "of the other provisioners: give --web.external-url too"
        )
    node_files = [given[f"nodes_{name}"] for name in ("ca_file", "certificate_file", "key_file")]
    if any(node_files) and not all(node_files):
        raise click.UsageError("--nodes.ca-file, .certificate-file and .key-file go together")


def _address(text: str) -> tuple[str, int]:
    try:
        host, port = host_port(text, example=LISTEN_ADDRESS)
    except ValueError as error:
        raise click.UsageError(f"--web.listen-address {error}") from error
    return host or "0.0.0.0", port  # noqa: S104 - an empty host means it


@click.group(
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
def run(*, log_level: str, **options: Any) -> None:
    """Run a provisioner until SIGTERM or Ctrl-C; instances keep running without it.

    Of several provisioners on one etcd one leads; the others answer reads and take over.
    Each option is an environment variable too: --web.listen-address is
    OLLAMA_FLEET_PROVISIONER_WEB_LISTEN_ADDRESS.
    """
    logs.configure(log_level)
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
    ignore_hangup()
    async with running(settings) as url:
        log.info("API listens url=%s", url)
        await stopped.wait()


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
    words = nodes_text(found, now_s=SystemClock().unix_s())
    click.echo(msgspec.json.encode(found) if is_json else words)


def nodes_text(nodes: Sequence[NodeDocument], *, now_s: float) -> str:
    """Return a table, and the count of those that do not answer."""
    if not nodes:
        return "no nodes"
    rows = table(HEAD, (_row(node, now_s) for node in nodes))
    return f"{rows}\n{count_text(len(nodes), 'node')}, {_answering(nodes)}"


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
