"""The command `ollama-fleet simulate`."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import uvloop
from click.core import ParameterSource

from ollama_fleet import logs
from ollama_fleet.options import FILE, Address, Choice, Duration, GroupedCommand, Parsed
from ollama_fleet.tables import count_text
from ollama_fleet.tokens import TokenFileError
from provisioning.simulator.app import (
    Hosting,
    RunningFleet,
    Settings,
    Simulation,
    running_simulation,
)
from provisioning.simulator.control import default_path
from provisioning.simulator.endpoints import keep_alive_s
from provisioning.simulator.errors import FaultError, SimulationError, SpecError
from provisioning.simulator.faults import Fault, parse_fault
from provisioning.simulator.spec import FleetSpec, Hardware, InventoryEngine, Mode, address_of


def weights(text: str) -> tuple[tuple[Hardware, int], ...]:
    """Read `kind=weight,...`.

    Raises:
        ValueError: One of the pairs is none.
    """
    return tuple(_weight(pair) for pair in text.split(","))


def _weight(pair: str) -> tuple[Hardware, int]:
    kind, _, weight = pair.partition("=")
    try:
        return Hardware(kind.strip()), int(weight or 1)
    except ValueError:
        kinds = ", ".join(Hardware)
        raise ValueError(f"{pair!r} is no KIND=WEIGHT with one of the kinds {kinds}") from None


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except FaultError as error:
        raise ValueError(f"{text!r}: {error}") from error


def _ports(text: str) -> range:
    """Read `first-last` as a range that has both."""
    first, _, last = text.partition("-")
    if not first.isdecimal() or not last.isdecimal():
        raise ValueError(f"{text!r} is no range of ports such as 20000-20099")
    if not 1 <= int(first) <= int(last) <= 65_535:
        raise ValueError(f"{text!r}: ports go from 1 to 65535, the first one first")
    return range(int(first), int(last) + 1)


def _keep_alive_s(text: str) -> float:
    """Read seconds or a duration such as `5m`, as OLLAMA_KEEP_ALIVE; below 0 means for ever."""
    try:
        return keep_alive_s(int(text) if WHOLE_NUMBER.fullmatch(text) else text) or 0.0
    except ValueError as error:
        raise ValueError(f"{error}; write seconds, 5m, or -1") from error


WHOLE_NUMBER = re.compile(r"-?\d+")
HARDWARE_HELP = "Weights of epyc-9654, xeon-8380, gpu (42, 31, 187 tokens/s) among the nodes."
TIME_SCALE_HELP = "Real seconds that a simulated second of generating takes."
MEANINGLESS_WHILE_HOSTING = (
    *("instances", "nodes", "ollama_share", "listen_port", "inventory", "fault"),
)
"""Options that say which instances there are from the start, where there are none."""
PORT = click.IntRange(0, 65_535)
HELP = """Run a fleet of simulated LLM servers on this machine, all in one process.

Each instance has a loopback address of its own, 127.1.0.1 and up, and all share one port.
They answer as the server kind of --mode does, generate text at their own speed, and have
believable counters that grow by themselves. With --mode ollama, or a share of --ollama-share, they
have the endpoints of a real Ollama under /api and /v1, and load, keep and unload models as requests
say (keep_alive). Until a request or a fault changes that, an instance's own model stays loaded.

\b
  ollama-fleet simulate --instances 10000 --inventory fleet.json
  ollama-fleet simulate --fault kill:count=20 --fault slow:node=node-003,factor=0.7

Faults are KIND:KEY=VALUE,... The keys say whom a fault befalls: ids=A+B, node=NAME, model=NAME
(together: all of these), and count=N or share=0.1 of what is left. Kinds and their own keys:

\b
  kill          connections are reset; healing starts a new process
  node_gone     every instance of a node is killed (node=NAME)
  hang          connections are accepted and never answered
  slow          speed times factor (0.7), durations divided by it
  errors        requests fail at ratio (0.05)
  oom_kill      as kill, for lack of memory
  oom_restart   counters at zero, loading for seconds (5)
  loading       503 until healed
  garbage       status 200 with a body that is no JSON
  malformed     bytes that are no HTTP
  close         connections are closed in the middle of an answer
  delay         every answer comes seconds (5) late
  no_metrics    health is fine, metrics are not: how=404 or how=broken
  shrink        the instances leave the inventory
  runner_hang   the model's process freezes, pages are answered; a new request waits seconds (20)
                for another process, a request under way hangs
  runner_kill   the model's process is killed: a stream ends with an error, the next request
                starts another process
  runner_oom    as runner_kill, and every load fails for lack of memory
  unload        a client unloads the models; the next request loads one
  no_model      the store is empty
  partly_cpu    ratio (0.5) of a GPU instance's model is not in the GPU's memory: it is slower
  busy          each request waits seconds (5) for its turn, as others come first
  restart       the server starts again once, as version=0.32.15 (0.4.7, 0.23.0); healing does
                not undo it

