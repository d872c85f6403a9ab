"""A node's containerd behind its real nginx, set up by the files and commands that operators get.

What the commands say to the machine's package manager, to systemd and of its users is written down
and not done.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from provisioning.runtime import node_setup
from provisioning.runtime.containerd.client import Certificates
from provisioning.runtime.node_setup import NodeAccess
from tests.conftest import program
from tests.containerd import Containerd, package
from tests.ports import free_port
from tests.waiting import eventually

UNDONE = ("adduser", "apt-get", "systemctl")
CLIENT_USER = "daemon"
"""Stands for the provisioner's user."""


class Authority:
    """A certificate authority, and the keys of those whom it signs, made by our own commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.undone = folder / "undone"
        self._programs = self._stand_ins()
        self._run(node_setup.authority_commands())

    def sign_node(self, access: NodeAccess) -> None:
        """Do all that is to be done on a node before its unit is started."""
        for file in node_setup.node_files(access):
            if Path(access.folder) in Path(file.path).parents:
                Path(file.path).parent.mkdir(exist_ok=True)  # as copying the files does
                Path(file.path).write_text(file.text)
        self._run(node_setup.node_commands(access))
        self._answer(Path(access.folder), node_setup.node_signing_commands(access))
        self._run(node_setup.node_start_commands())

    def sign_client(self, access: NodeAccess, folder: Path) -> Certificates:
        """Do all that is to be done where a provisioner runs."""
        self._run(node_setup.client_commands(access, str(folder), CLIENT_USER))
        self._answer(folder, node_setup.client_signing_commands(access))
        self._run(node_setup.client_end_commands(str(folder), CLIENT_USER))
        return Certificates(
            folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
        )

    def sign(self, request: Path, commands: Sequence[str]) -> Path:
        """Return the certificate that a request gets by these commands."""
        (self.folder / "request.pem").write_bytes(request.read_bytes())
        self._run(commands)
        return self.folder / "certificate.pem"

    def _answer(self, folder: Path, commands: Sequence[str]) -> None:
        certificate = self.sign(folder / "request.pem", commands)
        for file in (certificate, self.folder / "authority.pem"):
            (folder / file.name).write_bytes(file.read_bytes())

    def _stand_ins(self) -> Path:
        folder = self.folder / "bin"
        folder.mkdir()
        for name in UNDONE:
            (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.undone}"\n')
            (folder / name).chmod(0o755)
        return folder

    def _run(self, commands: Sequence[str]) -> None:
        subprocess.run(  # as a person would in a shell
            ["/bin/sh", "-ec", "\n".join(commands)],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}"},
            check=True,
            capture_output=True,
        )


def access_to(containerd: Containerd, node: str, address: str, folder: Path) -> NodeAccess:
    """Return how a test's containerd is reached, with everything of it in one folder."""
    port = free_port()
    modules = package("libnginx-mod-stream").glob("usr/lib/nginx/modules/ngx_stream_module.so")
    return NodeAccess(
        node,
        address,
        port=port,
        socket=str(containerd.socket),
        folder=str(folder),
        log_dir=f"{folder}/log",
        nginx=str(program("nginx")),
        modules_dir=str(next(modules).parent),
        pid_file=f"{folder}/nginx.pid",
    )


@asynccontextmanager
async def running_nginx(access: NodeAccess) -> AsyncIterator[None]:
    """Run what a signed node's unit runs, until the block ends."""
    path = Path(access.folder) / "nginx.log"
    with path.open("wb") as log:
        nginx = await asyncio.create_subprocess_exec(*_started_by(access), stderr=log)
    try:
        await eventually(lambda: nginx.returncode is not None or _accepts(access))
        assert nginx.returncode is None, path.read_text()
        yield
    finally:
        if nginx.returncode is None:
            nginx.terminate()
        await nginx.wait()


def endpoint_of(access: NodeAccess) -> str:
    """Return a node's endpoint, as a specification has it."""
    return f"https://{access.address}:{access.port}"


def _started_by(access: NodeAccess) -> list[str]:
    (line,) = [
        line for line in node_setup.unit(access).splitlines() if line.startswith("ExecStart=")
    ]
    return line.removeprefix("ExecStart=").split()


def _accepts(access: NodeAccess) -> bool:
    try:
        socket.create_connection((access.address, access.port)).close()
    except OSError:
        return False
    return True
