"""The command `ollama-fleet up`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from ollama_fleet.options import FOLDER, Duration
from provisioning.demo import app
from provisioning.demo.errors import DemoError
from provisioning.demo.plan import Settings
from provisioning.demo.ports import Wanted
from provisioning.errors import SpecError

Command = Callable[..., Any]
LONGEST_INTERVAL_S = 60
"""The alerts look five minutes back, in which they want several scrapes."""


def port_option(name: str, default: int) -> Callable[[Command], Command]:
    """Return the option for the port of a program."""
    return click.option(
        f"--{name}-port",
        type=click.IntRange(1, 65_535),
        default=default,
        help="If it is taken and the option is not given, the next free one.",
    )


@click.command(
    short_help="Run a whole fleet and its observers on this machine.",
    context_settings={
        "auto_envvar_prefix": "OLLAMA_FLEET_UP",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
    epilog="Every option is also an environment variable: --run-dir is OLLAMA_FLEET_UP_RUN_DIR.",
)
@click.option(
    "--spec",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default="the fleet of the next two options",
    help="Specification of the fleet, as for `ollama-fleet provisioner apply`.",
)
@click.option(
    "--simulated",
    "n_simulated",
    type=click.IntRange(1),
    default=1000,
    help="Number of simulated instances; a third of them are stock Ollama.",
)
@click.option(
    "--llama-servers",
    "n_llama_servers",
    type=click.IntRange(0, 50),
    default=2,
    help="Number of real LLM servers; each takes about 400 MB of memory.",
)
@click.option(
    "--keep-instances",
    "is_kept",
    is_flag=True,
    help="Leave instances that are processes running at the end; the next run in the same folder "
    "with this option takes them over. Containers always go on.",
)
@click.option(
    "--run-dir",
    type=FOLDER,
    show_default=".demo here, or a temporary folder",
    help="Folder for logs, configuration and data: a new or empty one, or that of an earlier run, "
    "whose files are replaced.",
)
@port_option("provisioner", 8_080)
@port_option("gateway", 11_430)
@port_option("exporter", 11_440)
@port_option("prometheus", 9_090)
@port_option("alertmanager", 9_093)
@click.option(
    "--poll.interval",
    "poll_interval_s",
    type=Duration(1, LONGEST_INTERVAL_S, is_whole=True),
    default="5s",
    help="Interval of polls, scrapes, and evaluations of the rules, 1s to 1m.",
)
@click.option(
    "--duration",
    "duration_s",
    type=Duration(0),
    show_default="until Ctrl-C",
    help="Stop this long after all is ready.",
)
@click.option(
    "--break",
    "has_break",
    is_flag=True,
    help="Once all is ready, take a node away until on-call is paged, and give it back. For the "
    "simulated fleet only.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, on one line.")
@click.pass_context
def up(
    context: click.Context,
    *,
    spec: Path | None,
    n_simulated: int,
    n_llama_servers: int,
    is_kept: bool,
    run_dir: Path | None,
    provisioner_port: int,
    gateway_port: int,
    exporter_port: int,
    prometheus_port: int,
    alertmanager_port: int,
    poll_interval_s: float,
    duration_s: float | None,
    has_break: bool,
    is_json: bool,
) -> None:
    """Run a whole fleet and its observers on this machine, until Ctrl-C.

    It starts a provisioner, the gateway, the exporter, a Prometheus with the alert rules, and an
    Alertmanager whose pages are printed. They listen on loopback only and end together, with the
    fleet's processes. The fleet is that of --spec, or simulated instances and a few real LLM
    servers, with users that ask for text.
    """
    if spec is not None:
        _refuse_given(context, "n_simulated", "n_llama_servers", "has_break")
    settings = Settings(
        spec=spec,
        n_simulated=n_simulated,
        n_llama_servers=n_llama_servers,
        is_kept=is_kept,
        run_dir=run_dir,
        provisioner=_wanted(context, "the provisioner", "provisioner_port", provisioner_port),
        gateway=_wanted(context, "the gateway", "gateway_port", gateway_port),
        exporter=_wanted(context, "the exporter", "exporter_port", exporter_port),
        prometheus=_wanted(context, "Prometheus", "prometheus_port", prometheus_port),
        alertmanager=_wanted(context, "Alertmanager", "alertmanager_port", alertmanager_port),
        poll_interval_s=int(poll_interval_s),
        duration_s=duration_s,
        has_break=has_break,
        is_json=is_json,
    )
    # Until the event loop takes signals over, cleaning up after a download needs an exception.
    signal.signal(signal.SIGTERM, _exit)
    try:
        app.run(settings)
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass  # the usual end of a run
    except (DemoError, SpecError) as error:
        raise click.ClickException(str(error)) from error
    app.say("stopped")


def _refuse_given(context: click.Context, *names: str) -> None:
    """Refuse options that describe the fleet too."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name in names and source is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"{param.opts[0]} has no effect with --spec, which describes the whole fleet; "
                "leave one of them out"
            )


def _wanted(context: click.Context, what: str, parameter: str, port: int) -> Wanted:
    is_explicit = context.get_parameter_source(parameter) is not ParameterSource.DEFAULT
    option = "--" + parameter.replace("_", "-")
    return Wanted(what, port, option=option, is_explicit=is_explicit)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
