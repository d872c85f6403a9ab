"""The command `ollama-fleet up`: a whole fleet and its observers on this machine, to look at.

How the fleet is goes to stdout, words about the progress to stderr. Exit status: 0 stopped by
Ctrl-C, SIGTERM or after --duration; 1 something cannot start or has died; 2 wrong options.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from click.core import ParameterSource

from provisioning.demo import app
from provisioning.demo.errors import DemoError
from provisioning.demo.plan import Settings
from provisioning.demo.ports import Wanted
from provisioning.errors import SpecError

PORT = click.IntRange(1, 65_535)
LONGEST_INTERVAL_S = 60
"""The alerts look five minutes back, in which they want several scrapes."""


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
    show_default="a fleet of the next two",
    help="What the fleet is to be, as for `ollama-fleet provisioner apply`.",
)
@click.option(
    "--simulated",
    "n_simulated",
    type=click.IntRange(1),
    default=1000,
    help="Instances to simulate.",
)
@click.option(
    "--llama-servers",
    "n_llama_servers",
    type=click.IntRange(0, 50),
    default=2,
    help="Real LLM servers, of about 400 MB of memory each.",
)
@click.option(
    "--keep-instances",
    "is_kept",
    is_flag=True,
    help="Leave instances that are processes running at the end; the next run in the same folder, "
    "with this option too, goes on with them. Containers always go on.",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    show_default=".demo here, or a temporary folder",
    help="For logs, configuration and what the programs keep: a new or empty folder, or one of an "
    "earlier run, whose files are replaced.",
)
@click.option("--provisioner-port", type=PORT, default=8_080, help="Another one where it is taken.")
@click.option("--exporter-port", type=PORT, default=11_440, help="Another one where it is taken.")
@click.option("--prometheus-port", type=PORT, default=9_090, help="Another one where it is taken.")
@click.option(
    "--alertmanager-port", type=PORT, default=9_093, help="Another one where it is taken."
)
@click.option(
    "--poll-interval",
    "poll_interval_s",
    type=click.IntRange(1, LONGEST_INTERVAL_S),
    metavar="SECONDS",
    default=5,
    help="Between two polls of an instance, two scrapes, and two evaluations of alerts.",
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(0),
    metavar="SECONDS",
    show_default="until Ctrl-C",
    help="Stop by itself so long after all is ready.",
)
@click.option("--json", "is_json", is_flag=True, help="Say how the fleet is as one line of JSON.")
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
    exporter_port: int,
    prometheus_port: int,
    alertmanager_port: int,
    poll_interval_s: int,
    duration_s: float | None,
    is_json: bool,
) -> None:
    """Run a whole fleet and its observers on this machine, until Ctrl-C.

    A provisioner that makes and replaces the instances, the exporter that polls them all, a
    Prometheus that scrapes it and holds the alert rules, and an Alertmanager that notifies nobody.
    All of them listen on loopback only and end together, and processes of the fleet with them.
    The fleet is that of --spec, or simulated instances and a few real LLM servers.
    """
    if spec is not None:
        _refuse_given(context, "n_simulated", "n_llama_servers")
    settings = Settings(
        spec=spec,
        n_simulated=n_simulated,
        n_llama_servers=n_llama_servers,
        is_kept=is_kept,
        run_dir=run_dir,
        provisioner=_wanted(context, "the provisioner", "provisioner_port", provisioner_port),
        exporter=_wanted(context, "the exporter", "exporter_port", exporter_port),
        prometheus=_wanted(context, "Prometheus", "prometheus_port", prometheus_port),
        alertmanager=_wanted(context, "Alertmanager", "alertmanager_port", alertmanager_port),
        poll_interval_s=poll_interval_s,
        duration_s=duration_s,
        is_json=is_json,
    )
    # Until the event loop takes signals over, cleaning up after a download needs an exception.
    signal.signal(signal.SIGTERM, _exit)
    try:
        app.run(settings)
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass  # asked to stop, which is how a run usually ends
    except (DemoError, SpecError) as error:
        raise click.ClickException(str(error)) from error
    app.say("stopped")


def _refuse_given(context: click.Context, *names: str) -> None:
    """Refuse options that describe the fleet beside a specification."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name in names and source is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"{param.opts[0]} means nothing with --spec, which says what the fleet is to be; "
                "leave one of them out"
            )


def _wanted(context: click.Context, what: str, parameter: str, port: int) -> Wanted:
    is_explicit = context.get_parameter_source(parameter) is not ParameterSource.DEFAULT
    option = "--" + parameter.replace("_", "-")
    return Wanted(what, port, option=option, is_explicit=is_explicit)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
