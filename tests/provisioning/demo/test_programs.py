from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from provisioning.demo import programs
from provisioning.demo.errors import ProgramError
from provisioning.demo.programs import Package

APT_GET = """\
import pathlib, sys
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
if {fails!r} in ("always", "with the system's lists" if "Dir::State" not in str(sys.argv) else ""):
    sys.exit("E: Failed to fetch the archive  404  Not Found")
if "download" in sys.argv:
    pathlib.Path(sys.argv[-1] + "_1.0_amd64.deb").touch()
"""
DPKG_DEB = """\
import pathlib, sys
_, extract, archive, folder = sys.argv
for path in {paths!r}:
    program = pathlib.Path(folder, path)
    program.parent.mkdir(parents=True, exist_ok=True)
    program.touch(mode=0o755)
if {fails!r}:
    sys.exit("dpkg-deb: error: unexpected end of file")
"""


KNOWN = {
    **programs.PACKAGES,
    "etcd": (Package("etcd-server", "usr/bin/etcd"),),
    "amtool": (Package("prometheus-alertmanager", "usr/bin/amtool"),),
}


class System:
    """A system whose PATH holds what a test puts there, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bin"
        self.path.mkdir()
        self.log = folder / "apt-get.log"

    def has(self, program: str, code: str = "") -> Path:
        path = self.path / program
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
        return path

    def has_apt(self, *paths: str, fails: str = "never", unpacking_fails: bool = False) -> None:
        self.has("apt-get", APT_GET.format(log=str(self.log), fails=fails))
        self.has("dpkg-deb", DPKG_DEB.format(paths=paths, fails=unpacking_fails))

    @property
    def downloads(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line.split()[-1] for line in lines if " download " in line]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    system = System(tmp_path)
    monkeypatch.setenv("PATH", str(system.path))
    monkeypatch.setattr(programs, "SYSTEM_DIRS", ())
    return system


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def locate(system: System, tmp_path: Path, said: list[str]) -> Callable[[str], Path]:
    return lambda program: programs.locate(
        program, tmp_path / "programs", say=said.append, known=KNOWN
    )


def test_an_installed_program_is_taken_and_nothing_fetched(
    system: System, locate: Callable[[str], Path], said: list[str]
) -> None:
    installed = system.has("etcd")

    assert installed == locate("etcd")
    assert [] == said


def test_a_missing_program_is_fetched_once_and_announced(
    system: System, locate: Callable[[str], Path], said: list[str], tmp_path: Path
) -> None:
    system.has_apt("usr/bin/etcd")

    first, second = locate("etcd"), locate("etcd")

    assert tmp_path / "programs/etcd-server/usr/bin/etcd" == first == second
    assert ["etcd-server"] == system.downloads
    assert [f"fetching etcd (package etcd-server) into {tmp_path / 'programs'}"] == said


def test_concurrent_callers_fetch_once(
    system: System, locate: Callable[[str], Path], said: list[str]
) -> None:
    system.has_apt("usr/bin/etcd")

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(locate, ["etcd"] * 4))

    assert 1 == len(paths) == len(said)
    assert ["etcd-server"] == system.downloads


def test_stale_package_lists_are_replaced_by_private_ones(
    system: System, locate: Callable[[str], Path]
) -> None:
    system.has_apt("usr/bin/etcd", fails="with the system's lists")

    locate("etcd")

    assert ["etcd-server", "etcd-server"] == system.downloads
    *_, update, download = system.log.read_text().splitlines()
    assert update.endswith(" update")
    assert "--option=Dir::State=" in download


def test_a_missing_program_is_reported_with_the_package_to_install(
    system: System, locate: Callable[[str], Path]
) -> None:
    system.has_apt(fails="always")

    with pytest.raises(ProgramError) as caught:
        locate("etcd")

    assert "etcd is not on PATH and cannot be fetched" in str(caught.value)
    assert "404 Not Found" in str(caught.value)
    assert str(caught.value).endswith("sudo apt-get install etcd-server")


def test_a_package_that_was_unpacked_in_part_leaves_nothing(
    system: System, locate: Callable[[str], Path], tmp_path: Path
) -> None:
    system.has_apt("usr/bin/etcd", unpacking_fails=True)

    with pytest.raises(ProgramError, match="unexpected end of file"):
        locate("etcd")

    assert [".lock"] == [path.name for path in (tmp_path / "programs").iterdir()]


def test_a_program_with_absolute_paths_runs_through_a_launcher(
    system: System, locate: Callable[[str], Path], said: list[str], tmp_path: Path
) -> None:
    """The package may have been fetched for another program, which needs none."""
    system.has_apt("usr/bin/prometheus-alertmanager", "usr/bin/amtool")
    binaries = tmp_path / "programs/prometheus-alertmanager/usr/bin"

    assert binaries / "amtool" == locate("amtool")
    assert binaries / "prometheus-alertmanager-launcher" == locate("alertmanager")
    assert binaries / "prometheus-alertmanager-launcher" == locate("alertmanager")
    assert ["prometheus-alertmanager"] == system.downloads
    assert 1 == len(said)


def test_a_folder_that_cannot_be_written_is_reported_with_the_variable_that_moves_it(
    system: System, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ProgramError, match="OLLAMA_FLEET_PROGRAMS_DIR"):
        programs.locate("prometheus", tmp_path / "file" / "programs", say=said.append)


SOUGHT = "/usr/share/of-no-such-program"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked package with a program that prints a file that it seeks under the root."""
    folder = tmp_path / "it's a package"
    program, text = folder / "usr/bin/a program", folder / SOUGHT[1:] / "text"
    for path, content in {program: f'#!/bin/sh\ncat {SOUGHT}/text "$@"\n', text: "found\n"}.items():
        path.parent.mkdir(parents=True)
        path.write_text(content)
    program.chmod(0o755)
    return folder


def _launcher(package: Path) -> Path:
    return programs.write_launcher(
        package / "usr/bin/a program", sought=SOUGHT, folder=package / SOUGHT[1:]
    )


def _said(launcher: Path | str, *arguments: str, cwd: Path) -> str:
    command = [str(launcher), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout


def test_an_unpacked_program_finds_its_files_from_any_folder(package: Path, tmp_path: Path) -> None:
    (tmp_path / "an argument").write_text("passed on\n")

    launcher = _launcher(package)
    moved = package.rename(tmp_path / "elsewhere") / launcher.relative_to(package)

    assert programs.launcher_of(package / "usr/bin/a program") == launcher
    assert "found\npassed on\n" == _said(moved, "an argument", cwd=tmp_path)
    assert "found\n" == _said("./a program-launcher", cwd=moved.parent)
    assert "found\n" == _said(os.path.relpath(moved, tmp_path), cwd=tmp_path)


def test_the_package_s_own_program_stays_as_it_was_and_no_byte_of_the_copy_moves(
    package: Path,
) -> None:
    program = package / "usr/bin/a program"
    before = program.read_bytes()

    _launcher(package)

    assert before == program.read_bytes()
    assert len(before) == len(program.with_name("a program-copy").read_bytes())
    assert {"a program", "a program-copy", "a program-launcher"} == {
        path.name for path in program.parent.iterdir()
    }
