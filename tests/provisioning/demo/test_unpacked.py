from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from provisioning.demo import programs, unpacked

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
    return unpacked.write_launcher(
        package / "usr/bin/a program", sought=SOUGHT, folder=package / SOUGHT[1:]
    )


def _said(launcher: Path | str, *arguments: str, cwd: Path) -> str:
    command = [str(launcher), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout


def test_an_unpacked_program_finds_its_files_from_any_folder(package: Path, tmp_path: Path) -> None:
    (tmp_path / "an argument").write_text("passed on\n")

    launcher = _launcher(package)

    assert unpacked.launcher_of(package / "usr/bin/a program") == launcher
    assert "found\npassed on\n" == _said(launcher, "an argument", cwd=tmp_path)
    assert "found\n" == _said("./a program-launcher", cwd=launcher.parent)
    assert "found\n" == _said(os.path.relpath(launcher, tmp_path), cwd=tmp_path)


def test_a_launcher_goes_on_working_where_its_package_is_moved(
    package: Path, tmp_path: Path
) -> None:
    launcher = _launcher(package)

    moved = package.rename(tmp_path / "elsewhere")

    assert "found\n" == _said(moved / launcher.relative_to(package), cwd=tmp_path)


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


def test_every_folder_that_a_program_of_ours_seeks_is_named_at_enough_length() -> None:
    sought = [
        f"/{package.data}"
        for packages in programs.PACKAGES.values()
        for package in packages
        if package.data
    ]

    assert sought
    assert all(len(unpacked.OPEN_FOLDER) <= len(name) for name in sought)


def test_a_program_finds_the_libraries_of_other_packages_and_those_it_was_given(
    tmp_path: Path,
) -> None:
    program, packages = tmp_path / "it's/usr/bin/prints", [tmp_path / "lib a", tmp_path / "libb"]
    for path in (program, *(package / "usr/lib/x/lib.so.2" for package in packages)):
        path.parent.mkdir(parents=True)
        path.write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH" "$@"\n')
    program.chmod(0o755)

    launcher = unpacked.write_library_launcher(program, packages)

    folders = [f"{program.parent}/../../../{name}/usr/lib/x" for name in ("lib a", "libb")]
    run = subprocess.run(
        [launcher, "an argument"],
        env={"LD_LIBRARY_PATH": "/given"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{':'.join(folders)}:/given an argument\n" == run.stdout