The control API takes the same as JSON, writes with the token of --control.token-file:

\b
  GET    /instances     the inventory (ETag, If-None-Match)
  GET    /faults        the active faults
  POST   /faults        {"kind": "kill", "count": 20}
  DELETE /faults        heal all;  DELETE /faults/ID heals one
  GET    /-/healthy

With --host-containers no instance lives until a provisioner orders it. Each node has an address,
127.1.0.1 and up, and each of its containers a port of the range. A container of a pool of engine
`fleet` or `ollama` is such a server, `ollama` with a GPU to itself; others are as --mode says. The
control API then has:

\b
  GET    /nodes/NODE/containers[?fleet=F]     state, exit status, out of memory
  PUT    /nodes/NODE/containers/NAME          {"fleet", "instance_id", "generation", "host",
                                              "port", "model", "engine"}; nothing where it runs
  DELETE /nodes/NODE/containers/NAME?fleet=F  nothing where there is none
  GET    /nodes/NODE/changes?fleet=F          a stream: the names of containers that end

kill, oom_kill: the container counts as exited until it is started again, which also ends its other
faults; node_gone: the node's containers are dead, and the control API answers 503 for it.
"""


@click.command(
    cls=GroupedCommand,
    help=HELP,
    context_settings={
        "auto_envvar_prefix": "OLLAMA_FLEET_SIMULATE",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
    epilog="Every option is also an environment variable: --time-scale is "
    "OLLAMA_FLEET_SIMULATE_TIME_SCALE, --control.token-file is "
    "OLLAMA_FLEET_SIMULATE_CONTROL_TOKEN_FILE; several faults are parted by spaces.",
)
@click.option("--instances", default=100, help="How many instances.")
@click.option("--nodes", type=int, help="How many nodes; without it, one for every 100.")
@click.option("--mode", type=Choice([*map(str, Mode)]), default="fleet", help="Server kind.")
@click.option(
    "--ollama-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of the instances that is stock Ollama, in a fleet of another mode.",
)
@click.option("--seed", default=1, help="Equal seeds give equal fleets.")
@click.option(
    "--hardware", type=Parsed("kind=weight,...", weights), default="epyc-9654=1", help=HARDWARE_HELP
)
@click.option("--listen-port", type=PORT, default=11450, help="Of all instances; 0: any.")
@click.option("--article-metrics", is_flag=True, help="Give the three required metrics only.")
@click.option("--request-histogram", is_flag=True, help="Give request durations too (large).")
@click.option("--time-scale", default=1.0, help=TIME_SCALE_HELP)
@click.option(
    "--installed-models", default=1, help="Models in the store of each instance, its own included."
)
@click.option(
    "--max-loaded-models",
    default=3,
    help="Models that each instance may have loaded; one more unloads an idle one.",
)
@click.option(
    "--keep-alive",
    type=Parsed("duration", _keep_alive_s),
    default="5m",
    help="How long a model stays loaded after a request that does not say; -1: for ever.",
)
@click.option("--inventory", type=FILE, help="Keep the inventory in this file.")
@click.option(
    "--inventory-engine",
    type=Choice([*map(str, InventoryEngine)]),
    default="mode",
    help="The engine that the inventory names: the mode's own, or auto.",
)
@click.option(
    "--fault",
    type=Parsed("kind:key=value,...", _fault),
    multiple=True,
    help="To begin with; repeatable.",
)
@click.option(
    "--host-containers",
    type=Parsed("first-last", _ports),
    help="Start without instances; a provisioner creates containers on these ports.",
)
@click.option(
    "--load-time",
    "load_time_s",
    type=Duration(0),
    default="2s",
    help="How long a hosted container is loading after its start.",
)
@click.option(
    "--control.listen-address",
    "control_listen_address",
    type=Address("127.0.0.1:11451"),
    default="127.0.0.1:11451",
    help="Of the control API; port 0: any.",
)
@click.option(
    "--control.token-file",
    "control_token_file",
    type=FILE,
    default=default_path,
    show_default="~/.local/state/ollama-fleet/simulate.token",
    help="Holds the token for writes; made where it is missing.",
)
@click.pass_context
def simulate(context: click.Context, /, **options: Any) -> None:
    """Run the command: read the options, run until a signal, stop."""
    logs.configure("warning")
    if options["host_containers"] is not None:
        refuse_given(context, MEANINGLESS_WHILE_HOSTING)
    try:
        settings = settings_of(**options)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except (SpecError, FaultError) as error:
        raise click.UsageError(str(error)) from error
    except (SimulationError, TokenFileError) as error:
        raise click.ClickException(str(error)) from error


def refuse_given(context: click.Context, names: Sequence[str]) -> None:
    """Refuse options that mean nothing for a fleet that begins empty."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name in names and source is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"{param.opts[0]} ({(source or ParameterSource.DEFAULT).name.lower()}) means "
                "nothing with --host-containers, which begins with no instance; leave it out"
            )


