from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from provisioning.demo import programs
from provisioning.demo.errors import ProgramError
from tests.conftest import program

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
    return lambda program: programs.locate(program, tmp_path / "programs", say=said.append)


def test_an_installed_program_is_taken_and_nothing_fetched(
    system: System, locate: Callable[[str], Path], said: list[str]
) -> None:
    installed = system.has("etcd")

    assert installed == locate("etcd")
    assert [] == said


def test_a_program_is_found_under_the_name_that_its_package_gives_it(
    system: System, locate: Callable[[str], Path]
) -> None:
    assert system.has("prometheus-alertmanager") == locate("alertmanager")


def test_system_folders_are_searched_beside_path(
    system: System, locate: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nginx = system.has("nginx")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "SYSTEM_DIRS", (str(system.path),))

    assert nginx == locate("nginx")


def test_a_missing_program_is_fetched_once_and_said(
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


def test_stale_lists_of_the_system_are_passed_by_with_private_ones(
    system: System, locate: Callable[[str], Path]
) -> None:
    system.has_apt("usr/bin/etcd", fails="with the system's lists")

    locate("etcd")

    assert ["etcd-server", "etcd-server"] == system.downloads
    *_, update, download = system.log.read_text().splitlines()
    assert update.endswith(" update")
    assert "--option=Dir::State=" in download


def test_an_older_package_that_holds_the_program_too_is_the_second_choice(
    system: System, locate: Callable[[str], Path], tmp_path: Path
) -> None:
    system.has_apt("usr/bin/promtool")
    (tmp_path / "programs/promtool").mkdir(parents=True)  # without the program

    assert tmp_path / "programs/prometheus/usr/bin/promtool" == locate("promtool")


def test_a_program_that_cannot_be_had_is_told_with_what_was_seen_and_what_to_install(
    system: System, locate: Callable[[str], Path]
) -> None:
    system.has_apt(fails="always")

    with pytest.raises(ProgramError) as caught:
        locate("etcd")

    assert "etcd is not on PATH and could not be fetched" in str(caught.value)
    assert "404 Not Found" in str(caught.value)
    assert str(caught.value).endswith("sudo apt-get install etcd-server")


def test_a_system_without_apt_is_told(locate: Callable[[str], Path]) -> None:
    with pytest.raises(ProgramError, match=r"this system has no apt-get.* install etcd-server$"):
        locate("etcd")


def test_a_package_that_was_unpacked_in_part_leaves_nothing(
    system: System, locate: Callable[[str], Path], tmp_path: Path
) -> None:
    system.has_apt("usr/bin/etcd", unpacking_fails=True)

    with pytest.raises(ProgramError, match="unexpected end of file"):
        locate("etcd")

    assert [".lock"] == [path.name for path in (tmp_path / "programs").iterdir()]


def test_a_program_that_reads_files_by_their_full_name_is_run_by_a_launcher(
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


def test_a_program_that_needs_libraries_is_run_by_a_launcher_once_they_are_fetched_too(
    system: System, locate: Callable[[str], Path], tmp_path: Path
) -> None:
    system.has_apt("usr/bin/crun", "usr/lib/x86_64-linux-gnu/libyajl.so.2")

    assert tmp_path / "programs/crun/usr/bin/crun-launcher" == locate("crun") == locate("crun")
    assert ["crun", "libyajl2"] == system.downloads


def test_a_launcher_that_cannot_be_written_is_told_with_the_variable_that_moves_it(
    system: System, locate: Callable[[str], Path], tmp_path: Path
) -> None:
    system.has_apt("usr/bin/prometheus-alertmanager", "usr/bin/amtool")
    (locate("amtool").parent / "prometheus-alertmanager-copy").mkdir()

    with pytest.raises(ProgramError, match=r"cannot write to .*OLLAMA_FLEET_PROGRAMS_DIR"):
        locate("alertmanager")


def test_an_unknown_program_is_told_with_the_known_ones(locate: Callable[[str], Path]) -> None:
    with pytest.raises(ProgramError, match=r"no package is known for emacs; known are .*etcd"):
        locate("emacs")


def test_a_folder_that_cannot_be_written_is_told_with_the_variable_that_moves_it(
    system: System, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ProgramError, match="OLLAMA_FLEET_PROGRAMS_DIR"):
        programs.locate("etcd", tmp_path / "file" / "programs", say=said.append)


def test_a_package_that_cannot_be_put_into_its_place_is_told_with_the_variable_that_moves_it(
    system: System, locate: Callable[[str], Path], tmp_path: Path
) -> None:
    system.has_apt("usr/bin/etcd")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/etcd-server").symlink_to("nowhere")  # a folder cannot replace it

    with pytest.raises(ProgramError, match=r"cannot write to .*OLLAMA_FLEET_PROGRAMS_DIR"):
        locate("etcd")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OLLAMA_FLEET_PROGRAMS_DIR": "/p", "XDG_CACHE_HOME": "/c"}, Path("/p")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/ollama-fleet/programs")),
        ({}, Path.home() / ".cache/ollama-fleet/programs"),
    ],
)
def test_the_folder_is_the_chosen_one_or_the_user_s_cache(
    environ: dict[str, str], expected: Path
) -> None:
    assert expected == programs.default_dir(environ)


def test_the_command_prints_where_a_program_is(system: System) -> None:
    etcd = system.has("etcd")

    assert f"{etcd}\n" == CliRunner().invoke(programs.main, ["etcd"]).stdout


def test_the_command_fails_with_a_sentence(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_FLEET_PROGRAMS_DIR", str(tmp_path / "programs"))

    result = CliRunner().invoke(programs.main, ["etcd"])

    assert 1 == result.exit_code
    assert "Error: etcd is not on PATH" in result.stderr


@pytest.mark.parametrize(
    ("ci", "expected"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_test_without_its_program_is_skipped_but_fails_in_continuous_integration(
    system: System,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ci: str,
    expected: type[BaseException],
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("OLLAMA_FLEET_PROGRAMS_DIR", str(tmp_path / "programs"))

    with pytest.raises(expected, match="sudo apt-get install etcd-server"):
        program("etcd")
