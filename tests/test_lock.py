"""The lock files: every package that is installed, in one version, by the hash of its files."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.conftest import ROOT

PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, tuple[str, str]]:
    """Return version, and what follows it, of each package of a lock file."""
    text = (ROOT / name).read_text()
    return {found[1]: (found[2], found[3]) for found in PIN.finditer(text)}


def named(*requirements: str) -> set[str]:
    return {re.split(r"[<>=\[; ]", one)[0].lower() for one in requirements}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", ["provisioner", "demo", "dev"]), ("requirements-demo.lock", ["demo"])],
)
def test_a_lock_has_all_that_its_part_needs_each_with_hashes(lock: str, extras: list[str]) -> None:
    extra = [one for name in extras for one in PROJECT["optional-dependencies"][name]]

    assert set() == named(*PROJECT["dependencies"], *extra, "hatchling", "editables") - set(
        pins(lock)
    )
    assert [] == [name for name, (_, rest) in pins(lock).items() if "--hash=sha256:" not in rest]


def test_the_demo_runs_with_the_versions_that_were_tested() -> None:
    tested = pins("requirements.lock")

    assert [] == [
        name
        for name, (version, _) in pins("requirements-demo.lock").items()
        if version != tested[name][0]
    ]
