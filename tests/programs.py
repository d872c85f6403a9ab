"""The programs that tests run: `python -m tests.programs` fetches them and prints their paths."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from provisioning.demo import programs
from provisioning.demo.errors import ProgramError
from provisioning.demo.programs import Package, Packages, Say

PACKAGES: Packages = {
    **programs.PACKAGES,
    # Older releases have promtool in Prometheus's own package.
    "promtool": (
        Package("promtool", "usr/bin/promtool"),
        Package("prometheus", "usr/bin/promtool"),
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
    "crun": (Package("crun", "usr/bin/crun"),),
    "runc": (Package("runc", "usr/sbin/runc"),),
    "logrotate": (Package("logrotate", "usr/sbin/logrotate"),),
    "mmdebstrap": (Package("mmdebstrap", "usr/bin/mmdebstrap"),),
    "wrk": (Package("wrk", "usr/bin/wrk"),),
    "systemd-analyze": (Package("systemd", "usr/bin/systemd-analyze"),),
}
LIBRARIES: Mapping[str, Sequence[str]] = {
    "crun": ("libyajl2",),
    "logrotate": ("libpopt0", "libacl1"),
    "systemd-analyze": ("systemd", "libsystemd-shared"),
    "wrk": ("libluajit-5.1-2",),
}
"""Packages of libraries that a program needs and a bare system lacks."""


def locate(program: str, *, say: Say = print) -> Path:
    """Return the program's path; fetch its packages if they are missing.

    Raises:
        ProgramError: It is not installed and cannot be fetched; says what to install.
    """
    folder = programs.default_dir(os.environ)
    path = programs.locate(program, folder, say=say, known=PACKAGES)
    if program not in LIBRARIES or folder not in path.parents:
        return path
    launcher = programs.launcher_of(path)
    if launcher.exists():
        return launcher
    packages = [programs.fetch_package(name, folder, say=say) for name in LIBRARIES[program]]
    return write_library_launcher(path, packages)


def write_library_launcher(program: Path, packages: Sequence[Path]) -> Path:
    """Write and return a launcher with which the program finds the packages' libraries."""
    folders = {
        library.parent for package in packages for library in package.glob("usr/lib/**/*.so*")
    }
    places = (shlex.quote(os.path.relpath(folder, program.parent)) for folder in sorted(folders))
    search = ":".join(f'"$here"/{place}' for place in places)
    return programs.write_script(
        program,
        f"export LD_LIBRARY_PATH={search}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        f'exec "$here"/{shlex.quote(program.name)} "$@"',
    )


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(PACKAGES)))
def main(names: tuple[str, ...]) -> None:
    """Print the path of each program, or of all, and fetch what is missing."""
    missing = []
    if not names:
        programs.locate_gateway(programs.default_dir(os.environ), say=print)
    for name in names or sorted(PACKAGES):
        try:
            click.echo(locate(name, say=lambda text: click.echo(text, err=True)))
        except ProgramError as error:
            missing.append(str(error))
    if missing:
        raise click.ClickException("\n".join(missing))


if __name__ == "__main__":
    main()
