"""The commands that write files for machines: the provisioner's unit, and what a node needs.

The unit reads /etc/ollama-fleet/provisioner.env: the options as environment variables.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

import click

from ollama_fleet.options import FOLDER
from ollama_fleet.units import CONFIG_DIR, N_FILES, RUNNING, executable, unit_command
from provisioning.errors import SpecError
from provisioning.runtime import node_setup
from provisioning.runtime.node_setup import NodeAccess

STATE_DIR = "/var/lib/ollama-fleet"
USER = "ollama-fleet"
CLIENT_DIR = f"{CONFIG_DIR}/nodes"
"""Folder of the key and certificate that a provisioner shows to nodes."""


def provisioner_unit(command: PurePath) -> str:
    """Return the unit of a provisioner, whose instances go on while it is stopped or restarted.

    Instances that are processes inherit its sandbox, and some need devices, /tmp or a setuid
    helper of a GPU's driver: so it has little of one.

    Raises:
        ValueError: The command is no path that systemd takes as it is.
    """
    return f"""\
[Unit]
Description=Creates, watches, rotates and replaces the LLM servers of a fleet
After=network-online.target
Wants=network-online.target

[Service]
User={USER}
StateDirectory=ollama-fleet
StateDirectoryMode=0700
Environment=OLLAMA_FLEET_PROVISIONER_STATE_DIR={STATE_DIR}
Environment=OLLAMA_FLEET_PROVISIONER_WEB_TOKEN_FILE={STATE_DIR}/provisioner.token
EnvironmentFile=-{CONFIG_DIR}/provisioner.env
ExecStart={executable(command)} provisioner run
{RUNNING}
# Instances that are processes live on in this service's cgroup, each in one of its own.
KillMode=process
Delegate=memory pids
DelegateSubgroup=provisioner
LimitNOFILE={N_FILES}
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


output_option = click.option(
    "--output-dir",
    type=FOLDER,
    required=True,
    help="Folder that gets the files; it stands for the machine's root.",
)


systemd = unit_command("provisioner", provisioner_unit, "127.0.0.1:8080")


@click.command("node-files", short_help="Write the files that a node needs.")
@click.argument("node")
@click.argument("address")
@output_option
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=node_setup.PORT,
    show_default=True,
    help="Port of nginx.",
)
@click.option(
    "--client",
    default=NodeAccess("", "").client,
    show_default=True,
    help="Common name of the provisioners' certificates.",
)
def node_files(node: str, address: str, output_dir: Path, port: int, client: str) -> None:
    """Write what NODE needs so that provisioners reach its containerd at ADDRESS.

    nginx in front of containerd's socket accepts clients with a certificate of a CA made for this
    alone: such a client is root on the node. The command prints, in their order, the commands that
    make the certificates and start nginx.
    """
    access = NodeAccess(node, address, port=port, client=client)
    try:
        files = node_setup.node_files(access)
    except SpecError as error:
        raise click.UsageError(str(error)) from error
    _write((output_dir / file.path.lstrip("/"), file.text) for file in files)
    _print("once, where the CA's key is kept", node_setup.authority_commands())
    _print(f"on {node}, as root, with the files in place", node_setup.node_commands(access))
    _print(
        "where a provisioner runs, as root, if it was not done for another node",
        node_setup.client_commands(access, CLIENT_DIR, USER),
    )
    _print(
        f"for {node}'s request.pem, where the CA's key is kept; certificate.pem and "
        "authority.pem then go where request.pem came from",
        node_setup.node_signing_commands(access),
    )
    _print(
        "for a provisioner's request.pem, likewise",
        node_setup.client_signing_commands(access),
    )
    _print(f"on {node}, as root, with them in place", node_setup.node_start_commands())
    _print(
        "where a provisioner runs, as root, if it was not done before, with them in place",
        node_setup.client_end_commands(CLIENT_DIR, USER),
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


def _print(where: str, commands: Iterable[str]) -> None:
    click.echo(f"{where}:", err=True)
    for command in commands:
        click.echo(f"  {command}", err=True)
