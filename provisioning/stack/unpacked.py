"""Let a program of an unpacked package find its files, which it seeks under the root folder.

In:   the program, the folder that it seeks (`/usr/share/…`), and where that folder was unpacked.
Out:  a launcher to run in its place, from any folder and without any rights. It opens the unpacked
      folder and runs a copy of the program that seeks the open folder, by a name of equal length.
A copy of a program that does not hold the folder's name is unchanged. Fails with OSError.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DESCRIPTOR = 9
"""By which a launcher holds the folder open: one digit, for a plain shell knows no more."""
OPEN_FOLDER = f"/proc/self/fd/{DESCRIPTOR}"


def launcher_of(program: Path) -> Path:
    """Return where the launcher of a program is; it need not exist."""
    return program.with_name(f"{program.name}-launcher")


def write_launcher(program: Path, *, sought: str, folder: Path) -> Path:
    """Write and return the launcher; it appears when all that it needs is there.

    `sought` is at least as long as OPEN_FOLDER.
    """
    copy = program.with_name(f"{program.name}-copy")
    # Slashes at its end change nothing, and the program's other bytes stay where they were.
    replacement = OPEN_FOLDER.ljust(len(sought), "/")
    copy.write_bytes(program.read_bytes().replace(sought.encode(), replacement.encode()))
    copy.chmod(0o755)
    draft = program.with_name(f"{program.name}-draft")
    draft.write_text(_script(copy.name, os.path.relpath(folder, program.parent)))
    draft.chmod(0o755)
    return draft.rename(launcher_of(program))


def _script(copy: str, folder: str) -> str:
    """Return the launcher's text; both names are relative to its own folder, which may move."""
    return f"""\
#!/bin/sh
here=${{0%/*}}
exec "$here"/{shlex.quote(copy)} "$@" {DESCRIPTOR}<"$here"/{shlex.quote(folder)}
"""
