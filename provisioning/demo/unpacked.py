"""Let a program of an unpacked package find its files, which it seeks under the root folder.

In:   the program, and the folder that it seeks (`/usr/share/…`) and where that was unpacked, or
      unpacked packages of the shared libraries that it needs.
Out:  a launcher to run in its place, from any folder and without any rights. It opens the unpacked
      folder and runs a copy of the program that seeks the open folder, by a name of equal length;
      or it runs the program with a search path for libraries.
A copy of a program that does not hold the folder's name is unchanged. Fails with OSError.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
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
    opened = shlex.quote(os.path.relpath(folder, program.parent))
    run = f'exec "$here"/{shlex.quote(copy.name)} "$@" {DESCRIPTOR}<"$here"/{opened}'
    return _write(program, run)


def write_library_launcher(program: Path, packages: Iterable[Path]) -> Path:
    """Write and return a launcher that lets the program find the packages' libraries."""
    folders = {
        library.parent for package in packages for library in package.glob("usr/lib/**/*.so*")
    }
    places = (shlex.quote(os.path.relpath(folder, program.parent)) for folder in sorted(folders))
    search = ":".join(f'"$here"/{place}' for place in places)
    run = (
        f"export LD_LIBRARY_PATH={search}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        f'exec "$here"/{shlex.quote(program.name)} "$@"'
    )
    return _write(program, run)


def _write(program: Path, run: str) -> Path:
    """Write the launcher whole; names in it are relative to its own folder, which may move."""
    draft = program.with_name(f"{program.name}-draft")
    draft.write_text(f"#!/bin/sh\nhere=${{0%/*}}\n{run}\n")
    draft.chmod(0o755)
    return draft.rename(launcher_of(program))
