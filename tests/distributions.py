"""Our wheel and sdist, and environments to run them in, made without a package index."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.conftest import ROOT

FOREIGN = ("alerts", "dashboards", "exporter", "provisioning")
"""Names of our parts that others use as well."""


def build(source: Path, kind: str, folder: Path) -> Path:
    """Return the `wheel` or `sdist` that a checkout or an unpacked sdist gives."""
    command = (sys.executable, "-P", "-m", "hatchling", "build", "--target", kind)
    subprocess.run((*command, "--directory", str(folder)), cwd=source, check=True, timeout=100)
    (built,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@dataclass(frozen=True)
class Distributions:
    """What is given to people."""

    wheel: Path
    sdist: Path
    site: Path
    """The wheel, unpacked."""
    source: Path
    """The sdist, unpacked."""

    @classmethod
    def of_checkout(cls, folder: Path) -> Distributions:
        wheel, sdist = build(ROOT, "wheel", folder), build(ROOT, "sdist", folder)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")  # noqa: S202 # ours
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "unpacked", filter="data")  # ours
        (source,) = (folder / "unpacked").iterdir()
        return cls(wheel, sdist, folder / "site", source)


def foreign_packages(folder: Path) -> Path:
    """Return a folder with packages of others, called as our parts are; to import one fails."""
    for name in FOREIGN:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the foreign {name}')\n")
    return folder


def core_packages(site: Path, folder: Path) -> Path:
    """Return a folder with the packages that the wheel needs without any extra, and theirs."""
    folder.mkdir()
    (metadata,) = site.glob("*.dist-info/METADATA")
    lines = (line.partition(": ") for line in metadata.read_text().splitlines())
    wanted = [text for name, _, text in lines if name == "Requires-Dist"]
    linked: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        if requirement.name in linked or not _applies(requirement):
            continue
        linked.add(requirement.name)
        found = distribution(requirement.name)
        wanted += found.requires or []
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(found.locate_file(top))))
    return folder


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def run(
    *words: str, path: tuple[Path, ...], cwd: Path, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `python -m ollama_fleet`, which finds modules along a path first."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        (sys.executable, *python, "-m", "ollama_fleet", *words),
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
