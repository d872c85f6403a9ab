"""The exporter as a service of systemd."""

from __future__ import annotations

from pathlib import PurePath

from ollama_fleet.units import CONFIG_DIR, N_FILES, RUNNING, SANDBOX, executable, unit_command

ADDRESS = "127.0.0.1:11440"


def exporter_unit(command: PurePath) -> str:
    """Return the unit of an exporter, which may read its settings and the network.

    No `--check` comes before it: that fails while no provisioner answers, and the exporter, which
    refuses bad settings itself, waits for one.

    Raises:
        ValueError: The command is no path that systemd takes as it is.
    """
    return f"""\
[Unit]
Description=Polls the LLM servers of a fleet for Prometheus
After=network-online.target
Wants=network-online.target

[Service]
DynamicUser=yes
StateDirectory=ollama-fleet-exporter
ExecStart={executable(command)} exporter --config.file {CONFIG_DIR}/exporter.yml
{RUNNING}
LimitNOFILE={N_FILES}
{SANDBOX}

[Install]
WantedBy=multi-user.target
"""


systemd = unit_command("exporter", exporter_unit, ADDRESS)
