"""The commands that write files for machines: systemd units, and what a node needs.

The units read /etc/ollama-fleet: `provisioner.env` holds the provisioner's options as environment
variables, `exporter.yml` the exporter's settings.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

import click

from provisioning.errors import SpecError
from provisioning.runtime import node_setup
from provisioning.runtime.node_setup import NodeAccess

CONFIG_DIR = "/etc/ollama-fleet"
STATE_DIR = "/var/lib/ollama-fleet"
USER = "ollama-fleet"
COMMAND = re.compile(r"/[^\s\"'\\$;]+")
N_FILES = 524_288
"""Connections to the fleet; the kernel's limit for one process is above it."""

SANDBOX = """\
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
CapabilityBoundingSet="""
CLIENT_DIR = f"{CONFIG_DIR}/nodes"
"""Folder of the key and certificate that a provisioner shows to nodes."""


def systemd_units(command: PurePath) -> Mapping[str, str]:
    """Return the text of each unit by its file's name.

    Raises:
        ValueError: The command is no path that systemd takes as it is.
    """
    return {
        "ollama-fleet-provisioner.service": provisioner_unit(command),
        "ollama-fleet-exporter.service": exporter_unit(command),
    }


def _executable(command: PurePath) -> str:
    """Return a command as a unit has it: `%` begins a specifier there."""
    if not COMMAND.fullmatch(str(command)):
        raise ValueError(
            f"must be an absolute path without spaces, quotes, $ or \\, got {str(command)!r}"
        )
    return str(command).replace("%", "%%")


def provisioner_unit(command: PurePath) -> str:
    """Return the unit of a provisioner, whose instances go on while it is stopped or restarted."""
    executable = _executable(command)
    return f"""\
[Unit]
Description=Creates, watches, rotates and replaces the LLM servers of a fleet
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
User={USER}
StateDirectory=ollama-fleet
StateDirectoryMode=0700
Environment=OLLAMA_FLEET_PROVISIONER_STATE_DIR={STATE_DIR}
Environment=OLLAMA_FLEET_PROVISIONER_WEB_TOKEN_FILE={STATE_DIR}/provisioner.token
EnvironmentFile=-{CONFIG_DIR}/provisioner.env
ExecStart={executable} provisioner run
# Instances that are processes live on in this service's cgroup, each in one of its own.
KillMode=process
Delegate=memory pids
DelegateSubgroup=provisioner
Restart=always
RestartSec=2
LimitNOFILE={N_FILES}

[Install]
WantedBy=multi-user.target
"""


def exporter_unit(command: PurePath) -> str:
    """Return the unit of an exporter, which may read its settings and the network.

    No `--check` comes before it: that fails while no provisioner answers, and the exporter, which
    refuses bad settings itself, waits for one.
    """
    executable = _executable(command)
    return f"""\
[Unit]
Description=Polls the LLM servers of a fleet for Prometheus
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
DynamicUser=yes
ExecStart={executable} exporter --config.file {CONFIG_DIR}/exporter.yml
Restart=always
RestartSec=2
LimitNOFILE={N_FILES}
{SANDBOX}

[Install]
WantedBy=multi-user.target
"""


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
def systemd(output_dir: Path, command: Path) -> None:
    """Write systemd units for a provisioner and an exporter."""
    folder = output_dir / "etc/systemd/system"
    try:
        units = systemd_units(command)
    except ValueError as error:
        raise click.UsageError(f"--command {error}") from error
    _write((folder / name, text) for name, text in units.items())
    click.echo(
        f"next, as root: adduser --system --group {USER}; copy the files; "
        "systemctl daemon-reload; systemctl enable --now ollama-fleet-provisioner",
        err=True,
    )


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
