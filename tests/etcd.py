"""A real etcd cluster on loopback, whose members can be killed, paused and started again."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ports import free_ports

START_S = 100.0
POLL_S = 0.02


@dataclass
class Member:
    """One member, as a process."""

    name: str
    address: str
    """Where clients reach it, as `host:port`."""
    health_url: str
    command: Sequence[str] = field(repr=False)
    log: Path = field(repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, with what it had when it ended; it may not serve yet."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )

    def kill(self) -> None:
        """End it without warning, as a loss of power would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let it hang: it keeps its connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @property
    def has_ended(self) -> bool:
        """Say whether it was never started, was killed, or has ended by itself."""
        return self.process is None or self.process.poll() is not None

    def is_healthy(self) -> bool:
        """Say whether it serves, and knows a leader among the members."""
        with suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(self.health_url, timeout=10) as answer:
                return b'"true"' in answer.read()
        return False


@dataclass(frozen=True)
class Cluster:
    """All members."""

    members: tuple[Member, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return where the members are reached, as `host:port`."""
        return tuple(member.address for member in self.members)

    @property
    def url(self) -> str:
        """Return the store's URL."""
        return f"etcd://{','.join(self.addresses)}"

    def start(self) -> None:
        """Start all members and wait until they serve; blocks."""
        for member in self.members:
            member.start()
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Block until every member serves."""
        deadline_s = time.monotonic() + START_S
        for member in self.members:
            while not member.is_healthy():
                if member.has_ended or time.monotonic() > deadline_s:
                    raise AssertionError(f"{member} does not serve:\n{_tail(member.log)}")
                time.sleep(POLL_S)

    def heal(self) -> None:
        """Start and resume what a test has killed or paused, and wait until all serve; blocks."""
        for member in self.members:
            if member.has_ended:
                member.start()
            else:
                member.resume()
        self.wait_healthy()

    def kill(self) -> None:
        """End all members without warning."""
        for member in self.members:
            member.kill()


@contextmanager
def etcd_cluster(
    program: Path, folder: Path, *options: str, n_members: int = 1, scheme: str = "http"
) -> Iterator[Cluster]:
    """Run a cluster until the block ends; `options` are added to each member's command line."""
    cluster = Cluster(_members(program, folder, options, n_members, scheme))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def _members(
    program: Path, folder: Path, options: Sequence[str], n_members: int, scheme: str
) -> tuple[Member, ...]:
    ports = free_ports(3 * n_members)
    peers = {f"m{n}": f"http://127.0.0.1:{ports[3 * n]}" for n in range(n_members)}
    return tuple(
        _member(program, folder, name, peers, client, health, options, scheme)
        for name, client, health in zip(peers, ports[1::3], ports[2::3], strict=True)
    )


def _member(
    program: Path,
    folder: Path,
    name: str,
    peers: Mapping[str, str],
    client_port: int,
    health_port: int,
    options: Sequence[str],
    scheme: str,
) -> Member:
    address = f"127.0.0.1:{client_port}"
    health_url = f"http://127.0.0.1:{health_port}"
    command = (
        *(str(program), f"--name={name}", f"--data-dir={folder / name}"),
        f"--listen-client-urls={scheme}://{address}",
        f"--advertise-client-urls={scheme}://{address}",
        f"--listen-peer-urls={peers[name]}",
        f"--initial-advertise-peer-urls={peers[name]}",
        f"--initial-cluster={','.join(f'{one}={url}' for one, url in peers.items())}",
        f"--initial-cluster-token={folder.name}",
        f"--listen-metrics-urls={health_url}",
        *("--unsafe-no-fsync", "--log-level=warn"),
        *options,
    )
    return Member(name, address, f"{health_url}/health", command, folder / f"{name}.log")


def _environment() -> dict[str, str]:
    # etcd takes every ETCD_… for an option, and etcdctl's among them for a mistake.
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"


def gateway(address: str, call: str, **fields: object) -> dict[str, Any]:
    """Make a call that the tests alone need, as JSON: `gateway(address, "kv/compaction", …)`."""
    request = urllib.request.Request(
        f"http://{address}/v3/{call}", data=json.dumps(fields).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        read: dict[str, Any] = json.load(answer)
    return read


def encoded(text: bytes) -> str:
    """Return a key or a value as the JSON gateway wants it."""
    return base64.b64encode(text).decode()
