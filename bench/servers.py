"""Hold the simulator against nginx with fixed answers: CPU time per request, same client."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

from bench import procfs
from bench.bench import Bench, BenchError
from bench.fleet import SimulatedFleet, addresses
from bench.nginx import find, running_nginx
from bench.page import fetch
from provisioning.demo.errors import ProgramError

PATHS = ("/health", "/api/metrics")
PAIR = b"".join(f"GET {path} HTTP/1.1\r\nHost: instance\r\n\r\n".encode() for path in PATHS)
N_CONNECTIONS = 200
N_ROUNDS = 200
TIMEOUT_S = 10.0
CHUNK_BYTES = 65_536
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
END_OF_HEAD = b"\r\n\r\n"


async def measure_servers(bench: Bench, fleet: SimulatedFleet) -> list[str]:
    """Send the same pairs of pipelined requests to the simulator and to nginx."""
    try:
        binary = await asyncio.to_thread(find, "nginx", bench.say)
    except ProgramError as error:
        return [f"simulator against nginx: left out: {error}"]
    bench.say("simulator against nginx")
    hosts = [urlsplit(url).hostname or "" for _, url in addresses(fleet.inventory)]
    hosts = hosts[:N_CONNECTIONS]
    texts = {path: _text(hosts[0], fleet.port, path) for path in PATHS}
    simulator_s = await _cpu_per_request_s(fleet.pid, hosts, fleet.port)
    async with running_nginx(bench, binary, texts) as nginx:
        nginx_s = await _cpu_per_request_s(nginx.pid, hosts, nginx.port)
    return [words(simulator_s, nginx_s)]


def words(simulator_s: float, nginx_s: float) -> str:
    """Say what a request costs either server."""
    ratio = f", {simulator_s / nginx_s:.1f}x" if nginx_s else ""
    return (
        f"simulator: {simulator_s * 1e6:.1f} µs of CPU per request (pipelined pairs, all figures); "
        f"nginx with the same answers, fixed: {nginx_s * 1e6:.1f} µs{ratio}"
    )


def _text(host: str, port: int, path: str) -> str:
    return fetch(port, path, host=host).body.decode()


async def _cpu_per_request_s(pid: int, hosts: Sequence[str], port: int) -> float:
    before = procfs.cpu(pid)
    await asyncio.to_thread(ask_pairs, hosts, port, n_rounds=N_ROUNDS)
    used = procfs.cpu(pid) - before
    return used.total_s / (len(hosts) * N_ROUNDS * len(PATHS))


def ask_pairs(hosts: Iterable[str], port: int, *, n_rounds: int) -> None:
    """Send the pair on each host's connection, read the answers, and again.

    Raises:
        OSError: A host does not answer.
        BenchError: It closes the connection.
    """
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection((host, port), timeout=TIMEOUT_S))
            for host in hosts
        ]
        for _ in range(n_rounds):
            for connection in connections:
                connection.sendall(PAIR)
            for connection in connections:
                _read_pair(connection)


def _read_pair(connection: socket.socket) -> None:
    received = b""
    while count_answers(received) < len(PATHS):
        chunk = connection.recv(CHUNK_BYTES)
        if not chunk:
            raise BenchError(f"{connection.getpeername()} closed after {received!r}")
        received += chunk


def count_answers(received: bytes) -> int:
    """Return how many whole answers with a Content-Length there are."""
    count, position = 0, 0
    while (head_end := received.find(END_OF_HEAD, position)) >= 0:
        length = LENGTH.search(received, position, head_end)
        if length is None:
            raise BenchError(f"an answer without Content-Length: {received[position:head_end]!r}")
        position = head_end + len(END_OF_HEAD) + int(length[1])
        if position > len(received):
            break
        count += 1
    return count
