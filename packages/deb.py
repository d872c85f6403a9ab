"""Build the Debian package: `python -m packages.deb [FOLDER]`."""

from __future__ import annotations

import gzip
import tempfile
from email.utils import formatdate
from pathlib import Path

import click

from ollama_fleet.version import VERSION
from packages.environment import (
    HOME,
    INTERPRETER,
    ROOT,
    architecture,
    build_wheel,
    make_environment,
    run,
    source_date_s,
    tidy,
    write,
)

HERE = Path(__file__).parent
COMMAND = Path("usr/bin/ollama-fleet")
EXTRAS = "alerts,dashboards,dns,gateway,provisioner"
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/ollama-fleet",
    "fish": "usr/share/fish/vendor_completions.d/ollama-fleet.fish",
    "zsh": "usr/share/zsh/vendor-completions/_ollama-fleet",
}
UNITS = "usr/lib/systemd/system"
SERVERS = ("exporter", "provisioner")
SETTINGS = ("exporter.yml", "fleet.yml", "provisioner.env")
SCRIPTS = ("postinst", "prerm", "postrm")
MAINTAINER = "The ollama-fleet authors <ollama-fleet@users.noreply.github.com>"
CHANGELOG = """\
ollama-fleet ({version}) unstable; urgency=medium

  * What changed is in CHANGELOG.md.gz.

 -- {maintainer}  {date}
"""
CONTROL = """\
Package: ollama-fleet
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size_kib}
Depends: adduser, libc6 (>= 2.28), libgcc-s1, libstdc++6, procps, {python}
Section: net
Priority: optional
Homepage: https://github.com/ollama-fleet/ollama-fleet
Description: observability for fleets of local LLM servers
 One exporter polls all Ollama, llama.cpp and other LLM servers of a fleet for
 Prometheus. Alert rules, Grafana dashboards and a provisioner that creates and
 replaces instances come with it.
"""


def write_compressed(path: Path, content: bytes) -> None:
    """Write a file as Debian has manuals and changelogs: the same input gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0))


def add_units(root: Path, ours: tuple[str | Path, ...]) -> None:
    """Add the units of our servers."""
    for server in SERVERS:
        unit = (*ours, server, "systemd", "--command", f"/{COMMAND}")
        write(root / UNITS / f"ollama-fleet-{server}.service", run(*unit))
        write(root / UNITS / f"ollama-fleet-{server}.socket", run(*unit, "--socket"))


def add_manuals(root: Path, python: Path) -> None:
    """Add man pages and completions."""
    folder = root / "usr/share/man/man1"
    folder.mkdir(parents=True)
    run(python, HERE / "man.py", folder)
    for page in folder.glob("*.1"):
        write_compressed(page.with_name(f"{page.name}.gz"), page.read_bytes())
        page.unlink()
    for shell, path in COMPLETIONS.items():
        write(root / path, run(python, "-m", "ollama_fleet", "completion", shell))


def add_documents(root: Path) -> None:
    """Add licence, changelog and what lintian need not say."""
    documents = root / "usr/share/doc/ollama-fleet"
    write(documents / "copyright", (HERE / "debian/copyright").read_text())
    write_compressed(documents / "CHANGELOG.md.gz", (ROOT / "CHANGELOG.md").read_bytes())
    date = formatdate(source_date_s())
    changes = CHANGELOG.format(version=VERSION, maintainer=MAINTAINER, date=date)
    write_compressed(documents / "changelog.gz", changes.encode())
    overrides = root / "usr/share/lintian/overrides/ollama-fleet"
    write(overrides, (HERE / "debian/lintian-overrides").read_text())


def add_control(root: Path) -> None:
    """Add what `dpkg` reads."""
    control = root / "DEBIAN"
    files = [path for path in root.rglob("*") if path.is_file()]
    minor = int(run(INTERPRETER, "-c", "import sys; print(sys.version_info.minor)"))
    fields = {
        "version": VERSION,
        "maintainer": MAINTAINER,
        "architecture": architecture(),
        "size_kib": sum(path.stat().st_size for path in files if not path.is_symlink()) // 1024,
        "python": f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}~)",
    }
    control.mkdir(mode=0o755)
    write(control / "control", CONTROL.format(**fields))
    write(control / "conffiles", "".join(f"/etc/ollama-fleet/{name}\n" for name in SETTINGS))
    for name in SCRIPTS:
        write(control / name, (HERE / "debian" / name).read_text(), 0o755)


def assemble(root: Path, wheel: Path) -> None:
    """Make the tree that is the package."""
    python = make_environment(root, wheel, EXTRAS)
    (root / COMMAND.parent).mkdir(parents=True)
    (root / COMMAND).symlink_to(f"/{HOME}/bin/ollama-fleet")
    add_units(root, (python, "-m", "ollama_fleet"))
    add_manuals(root, python)
    add_documents(root)
    for name in SETTINGS:
        write(root / "etc/ollama-fleet" / name, (HERE / "debian" / name).read_text())
    tidy(root)
    add_control(root)


def build(folder: Path) -> Path:
    """Build the package into a folder, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"ollama-fleet_{VERSION}_{architecture()}.deb"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        assemble(root, build_wheel(Path(scratch)))
        run("dpkg-deb", "--root-owner-group", "--build", root, package.absolute())
    return package


@click.command()
@click.argument("folder", default="dist", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Build the Debian package into FOLDER, and print its path."""
    click.echo(build(folder))


if __name__ == "__main__":
    main()
