"""Alertmanager for one machine: its command line, as a pure function.

In:   its program, its configuration, a folder for what it keeps, and where it listens.
Out:  the arguments that make it keep everything in that folder, listen on loopback only, and look
      for no peers.
"""

from __future__ import annotations

from pathlib import Path


def alertmanager_command(
    binary: Path, *, config: Path, data_dir: Path, address: str
) -> tuple[str, ...]:
    """Return the command that runs Alertmanager on this configuration; `address` is `host:port`."""
    return (
        str(binary),
        f"--config.file={config}",
        f"--storage.path={data_dir}",
        f"--web.listen-address={address}",
        f"--web.external-url=http://{address}",
        # Without an address there is no gossip, which would listen on every interface.
        "--cluster.listen-address=",
        "--log.level=warn",
    )
