"""Each way to install, with the packages of the index: pip, pipx and uv, the oldest packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_fleet.version import VERSION, revision
from tests import distributions
from tests.conftest import ROOT
from tests.distributions import Distributions

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

TOOLS = Path(sys.executable).parent
VENV = f"{sys.executable} -m venv {{home}} && pip install"
WAYS = {
    "pip install WHEEL": f"{VENV} {{wheel}}",
    "pip install SDIST": f"{VENV} {{sdist}}",
    "pipx install CHECKOUT": "pipx install {checkout}",
    "pipx install WHEEL": "pipx install {wheel}",
    "uv tool install CHECKOUT": "uv tool install {checkout}",
    "uv tool install WHEEL": "uv tool install {wheel}",
}
ONE_EXTRA = "dashboards"
"""Installed first; the line that adds another one keeps it."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return Distributions.of_checkout(tmp_path_factory.mktemp("built"))


class Shell:
    """A shell of somebody who installs into a home of their own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.foreign = distributions.foreign_packages(folder / "foreign")
        self.environ = {
            **{name: text for name, text in os.environ.items() if name != "VIRTUAL_ENV"},
            "PATH": os.pathsep.join((f"{self.home}/bin", str(TOOLS), os.environ["PATH"])),
            "PIPX_HOME": f"{self.home}/pipx",
            "PIPX_BIN_DIR": f"{self.home}/bin",
            "UV_TOOL_DIR": f"{self.home}/uv",
            "UV_TOOL_BIN_DIR": f"{self.home}/bin",
        }

    def install(self, line: str, built: Distributions, extra: str) -> None:
        named = {"wheel": built.wheel, "sdist": built.sdist, "checkout": ROOT}
        places = {name: f"'{place}[{extra}]'" for name, place in named.items()}
        done = self.run(line.format(home=self.home, **places))
        assert 0 == done.returncode, done.stderr

    def run(self, line: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a line where packages of others have the names of our parts."""
        return subprocess.run(
            ("/bin/sh", "-c", line),
            cwd=self.foreign,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=1000,
            check=False,
        )

    def run_ours(self, words: str) -> subprocess.CompletedProcess[str]:
        return self.run(f"{self.home}/bin/ollama-fleet {words}", PYTHONPATH=str(self.foreign))


@pytest.mark.parametrize("line", WAYS.values(), ids=WAYS)
def test_each_way_to_install_gives_commands_and_the_line_that_adds_an_extra(
    built: Distributions, tmp_path: Path, line: str
) -> None:
    shell = Shell(tmp_path)
    shell.install(line, built, ONE_EXTRA)

    assert f"ollama-fleet {VERSION} (revision {revision()})\n" == shell.run_ours("--version").stdout
    refused = shell.run_ours("alerts explain Watchdog")
    assert 2 == refused.returncode

    added = shell.run(refused.stderr.strip().rpartition("install it with: ")[2])

    assert 0 == added.returncode, added.stderr
    for words in ("alerts explain Watchdog", "dashboards build --output-dir=../boards"):
        done = shell.run_ours(words)
        assert 0 == done.returncode, done.stderr


def test_a_package_of_the_index_with_the_name_of_a_part_harms_nothing(
    built: Distributions, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    shell.install(WAYS["pip install WHEEL"], built, "alerts,dashboards")

    assert 0 == shell.run("pip install exporter==0.0.4").returncode

    for words in ("alerts explain Watchdog", "dashboards --help", "exporter --help"):
        assert 0 == shell.run_ours(words).returncode
    assert 0 == shell.run("pip uninstall --yes exporter").returncode
    assert 0 == shell.run_ours("exporter --help").returncode


def test_a_wheel_runs_the_demo_with_all_the_processes_that_it_starts(
    built: Distributions, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    shell.install(WAYS["pip install WHEEL"], built, "demo")

    done = shell.run_ours(
        "up --simulated=20 --llama-servers=1 --duration=1s --json --run-dir=../run"
    )

    assert 0 == done.returncode, done.stderr
    assert '"healthy": 21' in done.stdout


def test_the_quick_tests_pass_with_the_oldest_packages_that_pyproject_allows(
    tmp_path: Path,
) -> None:
    """Of the product; tools of the tests are the newest."""
    named = ("alerts", "dashboards", "dns", "gateway", "load", "provisioner", "warehouse")
    extras = " ".join(f"--extra {name}" for name in named)
    python = tmp_path / "venv" / "bin" / "python"
    oldest = f"uv pip compile pyproject.toml --quiet --resolution lowest-direct {extras}"
    script = f"""
set -e
{oldest} --python-version 3.11 --output-file {tmp_path}/oldest.txt
uv venv --quiet --python {sys.executable} {tmp_path}/venv
uv pip install --quiet --python {python} --override {tmp_path}/oldest.txt --editable '.[dev]'
{python} -m pytest -q -n 3 --dist loadfile -p no:cacheprovider -m 'not slow and not nightly'
"""
    environ = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}

    done = subprocess.run(
        ("/bin/sh", "-c", script),
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
