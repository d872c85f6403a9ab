"""Hold what several parts share, and let a process find the parts before others' packages."""

from __future__ import annotations

import sys
from pathlib import Path

INSTALLED_PARTS = Path(__file__).parent / "_parts"
"""Where a wheel has `exporter`, `alerts` and the others: their names are not ours alone."""
PARTS_FOLDER = INSTALLED_PARTS if INSTALLED_PARTS.is_dir() else INSTALLED_PARTS.parent.parent
"""Else the checkout, whose folders they are."""

if sys.path[:1] != [str(PARTS_FOLDER)]:
    sys.path.insert(0, str(PARTS_FOLDER))


def main() -> None:
    """Run the command, whose imports other users of this package do without."""
    from ollama_fleet.cli import main as command
    from ollama_fleet.signals import hold_hangup

    if sys.argv[1:2] == ["exporter"] or sys.argv[1:3] == ["provisioner", "run"]:
        hold_hangup()  # before the imports of these servers, which take a while
    command(prog_name="ollama-fleet")
