"""The command `ollama-fleet completion`: a script that completes commands, options and names."""

from __future__ import annotations

from collections.abc import Mapping

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from ollama_fleet.options import Choice

PROGRAM = "ollama-fleet"
VARIABLE = "_OLLAMA_FLEET_COMPLETE"
"""Where click's scripts say that a shell asks."""
SHELLS: Mapping[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@click.command(short_help="Print what completes commands in a shell.")
@click.argument("shell", type=Choice([*SHELLS]))
def completion(shell: str) -> None:
    """Print a script for SHELL that completes commands, options, alerts, pools, nodes and ids.

    Names of the fleet come from the provisioner of --provisioner.url or its variable; where none
    answers within a second, there are none.

    \b
    Examples:
      source <(ollama-fleet completion bash)
      ollama-fleet completion bash > /etc/bash_completion.d/ollama-fleet
      ollama-fleet completion zsh > "${fpath[1]}/_ollama-fleet"
      ollama-fleet completion fish > ~/.config/fish/completions/ollama-fleet.fish
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    script = SHELLS[shell](completion, {}, PROGRAM, VARIABLE)
    click.echo(script.source_template % script.source_vars())
