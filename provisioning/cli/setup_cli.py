"""The commands of `ollama-fleet provisioner` that write files for machines, and start nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from provisioning.demo import systemd
from provisioning.errors import SpecError
from provisioning.runtime import node_setup
from provisioning.runtime.node_setup import NodeAccess

CLIENT_DIR = f"{systemd.CONFIG_DIR}/nodes"
"""Where a provisioner has its key and certificate for nodes."""
output_option = click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder that gets the files; it stands for the machine's root.",
)


@click.command("systemd")
@output_option
@click.option(
    "--command",
    type=click.Path(path_type=Path),
    default=lambda: Path(sys.argv[0]).absolute(),
    show_default="this one",
    help="Path of `ollama-fleet` on the machine.",
)
def systemd_units(output_dir: Path, command: Path) -> None:
    """Write systemd units for a provisioner and an exporter."""
    folder = output_dir / "etc/systemd/system"
    try:
        units = systemd.units(command)
    except ValueError as error:
        raise click.UsageError(f"--command {error}") from error
    _write((folder / name, text) for name, text in units.items())
    click.echo(
        f"next, as root: adduser --system --group {systemd.USER}; copy the files; "
        "systemctl daemon-reload; systemctl enable --now ollama-fleet-provisioner",
        err=True,
    )


@click.command("node-files", short_help="Write what a node of the fleet needs.")
@click.argument("node")
@click.argument("address")
@output_option
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=node_setup.PORT,
    show_default=True,
    help="Where nginx listens.",
)
@click.option(
    "--client",
    default=NodeAccess("", "").client,
    show_default=True,
    help="Common name of the provisioners' certificates.",
)
def node_files(node: str, address: str, output_dir: Path, port: int, client: str) -> None:
    """Write what NODE needs so that provisioners reach its containerd at ADDRESS.

    nginx stands in front of containerd's socket and lets through whoever has a certificate of an
    authority made for this alone: such a client is root on the node. The commands that make the
    certificates and start nginx are printed, in their order.
    """
    access = NodeAccess(node, address, port=port, client=client)
    try:
        files = node_setup.node_files(access)
    except SpecError as error:
        raise click.UsageError(str(error)) from error
    _write((output_dir / file.path.lstrip("/"), file.text) for file in files)
    _tell("once, where the authority's key is kept", node_setup.authority_commands())
    _tell(f"on {node}, as root, with the files in place", node_setup.node_commands(access))
    _tell(
        "where a provisioner runs, as root, if it was not done for another node",
        node_setup.client_commands(access, CLIENT_DIR, systemd.USER),
    )
    _tell(
        f"for {node}'s request.pem, where the authority's key is kept; certificate.pem and "
        "authority.pem then go where request.pem came from",
        node_setup.node_signing_commands(access),
    )
    _tell(
        "for a provisioner's request.pem, likewise",
        node_setup.client_signing_commands(access),
    )
    _tell(f"on {node}, as root, with them in place", node_setup.node_start_commands())
    _tell(
        "where a provisioner runs, as root, if it was not done before, with them in place",
        node_setup.client_end_commands(CLIENT_DIR, systemd.USER),
    )


def _write(files: Iterable[tuple[Path, str]]) -> None:
    for path, text in files:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise click.ClickException(
                f"cannot write {path}: {error.strerror or error}; choose another --output-dir"
            ) from error
        click.echo(path)


def _tell(where: str, commands: Iterable[str]) -> None:
    click.echo(f"{where}:", err=True)
    for command in commands:
        click.echo(f"  {command}", err=True)
