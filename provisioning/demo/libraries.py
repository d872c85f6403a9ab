"""Load a shared library that a Python package needs and a bare system lacks.

In:   the library's soname, the distribution package that holds it, a folder for fetched packages.
Out:  the library is in this process, where what is imported later finds it by its soname.
Fails with ProgramError, which says what to install.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

from provisioning.demo import programs
from provisioning.demo.errors import ProgramError
from provisioning.demo.programs import Say


def load_library(soname: str, *, package: str, programs_dir: Path, say: Say) -> None:
    """Load the system's library, or fetch its package and load that.

    Raises:
        ProgramError: It is not installed and could not be fetched.
    """
    with contextlib.suppress(OSError):
        ctypes.CDLL(soname, mode=ctypes.RTLD_GLOBAL)
        return
    try:
        folder = programs.fetch_package(package, programs_dir, say=say)
        ctypes.CDLL(str(_inside(folder, soname)), mode=ctypes.RTLD_GLOBAL)
    except (ProgramError, OSError) as error:
        raise ProgramError(
            f"the library {soname} is not installed and could not be fetched: {error}. "
            f"Install it, on Debian or Ubuntu with: sudo apt-get install {package}"
        ) from error


def _inside(folder: Path, soname: str) -> Path:
    """Return the library's place in an unpacked package; it depends on the processor."""
    places = sorted(folder.glob(f"usr/lib/*/{soname}"))
    if not places:
        raise ProgramError(f"{folder.name} holds no {soname}")
    return places[0]
