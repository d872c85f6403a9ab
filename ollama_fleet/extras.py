"""Say the line to type where a command needs packages that are not installed."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

NAME = "ollama-fleet"


def install_line(extra: str) -> str:
    """Return the line for a shell that adds an extra to this installation."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").is_file():
        # `pipx inject` takes us for injected already, or asks a registry for us.
        return f"pipx runpip {prefix.name} install '{NAME}[{extra}]'"
    if (receipt := prefix / "uv-receipt.toml").is_file():
        return f"uv tool install '{NAME}[{_with(extra, receipt)}]{_origin()}'"
    return f"{_pip(prefix)} install '{NAME}[{extra}]'"


def _pip(prefix: Path) -> str:
    """Return `pip`, unless a shell would find another environment's."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == prefix / "bin":
        return "pip"
    return f"{sys.executable} -m pip"


def _with(extra: str, receipt: Path) -> str:
    """Return an extra and those of before, which uv would remove."""
    installed = tomllib.loads(receipt.read_text())["tool"]["requirements"]
    before = (one.get("extras", ()) for one in installed if one["name"] == NAME)
    return ",".join(sorted({extra, *(name for names in before for name in names)}))


def _origin() -> str:
    """Return ` @ file:///…` where this was not installed from a registry."""
    try:
        direct = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    return f" @ {json.loads(direct)['url']}" if direct else ""
