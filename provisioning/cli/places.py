"""Where the provisioner and its commands keep things unless told otherwise.

In:   XDG_STATE_HOME or the home folder. Out: paths; nothing is made.
"""

from __future__ import annotations

import os
from pathlib import Path

STATE = "~/.local/state/ollama-fleet"
"""The folder as the help and the README show it."""


def state_dir() -> Path:
    """Return the folder: the user's state folder holds it."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ollama-fleet"


def token_file() -> Path:
    """Return the file of the tokens for changes."""
    return state_dir() / "provisioner.token"
