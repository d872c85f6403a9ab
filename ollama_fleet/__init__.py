"""Start the parts of ollama-fleet from one command.

A part is imported only when its command runs, so `ollama-fleet --help` stays quick and a machine
needs only the extras of the parts that it uses.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version

import click

COMMANDS = {
    "alerts": ("alerts.cli:alerts", "Build, explain and check the alert rules."),
    "dashboards": ("dashboards.cli:dashboards", "Build Grafana dashboards and push them."),
    "exporter": ("exporter.cli:exporter", "Poll a fleet and publish it to Prometheus."),
    "instances": (
        "provisioning.cli.instances:instances",
        "See and change the instances of a fleet.",
    ),
    "provisioner": (
        "provisioning.cli.provisioner:provisioner",
        "Create, watch, rotate and replace instances.",
    ),
    "simulate": ("provisioning.simulator.cli:simulate", "Run a fleet of simulated LLM servers."),
    "up": ("provisioning.demo.cli:up", "Run a whole fleet and its observers on this machine."),
}
"""By name: what to import, and what `--help` says without importing it."""


class LazyGroup(click.Group):
    """A command group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all command names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None where there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        origin, _ = COMMANDS[cmd_name]
        module, _, attribute = origin.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ollama-fleet"), prog_name="ollama-fleet")
def main() -> None:
    """Watch and run fleets of local LLM servers (Ollama, llama-server and others)."""
