"""Real containerd daemons for tests, several at once as if they were several nodes.

A daemon has its folders, sockets and programs for itself; it runs in a mount namespace where the
second, empty cgroup hierarchy of a hybrid system is hidden, for then it limits memory by the first.
Needs root. The image is made on the spot, of a static busybox.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioning.demo import programs
from provisioning.demo.errors import ProgramError
from provisioning.runtime.containerd.containers import Settings
from tests.conftest import program, refuse

IMAGE = "busybox:tests"
CGROUPS = Path("/sys/fs/cgroup")
START_LIMIT_S = 100.0
POLL_S = 0.02
APPLETS = ("sh", "sleep", "cat", "echo", "true", "touch", "httpd", "env", "id", "ls")
LAUNCH = "umount /sys/fs/cgroup/unified 2>/dev/null; exec containerd --config "
CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
"""


@dataclass(slots=True)
class Containerd:
    """A containerd of its own, started and stopped at will; its containers outlive it."""

    folder: Path
    socket_dir: Path
    """Of a short name: a socket's path has at most 104 characters."""
    binaries: Path
    authorities: Path | None = None
    """Certificates of those who sign for registries; None: the system's."""
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def socket(self) -> Path:
        """Return where it listens."""
        return self.socket_dir / "containerd.sock"

    @property
    def endpoint(self) -> str:
        """Return the socket as a node's endpoint."""
        return f"unix://{self.socket}"

    @property
    def settings(self) -> Settings:
        """Return settings that keep this daemon's containers apart from all others."""
        return Settings(
            runtime=str(self.binaries / "crun"),
            runtime_root=f"{self.folder}/runtime",
            cgroup_parent=f"/{self.cgroup}",
            log_dir=str(self.folder / "log"),
        )

    @property
    def cgroup(self) -> str:
        """Return the name of the group above its containers' groups."""
        return f"ollama-fleet-test.{os.getpid()}.{self.folder.name}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        config = self.folder / "config.toml"
        config.write_text(CONFIG.format(folder=self.folder, socket=self.socket))
        with (self.folder / "containerd.log").open("ab") as log:
            self.process = subprocess.Popen(  # its path is the test's own
                ["unshare", "-m", "sh", "-c", f"{LAUNCH}'{config}'"],  # noqa: S607
                stdout=log,
                stderr=log,
                env=self._environment(),
            )
        self._until_answering()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon, and not its containers."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(START_LIMIT_S)
            self.process = None

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it anew."""
        self.stop(number)
        self.start()

    async def collect_garbage(self, namespace: str) -> None:
        """Have all removed that nothing refers to; return when that is done."""
        command = ("-a", self.socket, "-n", namespace, "content", "prune", "references")
        process = await asyncio.create_subprocess_exec(self.binaries / "ctr", *command)
        assert 0 == await process.wait()

    async def mount_memory(self, folder: Path) -> None:
        """Mount an empty file system where the daemon and its containers see it."""
        assert self.process is not None
        inside = ("-m", "-t", str(self.process.pid), "mount", "-t", "tmpfs", "tmpfs", folder)
        process = await asyncio.create_subprocess_exec("nsenter", *inside)
        assert 0 == await process.wait()

    def shims(self) -> list[int]:
        """Return the process ids of its containers' shims."""
        mark = str(self.socket).encode()
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and _is_shim(folder, mark)
        ]

    def clean_up(self) -> None:
        """End everything that is left of it, and remove what the kernel keeps."""
        self.stop()
        for pid in self.shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for group in self.groups():
            for member in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(member), signal.SIGKILL)
            with contextlib.suppress(OSError):
                group.rmdir()

    def groups(self) -> list[Path]:
        """Return the groups of its containers that are left, each before the one above it."""
        pattern = self.cgroup if is_second_version() else f"*/{self.cgroup}"
        return [*CGROUPS.glob(f"{pattern}/*/"), *CGROUPS.glob(f"{pattern}/")]

    def group(self, name: str, controller: str) -> Path:
        """Return the group of one container, where a controller's limits are."""
        hierarchy = CGROUPS if is_second_version() else CGROUPS / controller
        return hierarchy / self.cgroup / name

    def _environment(self) -> dict[str, str]:
        path = {"PATH": f"{self.binaries}:{os.environ['PATH']}"}
        return path | ({"SSL_CERT_FILE": str(self.authorities)} if self.authorities else {})

    def _until_answering(self) -> None:
        deadline_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return
            assert self.process is not None
            assert self.process.poll() is None, self._log()
            time.sleep(POLL_S)
        raise AssertionError(f"containerd does not answer: {self._log()}")

    def _log(self) -> str:
        return (self.folder / "containerd.log").read_text()[-2000:]


