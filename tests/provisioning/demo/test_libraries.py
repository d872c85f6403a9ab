from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provisioning.demo import libraries
from provisioning.demo.errors import ProgramError


def test_a_library_of_the_system_is_not_fetched(tmp_path: Path) -> None:
    libraries.load_library("libc.so.6", package="libc6", programs_dir=tmp_path, say=print)

    assert [] == list(tmp_path.iterdir())


def test_a_missing_library_is_fetched_and_found_by_its_name_from_then_on(tmp_path: Path) -> None:
    """In a process of its own: what is loaded stays loaded."""
    script = f"""
import ctypes, pathlib
from provisioning.demo import libraries
folder = pathlib.Path({str(tmp_path)!r})
libraries.load_library("libyajl.so.2", package="libyajl2", programs_dir=folder, say=print)
ctypes.CDLL("libyajl.so.2")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert (0, "") == (done.returncode, done.stderr)


def test_a_library_that_cannot_be_had_names_the_package_to_install(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="sudo apt-get install no-such-package-here"):
        libraries.load_library(
            "libnothing.so.1", package="no-such-package-here", programs_dir=tmp_path, say=print
        )
