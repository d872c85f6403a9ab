"""How our own commands are run as processes: by this Python, with options from nowhere else.

In:   the words of a command such as `exporter --help`; this process's environment.
Out:  the whole command; an environment for it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from provisioning.demo import programs

# With -P, folders of the present directory never pass for our packages.
PYTHON_MODULE = (sys.executable, "-P", "-m")
OUR_VARIABLES = "OLLAMA_FLEET_"


def our_command(*words: str) -> tuple[str, ...]:
    """Return the command that runs `ollama-fleet` with these words."""
    return (*PYTHON_MODULE, "ollama_fleet", *words)


def our_program() -> str:
    """Return the name by which a shell finds `ollama-fleet`, or else its path."""
    name = "ollama-fleet"
    return name if shutil.which(name) else str(Path(sys.executable).with_name(name))


def our_environ(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without options for our commands: their words alone decide those."""
    return {
        name: value
        for name, value in inherited.items()
        if not name.startswith(OUR_VARIABLES) or name == programs.DIR_VARIABLE
    }
