"""Build the OCI image, without a daemon and without root: `python -m packages.image [FOLDER]`."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ollama_fleet.version import VERSION, revision
from packages import oci
from packages.environment import (
    HOME,
    INTERPRETER,
    architecture,
    build_wheel,
    make_environment,
    run,
    source_date_s,
    tidy,
    write,
)

NAME = "ollama-fleet"
EXTRAS = "alerts,dashboards,dns"
"""What a fleet that Kubernetes runs needs: all but the provisioner."""
BASE = ("base-files", "ca-certificates", "netbase", "python3")
MAINTENANCE = ("debconf", "dpkg", "mawk", "openssl", "tar")
"""What the base's packages depend on and nothing in the image runs: there is not even a shell."""
INSTALLED = """\
Package: {name}
Status: install ok installed
Version: 99
Architecture: {architecture}
Multi-Arch: foreign
Provides: awk
Maintainer: none
Description: taken as installed

"""
UNUSED = ("usr/share/man", "usr/share/doc/*/*.gz", "usr/share/lintian", "usr/lib/*/gconv")
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
USER_ID = 65532
ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
    f"{NAME}:x:{USER_ID}:{USER_ID}:{NAME}:/:/sbin/nologin\n",
    "etc/group": f"root:x:0:\n{NAME}:x:{USER_ID}:\n",
}
COMMAND = (
    "exporter",
    "--inventory=/etc/ollama-fleet/fleet.yml",
    # Nobody reaches a container's loopback.
    "--web.listen-address=0.0.0.0:11440",
)
"""What a container without arguments runs."""
SOURCE = "https://github.com/ollama-fleet/ollama-fleet"


def fetch_packages(folder: Path) -> list[Path]:
    """Download the packages of the base, by the package lists of this Debian; return them."""
    (folder / "partial").mkdir(parents=True)
    installed = folder / "status"
    fields = {"architecture": architecture()}
    installed.write_text("".join(INSTALLED.format(name=one, **fields) for one in MAINTENANCE))
    settings = {
        "Dir::State::status": installed,
        "Dir::Cache::archives": folder,
        "Debug::NoLocking": 1,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
    }
    options = (f"--option={name}={value}" for name, value in settings.items())
    run("apt-get", "--quiet", *options, "--download-only", "--yes", "install", *BASE)
    return sorted(folder.glob("*.deb"))


def make_base(root: Path, packages: Path) -> None:
    """Unpack a Debian that has Python and nothing that would change it."""
    for package in fetch_packages(packages):
        run("dpkg-deb", "--extract", package, root)
        # Where scanners look for what an image without dpkg holds.
        fields = run("dpkg-deb", "--field", package)
        write(root / "var/lib/dpkg/status.d" / package.name.partition("_")[0], fields)
    for pattern in UNUSED:
        for path in [*root.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name, text in ACCOUNTS.items():
        write(root / name, text)
    trusted = sorted(root.glob("usr/share/ca-certificates/mozilla/*.crt"))
    write(root / AUTHORITIES, "".join(path.read_text() for path in trusted))


def make_application(root: Path, base: Path, scratch: Path) -> None:
    """Install our command for the base's Python, with a folder for settings."""
    python = make_environment(root, build_wheel(scratch), EXTRAS).resolve().name
    if not (base / "usr/bin" / python).exists():
        raise click.ClickException(
            f"{INTERPRETER} is {python}, and the packages of this Debian have another one; "
            "update the package lists: apt-get update"
        )
    (root / "etc/ollama-fleet").mkdir(parents=True)
    tidy(root)


def compile_all(root: Path) -> None:
    """Compile what a read-only file system would have compiled at each start, whatever its date."""
    strip = ("-s", str(root), "-p", "/")
    modes = ("-q", "--invalidation-mode", "unchecked-hash")
    run(INTERPRETER, "-I", "-m", "compileall", *modes, *strip, root)


def configuration(date_s: int) -> dict[str, Any]:
    """Return what the image says of itself, and how it is run."""
    created = datetime.fromtimestamp(date_s, UTC).isoformat().replace("+00:00", "Z")
    labels = {
        "title": NAME,
        "description": "Observability for fleets of local LLM servers",
        "version": VERSION,
        "revision": revision(),
        "created": created,
        "licenses": "Apache-2.0",
        "source": SOURCE,
        "documentation": f"{SOURCE}/blob/main/docs/index.md",
    }
    return {
        "architecture": architecture(),
        "os": "linux",
        "created": created,
        "config": {
            "User": f"{USER_ID}:{USER_ID}",
            "Env": [f"PATH=/{HOME}/bin:/usr/bin", f"SSL_CERT_FILE=/{AUTHORITIES}"],
            "Entrypoint": [NAME],
            "Cmd": [*COMMAND],
            "ExposedPorts": {"11440/tcp": {}},
            "Labels": {f"org.opencontainers.image.{name}": text for name, text in labels.items()},
        },
    }


def build(folder: Path) -> tuple[Path, str]:
    """Build the image into a folder; return its archive and its digest."""
    os.umask(0o022)
    folder.mkdir(parents=True, exist_ok=True)
    date_s = source_date_s()
    with tempfile.TemporaryDirectory() as scratch:
        base, application = Path(scratch, "base"), Path(scratch, "application")
        make_base(base, Path(scratch, "packages"))
        make_application(application, base, Path(scratch))
        for root in (base, application):
            compile_all(root)
        layers = [oci.layer_of(root, date_s) for root in (base, application)]
    archive = folder / f"{NAME}-{VERSION}-oci.tar"
    return archive, oci.write_archive(
        archive, layers, configuration(date_s), name=NAME, tag=VERSION
    )


@click.command()
@click.argument("folder", default="dist", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Build the OCI image into FOLDER, and print its path and its digest."""
    click.echo("\n".join(map(str, build(folder))))


if __name__ == "__main__":
    main()
