"""Say which version and revision of ollama-fleet this is."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

VERSION = "0.1.0"
UNKNOWN = "unknown"
STAMP = Path(__file__).with_name("REVISION")
"""Written when a wheel or sdist is built, where no git is needed any more."""
DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def version_text() -> str:
    """Return version and revision: `0.1.0 (revision 66d890a1b2c3)`."""
    return f"{VERSION} (revision {revision()})"


@cache
def revision() -> str:
    """Return the commit of the build or of the checkout, with `-dirty` where files differ."""
    if STAMP.is_file():
        return STAMP.read_text().strip()
    return _of_checkout(STAMP.parent.parent)


def _of_checkout(folder: Path) -> str:
    if not (folder / ".git").exists():  # or git would describe a repository around it
        return UNKNOWN
    command = ("git", "--no-optional-locks", "-C", str(folder), *DESCRIBE)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return done.stdout.strip()
