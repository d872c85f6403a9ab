"""Say the line to type where a command needs packages that are not installed."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def install_line(extra: str) -> str:
    """Return the line for a shell that adds an extra to this installation."""
    prefix, wanted = Path(sys.prefix), f"ollama-fleet[{extra}]"
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx inject ollama-fleet '{wanted}'"
    if (prefix / "uv-receipt.toml").is_file():  # each such command replaces the environment
        return f"uv tool install '{wanted}{_origin()}'"
    return f"{_pip(prefix)} install '{wanted}'"


def _pip(prefix: Path) -> str:
    """Return `pip`, unless a shell would find another environment's."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == prefix / "bin":
        return "pip"
    return f"{sys.executable} -m pip"


def _origin() -> str:
    """Return ` @ file:///…` where this was not installed from a registry."""
    try:
        direct = distribution("ollama-fleet").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    return f" @ {json.loads(direct)['url']}" if direct else ""
