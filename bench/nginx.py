"""Real nginx with fixed answers, to hold others against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.bench import FIRST_PORT, Bench
from provisioning.demo.ports import EVERY_ADDRESS, Wanted
from provisioning.demo.processes import Children, ChildSpec
from tests import programs

N_CONNECTIONS = 16_000
HEALTH_PATH = "/health"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class RunningNginx:
    """Where it listens, and its one process."""

    pid: int
    port: int


def find(name: str, say: Callable[[str], None]) -> Path:
    """Return the path of a program that runs beside ours.

    Raises:
        ProgramError: It is neither installed nor can it be fetched.
    """
    return programs.locate(name, say=say)


@asynccontextmanager
async def running_nginx(
    bench: Bench, binary: Path, texts: Mapping[str, str]
) -> AsyncIterator[RunningNginx]:
    """Run nginx until the block ends; HEALTH_PATH must be among the texts."""
    port = bench.ports.take(Wanted("nginx", FIRST_PORT, host=EVERY_ADDRESS))
    config = bench.run_dir / "nginx.conf"
    config.write_text(configuration(port, texts, bench.run_dir))
    command = (str(binary), "-p", str(bench.run_dir), "-e", "stderr", "-c", str(config))
    spec = ChildSpec("nginx", command, f"http://127.0.0.1:{port}{HEALTH_PATH}")
    async with Children(bench.run_dir) as children:
        await children.start(spec)
        yield RunningNginx(children.pids[spec.name], port)


def configuration(port: int, texts: Mapping[str, str], run_dir: Path) -> str:
    """Return nginx.conf; texts hold neither quotes of the `'` kind, dollars nor backslashes."""
    locations = "\n".join(
        f"    location = {path} {{ return 200 '{text}'; }}" for path, text in texts.items()
    )
    temporary = "\n".join(f"  {name}_temp_path {run_dir}/nginx-{name};" for name in TEMPORARY)
    return f"""daemon off;
master_process off;
pid {run_dir}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile {N_CONNECTIONS + 100};
events {{ worker_connections {N_CONNECTIONS}; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_timeout 120s;
  keepalive_requests 10000000;
{temporary}
  server {{
    listen {port} backlog=4096;
    # One process stands for instances at many addresses; none of them is of another machine.
    allow 127.0.0.0/8;
    deny all;
{locations}
  }}
}}
"""
