"""Measure how many requests the gateway passes on, beside a plain nginx that takes servers in turn.

One nginx with a fixed answer stands for all instances; load, proxy and instances share the machine,
so the ratio of the CPU time per request is given too. Both proxies have as many workers,
connections and kept connections, and take turns, so that a machine under load slows both.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import procfs
from bench.bench import Bench
from bench.figures import Finding
from bench.nginx import HEALTH_PATH, find, running_nginx
from provisioning.demo.errors import DemoError, ProgramError
from provisioning.gateway.nginx import Nginx
from tests.ports import free_port
from tests.provisioning.gateway.counting import ANSWER, TEMPORARY, Load, address, load
from tests.provisioning.gateway.nginx import (
    Listed,
    nginx_with_lua,
    running_gateway,
    wait_until,
)

N_FEW = 100
N_ROUNDS = 3
SECONDS = 5
N_CLIENTS = 100
N_WORKERS, N_CONNECTIONS, N_IDLE = 2, 16_384, 8192
UNLIMITED = {"default": {"rate": 10_000, "burst": 10_000, "concurrency": 200}}
LIMIT_RATIO = 0.6


@dataclass(frozen=True, slots=True)
class Passed:
    """What a proxy did in one round."""

    load: Load
    cpu_s: float

    @property
    def cpu_us_each(self) -> float:
        """Return its workers' CPU time for each request."""
        return 1e6 * self.cpu_s / self.load.requests


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    url: str
    master: int

    def workers(self) -> Sequence[int]:
        """Return the processes that pass requests on."""
        path = Path(f"/proc/{self.master}/task/{self.master}/children")
        return [int(pid) for pid in path.read_text().split()]

    def pass_on(self, folder: Path) -> Passed:
        """Send it requests for some seconds."""
        before = sum(procfs.cpu(pid).total_s for pid in self.workers())
        seen = load(self.url, folder, connections=N_CLIENTS, seconds=SECONDS)
        return Passed(seen, sum(procfs.cpu(pid).total_s for pid in self.workers()) - before)


async def measure_gateway(bench: Bench) -> list[Finding]:
    """Compare both with few instances and with the fleet's size."""
    try:
        await asyncio.to_thread(find, "wrk", bench.say)
        nginx = await asyncio.to_thread(nginx_with_lua)
    except DemoError as error:
        return [f"gateway: left out: {error}"]
    texts = {HEALTH_PATH: "ok", "/api/generate": ANSWER}
    async with running_nginx(bench, nginx.binary, texts) as servers:
        return [
            await asyncio.to_thread(_compare, bench, nginx, servers.port, n)
            for n in dict.fromkeys((N_FEW, bench.n_instances))
        ]


def _compare(bench: Bench, nginx: Nginx, port: int, n: int) -> str:
    bench.say(f"the gateway and plain nginx in front of {n:,} instances: {2 * N_ROUNDS} rounds")
    folder = bench.run_dir / f"gateway-{n}"
    folder.mkdir()
    instances = [Listed(port, address(number)) for number in range(n)]
    with _plain(folder, nginx, instances) as plain, _gateway(folder, instances) as gateway:
        rounds = [(gateway.pass_on(folder), plain.pass_on(folder)) for _ in range(N_ROUNDS)]
    return words(n, [ours for ours, _ in rounds], [theirs for _, theirs in rounds])


def words(n: int, ours: Sequence[Passed], theirs: Sequence[Passed]) -> str:
    """Say how both did: medians of their rounds."""
    rate, plain_rate = (
        statistics.median(one.load.answered_per_s for one in rounds) for rounds in (ours, theirs)
    )
    cpu, plain_cpu = (
        statistics.median(one.cpu_us_each for one in rounds) for rounds in (ours, theirs)
    )
    n_failed = sum(one.load.refused + one.load.broken for one in (*ours, *theirs))
    return (
        f"gateway, {n:,} instances: {rate:,.0f} requests/s, {rate / plain_rate:.2f} times the "
        f"{plain_rate:,.0f} of plain nginx (at least {LIMIT_RATIO}); {cpu:.0f} µs of CPU for each, "
        f"{cpu / plain_cpu:.1f} times its {plain_cpu:.0f} µs; {n_failed} failed"
    )


@contextmanager
def _gateway(folder: Path, instances: Sequence[Listed]) -> Iterator[Proxy]:
    sizes = {"workers": N_WORKERS, "connections": N_CONNECTIONS, "idle_connections": N_IDLE}
    with running_gateway(folder, instances, limits=UNLIMITED, nginx=sizes) as running:
        yield Proxy(running.url, running.process.pid)


@contextmanager
def _plain(folder: Path, nginx: Nginx, instances: Sequence[Listed]) -> Iterator[Proxy]:
    port, config = free_port(), folder / "plain.conf"
    config.write_text(_configuration(folder, port, instances))
    command = (str(nginx.binary), "-e", "stderr", "-p", str(folder), "-c", str(config))
    process = subprocess.Popen(command, env=nginx.environ())
    proxy = Proxy(f"http://127.0.0.1:{port}", process.pid)
    try:
        wait_until(lambda: process.poll() is not None or len(proxy.workers()) == N_WORKERS)
        if process.poll() is not None:
            raise ProgramError(f"nginx ended with {process.returncode}")
        yield proxy
    finally:
        process.terminate()
        process.wait()


def _configuration(folder: Path, port: int, instances: Sequence[Listed]) -> str:
    servers = "\n".join(f"    server {one.address}:{one.port};" for one in instances)
    temporary = "\n".join(f"  {name}_temp_path {folder}/plain-{name};" for name in TEMPORARY)
    return f"""daemon off;
worker_processes {N_WORKERS};
pid {folder}/plain.pid;
error_log stderr crit;
worker_rlimit_nofile {N_CONNECTIONS + 100};
events {{ worker_connections {N_CONNECTIONS}; }}
http {{
{temporary}
  access_log off;
  keepalive_requests 100000;
  upstream fleet {{
{servers}
    keepalive {N_IDLE};
    keepalive_timeout 4s;
  }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    location / {{
      proxy_pass http://fleet;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
