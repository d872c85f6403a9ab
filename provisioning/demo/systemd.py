"""Write the systemd units that run a fleet's parts on a machine of one's own.

In:   the command's path. Out: units by file name, to be put into /etc/systemd/system.
Fails with ValueError.

Settings come from /etc/ollama-fleet: `provisioner.env` holds the provisioner's options as
environment variables, `exporter.yml` the exporter's. Passwords and tokens stay in their own files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

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


def units(command: PurePath) -> Mapping[str, str]:
    """Return the text of each unit by its file's name.

    Raises:
        ValueError: The command is no path that systemd takes as it is.
    """
    return {
        "ollama-fleet-provisioner.service": provisioner(command),
        "ollama-fleet-exporter.service": exporter(command),
    }


def _executable(command: PurePath) -> str:
    """Return a command as a unit has it: `%` begins a specifier there."""
    if not COMMAND.fullmatch(str(command)):
        raise ValueError(
            f"must be an absolute path without spaces, quotes, $ or \\, got {str(command)!r}"
        )
    return str(command).replace("%", "%%")


def provisioner(command: PurePath) -> str:
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
# Units that are processes live on in this service's cgroup, each in one of its own.
KillMode=process
Delegate=memory pids
DelegateSubgroup=provisioner
Restart=always
RestartSec=2
LimitNOFILE={N_FILES}

[Install]
WantedBy=multi-user.target
"""


def exporter(command: PurePath) -> str:
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
