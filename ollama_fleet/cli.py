"""Start the parts of ollama-fleet from one command.

A part is imported only when its command runs, so `ollama-fleet --help` stays quick and a machine
needs only the extras of the parts that it uses.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from ollama_fleet.extras import install_line
from ollama_fleet.version import version_text


class Part(NamedTuple):
    """A command, known without importing it."""

    origin: str
    """What to import."""
    summary: str
    """What `--help` says of it."""
    extra: str = ""
    """What installs the packages that it needs beyond those of the exporter."""


COMMANDS = {
    "alerts": Part("alerts.cli:alerts", "Build, explain and check the alert rules.", "alerts"),
    "capacity": Part(
        "provisioning.capacity.cli:capacity", "Plan the capacity and the costs of a fleet."
    ),
    "completion": Part(
        "ollama_fleet.completion:completion", "Print what completes commands in a shell."
    ),
    "dashboards": Part(
        "dashboards.cli:dashboards", "Build Grafana dashboards and push them.", "dashboards"
    ),
    "exporter": Part("exporter.cli:exporter", "Poll a fleet and publish it to Prometheus."),
    "gateway": Part(
        "provisioning.gateway.cli:gateway", "Route requests to the instances.", "gateway"
    ),
    "instances": Part(
        "provisioning.cli.instances:instances",
        "See and change the instances of a fleet.",
        "provisioner",
    ),
    "load": Part(
        "provisioning.load.cli:load", "Put load on a fleet and judge it by a service level.", "load"
    ),
    "provisioner": Part(
        "provisioning.cli.provisioner:provisioner",
        "Create, watch, rotate and replace instances.",
        "provisioner",
    ),
    "simulate": Part(
        "provisioning.simulator.cli:simulate", "Run a fleet of simulated LLM servers."
    ),
    "slo": Part("alerts.slo_cli:slo", "Report the service level of a fleet.", "alerts"),
    "warehouse": Part(
        "exporter.warehouse.cli:warehouse",
        "Export hourly roll-ups as Parquet, and find trends and causes in them.",
        "warehouse",
    ),
    "up": Part(
        "provisioning.demo.cli:up", "Run a whole fleet and its observers on this machine.", "demo"
    ),
}
HIDDEN = {"llama-server": Part("provisioning.demo.llama:main", "Serve one model.", "demo")}
"""What `up` starts, and no person."""


class MissingExtraError(click.ClickException):
    """A command needs packages that are not installed."""

    exit_code = 2

    def __init__(self, command: str, module: str, extra: str) -> None:
        super().__init__(
            f"ollama-fleet {command} needs the Python module {module}, which is not installed; "
            f"install it with: {install_line(extra)}"
        )


def _show_version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        click.echo(f"ollama-fleet {version_text()}")
        context.exit()


VERSION_OPTION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_show_version,
    help="Show version and revision, and exit.",
)


class LazyGroup(click.Group):
    """A command group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all command names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None where there is no such command.

        Raises:
            MissingExtraError: It needs packages that are not installed.
        """
        part = COMMANDS.get(cmd_name) or HIDDEN.get(cmd_name)
        if part is None:
            return None
        try:
            command = _imported(cmd_name, part)
        except MissingExtraError:
            if ctx.resilient_parsing:  # a shell completes: it shows nothing but suggestions
                return None
            raise
        if VERSION_OPTION not in command.params:
            command.params.append(VERSION_OPTION)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that a line begins with.

        Raises:
            click.NoSuchCommand: There is none; the message says which one was probably meant.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete the commands without importing any."""
        found = [
            CompletionItem(name, help=part.summary)
            for name, part in sorted(COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, part.summary) for name, part in sorted(COMMANDS.items())])


def _imported(name: str, part: Part) -> click.Command:
    module, _, attribute = part.origin.partition(":")
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not part.extra:
            raise
        raise MissingExtraError(name, str(error.name), part.extra) from error
    return command


@click.group(
    cls=LazyGroup,
    params=[VERSION_OPTION],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def main() -> None:
    """Watch and run fleets of local LLM servers (Ollama, llama-server and others)."""
