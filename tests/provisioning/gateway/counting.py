"""Thousands of instances in one nginx that counts what each of them gets, and load from wrk."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from provisioning.gateway.nginx import Nginx
from tests.conftest import program
from tests.ports import free_port
from tests.provisioning.gateway.nginx import MODEL, Listed, ask, nginx_with_lua, wait_until

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
ANSWER = '{"response":"ok","done":true,"eval_count":1,"eval_duration":1000000}'
SCRIPT = """
wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests":%%d,"seconds":%%f,"refused":%%d,"broken":%%d,' ..
    '"p50_ms":%%f,"p99_ms":%%f}\\n', summary.requests, summary.duration / 1e6, e.status,
    e.connect + e.read + e.write + e.timeout, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    refused: int
    """Answers other than 2xx and 3xx."""
    broken: int
    p50_ms: float
    p99_ms: float

    @property
    def answered_per_s(self) -> float:
        """Return how many good answers came each second."""
        return (self.requests - self.refused) / self.seconds


def configuration(port: int, folder: Path, nginx: Nginx, *, answer_s: float) -> str:
    """Return the configuration of a server that is an instance at each loopback address."""
    modules = "\n".join(f"load_module {path};" for path in nginx.modules)
    lua_path = ";".join(f"{path}/?.lua" for path in nginx.lua_dirs)
    cpath = ";".join(f"{path}/?.so" for path in nginx.lua_library_dirs)
    temporary = "\n".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
    return f"""
daemon off;
master_process off; # so that no worker outlives the process that a test kills
pid {folder}/nginx.pid;
worker_rlimit_nofile 60000;
{modules}
events {{ worker_connections 50000; }}
http {{
  {temporary}
  lua_package_path "{lua_path};;";
  lua_package_cpath "{cpath};;";
  access_log off;
  keepalive_requests 10000000;
  init_by_lua_block {{ cjson = require "cjson"; n, now, most = {{}}, {{}}, {{}} }}
  server {{
    listen 0.0.0.0:{port} backlog=8192;
    location = /report {{ content_by_lua_block {{
      ngx.say(cjson.encode({{ n = n, most = most, now = now }}))
    }} }}
    location / {{ content_by_lua_block {{
      local me = ngx.var.server_addr
      ngx.req.read_body()
      n[me] = (n[me] or 0) + 1
      now[me] = (now[me] or 0) + 1
      if now[me] > (most[me] or 0) then most[me] = now[me] end
      if {answer_s} > 0 then ngx.sleep({answer_s} * (0.5 + math.random())) end
      now[me] = now[me] - 1
      ngx.header["Content-Length"] = {len(ANSWER)}
      ngx.print([==[{ANSWER}]==])
    }} }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Counting:
    """A running counting server."""

    port: int
    process: subprocess.Popen[bytes]

    def instances(self, n: int, *, first: int = 0) -> list[Listed]:
        """Return n instances, each at an address of its own."""
        return [Listed(self.port, address(number)) for number in range(first, first + n)]

    def report(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the requests of each address, and how many it had at once at most."""
        report = json.loads(ask(f"http://127.0.0.1:{self.port}/report")[2])
        return dict(report["n"]), dict(report["most"])


def address(number: int) -> str:
    """Return a loopback address for each number below 60,000."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


@contextmanager
def counting_server(folder: Path, *, answer_s: float = 0.0) -> Iterator[Counting]:
    """Run one until the block ends."""
    folder.mkdir()
    nginx, port = nginx_with_lua(), free_port()
    config = folder / "nginx.conf"
    config.write_text(configuration(port, folder, nginx, answer_s=answer_s))
    command = (str(nginx.binary), "-e", "stderr", "-p", str(folder), "-c", str(config))
    with (folder / "error.log").open("wb") as log:
        process = subprocess.Popen(command, env=nginx.environ(), stderr=log)
    try:
        wait_until(lambda: _answers(port))
        yield Counting(port, process)
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}/report")[0] == 200
    except OSError:
        return False


class Wrk:
    """A load that runs in the background."""

    def __init__(
        self, url: str, folder: Path, *, connections: int, seconds: int, threads: int = 1
    ) -> None:
        script = folder / "load.lua"
        script.write_text(SCRIPT % json.dumps({"model": MODEL, "prompt": "x", "stream": False}))
        self._command = (
            *(str(program("wrk")), f"-t{threads}", f"-c{connections}", f"-d{seconds}s"),
            *("--timeout", "30s", "-s", str(script), f"{url}/api/generate"),
        )
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stopped(self) -> Load:
        """End the load, and return what it saw."""
        while self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # lost on a program that does not sleep yet
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        return self.result()

    def result(self) -> Load:
        """Return what it saw, when it has ended."""
        output, _ = self._process.communicate()
        (line,) = (x for x in output.decode().splitlines() if x.startswith("RESULT "))
        return Load(**json.loads(line.removeprefix("RESULT ")))


def load(url: str, folder: Path, *, connections: int, seconds: int, threads: int = 1) -> Load:
    """Send requests for some seconds, and return what came of them."""
    with Wrk(url, folder, connections=connections, seconds=seconds, threads=threads) as wrk:
        return wrk.result()


def excess(
    counts: Sequence[int], *, seconds: float, rate: float = 1.0, burst: int = 2
) -> list[int]:
    """Return the counts that are more than a limit lets through."""
    return [count for count in counts if count > burst + rate * seconds]
