"""Start the parts of ollama-fleet from one command.

A part is imported only when its command runs, so `ollama-fleet --help` stays quick and a machine
needs only the extras of the parts that it uses.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version

import click

COMMANDS = {
    "exporter": "exporter.cli:exporter",
    "simulate": "provisioning.sim.cli:simulate",
    "up": "provisioning.stack.cli:up",
}


class LazyGroup(click.Group):
    """A command group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all command names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None where there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ollama-fleet"), prog_name="ollama-fleet")
def main() -> None:
    """Watch and run fleets of local LLM servers (Ollama, llama-server and others)."""


if __name__ == "__main__":
    main(prog_name="ollama-fleet")
