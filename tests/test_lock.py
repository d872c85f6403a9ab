"""The lock files: every package that is installed, in one version, by the hash of its files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN_EXTRAS = re.compile(r"ollama-fleet\[(.+)\]")


def pins(name: str) -> dict[str, tuple[str, str]]:
    """Return version, and what follows it, of each package of a lock file."""
    text = (ROOT / name).read_text()
    return {found[1]: (found[2], found[3]) for found in PIN.finditer(text)}


def named(*requirements: str) -> set[str]:
    return {re.split(r"[<>=\[; ]", one)[0].lower() for one in requirements}


def of_extra(name: str) -> Iterator[str]:
    """Yield what an extra requires, also by the extras that it names."""
    for requirement in PROJECT["optional-dependencies"][name]:
        if own := OWN_EXTRAS.fullmatch(requirement):
            for inner in own[1].split(","):
                yield from of_extra(inner)
        else:
            yield requirement


@pytest.mark.parametrize(
    ("lock", "extra"), [("requirements.lock", "dev"), ("requirements-demo.lock", "all")]
)
def test_a_lock_has_all_that_its_part_needs_each_with_hashes(lock: str, extra: str) -> None:
    needed = named(*PROJECT["dependencies"], *of_extra(extra), "hatchling", "editables")

    assert set() == needed - set(pins(lock))
    assert [] == [name for name, (_, rest) in pins(lock).items() if "--hash=sha256:" not in rest]


def test_the_demo_runs_with_the_versions_that_were_tested() -> None:
    tested = pins("requirements.lock")

    assert [] == [
        name
        for name, (version, _) in pins("requirements-demo.lock").items()
        if version != tested[name][0]
    ]