def settings_of(
    *,
    instances: int,
    nodes: int | None,
    mode: str,
    inventory_engine: str,
    listen_port: int,
    fault: tuple[Fault, ...],
    inventory: Path | None,
    control_listen_address: tuple[str, int],
    control_token_file: Path,
    keep_alive: float,
    host_containers: range | None,
    load_time_s: float,
    **others: Any,
) -> Settings:
    """Make the settings from the options; `others` are FleetSpec's fields of the same names.

    Raises:
        SpecError: There can be no such fleet.
    """
    spec = FleetSpec(
        n_instances=instances,
        n_nodes=nodes,
        mode=Mode(mode),
        inventory_engine=InventoryEngine(inventory_engine),
        keep_alive_s=keep_alive,
        **others,
    )
    host, port = control_listen_address
    return Settings(
        spec=spec,
        listen_port=listen_port,
        faults=fault,
        inventory_path=inventory,
        control_host=host,
        control_port=port,
        token_path=control_token_file,
        hosting=None if host_containers is None else Hosting(host_containers, load_time_s),
    )


async def run(settings: Settings) -> None:
    """Run a simulation until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running_simulation(settings) as simulation:
        # The fleet's many objects live as long as the process: never search them for garbage.
        gc.freeze()
        announce(simulation, settings)
        await stopped.wait()
    click.echo("stopped", err=True)


def announce(simulation: Simulation, settings: Settings) -> None:
    """Say on stderr what runs, and on stdout where, as one line of JSON."""
    for line in words(simulation, settings):
        click.echo(line, err=True)
    click.echo(
        json.dumps(
            {
                "instances": len(simulation.running.fleet.states),
                "listen_port": simulation.running.port,
                "control_url": simulation.control_url,
                "inventory": str(settings.inventory_path) if settings.inventory_path else None,
                "token_file": str(simulation.tokens.path),
            }
        )
    )


def words(simulation: Simulation, settings: Settings) -> Iterator[str]:
    """Return what a person wants to know at the start, a line each."""
    running, tokens = simulation.running, simulation.tokens
    n_instances = len(running.fleet.states)
    yield _whereabouts(running, settings)
    yield f"control API: {simulation.control_url}"
    yield f"token for writes: {tokens.path}{' (new)' if tokens.is_new else ''}"
    if n_instances > running.max_connections:
        yield (
            f"WARNING: the fleet does not fit: the limit of open files leaves room for "
            f"{running.max_connections:,} connections, fewer than the {n_instances:,} instances; "
            "connections beyond are reset. Raise the hard limit (ulimit -Hn), simulate fewer "
            "instances, or poll without keeping connections."
        )


def _whereabouts(running: RunningFleet, settings: Settings) -> str:
    if settings.hosting is not None:
        ports = settings.hosting.ports
        return f"hosting containers on {address_of(0)} and up, ports {ports[0]} to {ports[-1]}"
    spec = settings.spec
    first, last = address_of(0), address_of(spec.n_instances - 1)
    return (
        f"simulating {count_text(spec.n_instances, 'instance')} on "
        f"{count_text(spec.nodes, 'node')}: {first} to {last}, port {running.port}"
    )