def is_second_version() -> bool:
    """Say whether this system limits by the second version of cgroups alone."""
    return (CGROUPS / "cgroup.controllers").exists()


@contextlib.contextmanager
def running_containerd(folder: Path, *, authorities: Path | None = None) -> Iterator[Containerd]:
    """Run a containerd until the block ends, or skip the test without root (in CI: fail it)."""
    if os.geteuid() != 0:
        refuse("containerd needs root")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="containerd-") as socket_dir:
        daemon = Containerd(folder, Path(socket_dir), _binaries(folder), authorities)
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.clean_up()


def package(name: str) -> Path:
    """Return the folder of an unpacked package, or skip the test (in CI: fail it)."""
    try:
        return programs.fetch_package(name, programs.default_dir(os.environ), say=print)
    except ProgramError as error:
        refuse(str(error))


def busybox_archive(folder: Path) -> Path:
    """Return an OCI archive of an image with a static busybox."""
    found = package("busybox-static").glob("**/bin/busybox")
    busybox = next(path for path in found if path.is_file())
    return image_archive(folder / "busybox.tar", _busybox_layer(busybox))


def image_archive(path: Path, layer: bytes, **config: Any) -> Path:
    """Write an OCI archive of one uncompressed layer; `config` is the image's, as `Cmd`."""
    blobs: dict[str, bytes] = {}
    layer_digest = _add(blobs, layer)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }
    config_blob, media = json.dumps(document).encode(), "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{media}.manifest.v1+json",
        "config": _descriptor(f"{media}.config.v1+json", _add(blobs, config_blob), config_blob),
        "layers": [_descriptor(f"{media}.layer.v1.tar", layer_digest, layer)],
    }
    manifest_blob = json.dumps(manifest).encode()
    platform = {"platform": {"architecture": "amd64", "os": "linux"}}
    digest = _add(blobs, manifest_blob)
    entry = {**_descriptor(f"{media}.manifest.v1+json", digest, manifest_blob), **platform}
    index = {"schemaVersion": 2, "mediaType": f"{media}.index.v1+json", "manifests": [entry]}
    files: dict[str, str | bytes] = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index),
    }
    files.update((f"blobs/{name.replace(':', '/')}", blob) for name, blob in blobs.items())
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            _add_file(archive, name, content if isinstance(content, bytes) else content.encode())
    return path


def layer_of(*, folders: tuple[str, ...] = (), links: dict[str, str] | None = None) -> bytes:
    """Return a layer of empty folders and symbolic links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        _add_skeleton(layer, folders, links or {})
    return buffer.getvalue()


def _busybox_layer(busybox: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        links = {f"bin/{applet}": "busybox" for applet in APPLETS}
        _add_skeleton(layer, ("bin", "proc", "sys", "dev", "tmp", "etc"), links)
        _add_file(layer, "bin/busybox", busybox.read_bytes(), mode=0o755)
    return buffer.getvalue()


def _add_skeleton(layer: tarfile.TarFile, folders: tuple[str, ...], links: dict[str, str]) -> None:
    for name in folders:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        layer.addfile(info)
    for name, target in links.items():
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        layer.addfile(info)


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))


def _add(blobs: dict[str, bytes], content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blobs[digest] = content
    return digest


def _descriptor(media_type: str, digest: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _binaries(folder: Path) -> Path:
    """Return a folder that holds the programs by the names that containerd calls them by."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    for name in ("containerd", "containerd-shim-runc-v2", "ctr", "runc"):
        link = binaries / name
        link.unlink(missing_ok=True)
        link.symlink_to(program(name))
    crun = binaries / "crun"  # a launcher looks for its libraries beside itself, so no link to it
    crun.write_text(f'#!/bin/sh\nexec "{program("crun")}" "$@"\n')
    crun.chmod(0o755)
    assert shutil.which("unshare")
    return binaries


def _is_shim(folder: Path, mark: bytes) -> bool:
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"containerd-shim-runc-v2") and mark in words
