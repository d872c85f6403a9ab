"""Print systemd units for our servers: a service, and a socket that opens its port."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path, PurePath

import click

CONFIG_DIR = "/etc/ollama-fleet"
COMMAND = re.compile(r"/[^\s\"'\\$;]+")
N_FILES = 524_288
"""Connections to the fleet; the kernel's limit for one process is above it."""

RUNNING = """\
Type=notify
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=60
Restart=always
RestartSec=2"""
"""Not notify-reload, which systemd knows from 253 on."""

SANDBOX = """\
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
CapabilityBoundingSet="""
"""For a server that needs nothing but the network and its settings."""


def executable(command: PurePath) -> str:
    """Return a command as a unit has it: `%` begins a specifier there.

    Raises:
        ValueError: The command is no path that systemd takes as it is.
    """
    if not COMMAND.fullmatch(str(command)):
        raise ValueError(
            f"must be an absolute path without spaces, quotes, $ or \\, got {str(command)!r}"
        )
    return str(command).replace("%", "%%")


def socket_unit(what: str, address: str) -> str:
    """Return the unit that opens a server's port, also while it restarts."""
    return f"""\
[Unit]
Description=Port of the {what}

[Socket]
ListenStream={address}

[Install]
WantedBy=sockets.target
"""


def unit_command(what: str, service: Callable[[PurePath], str], address: str) -> click.Command:
    """Return the command that prints a server's units."""

    @click.command("systemd", help=f"Print the systemd unit of the {what}.")
    @click.option(
        "--command",
        type=click.Path(path_type=Path),
        default=lambda: Path(sys.argv[0]).absolute(),
        show_default="this one",
        help="Path of `ollama-fleet` on the machine.",
    )
    @click.option(
        "--socket",
        is_flag=True,
        help=f"Print the socket unit instead: systemd listens on {address}.",
    )
    def systemd(command: Path, socket: bool) -> None:
        try:
            text = socket_unit(what, address) if socket else service(command)
        except ValueError as error:
            raise click.UsageError(f"--command {error}") from error
        click.echo(text, nl=False)

    return systemd
