"""Stamp the revision into wheels and sdists."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "ollama_fleet"


class RevisionHook(BuildHookInterface[Any]):
    """Add a file that says from which commit a distribution is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the stamp, by that of the sdist where one is built."""
        module = runpy.run_path(str(Path(self.root, PACKAGE, "version.py")))
        if version == "editable":  # which asks git when it runs
            return
        self._folder = tempfile.TemporaryDirectory()
        stamp = Path(self._folder.name) / module["STAMP"].name
        stamp.write_text(f"{module['revision']()}\n")
        build_data["force_include"][str(stamp)] = f"{PACKAGE}/{stamp.name}"
