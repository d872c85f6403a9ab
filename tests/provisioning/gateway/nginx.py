"""A real gateway for tests: nginx with rendered configuration, and a source of its list."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from provisioning.demo import programs
from provisioning.gateway.nginx import Nginx
from provisioning.gateway.render import CONF_FILE, render
from provisioning.gateway.settings import Settings
from tests.ports import free_port

DEADLINE_S = 100.0
MODEL = "llama3.1:8b"


@dataclass(frozen=True, slots=True)
class Listed:
    """An instance as the list has it."""

    port: int
    address: str = "127.0.0.1"
    id: str = ""
    engine: str = "ollama"
    loaded: Sequence[str] = (MODEL,)
    installed: Sequence[str] = ()
    developer: str = ""
    node: str = "n1"


def upstreams(instances: Sequence[Listed], *further_models: str) -> bytes:
    """Return the list as the exporter serves it; no instance has the further models."""
    models = sorted({m for one in instances for m in (*one.loaded, *one.installed)})
    models += further_models
    nodes = sorted({one.node for one in instances})
    rows = [
        [
            one.id or f"{one.address}:{one.port}",
            one.address,
            one.port,
            nodes.index(one.node),
            one.engine,
            [models.index(m) for m in one.loaded],
            [models.index(m) for m in one.installed],
            one.developer,
        ]
        for one in instances
    ]
    return json.dumps({"format": 1, "models": models, "nodes": nodes, "instances": rows}).encode()


class Source:
    """Serves the list, or whatever else a test wants the gateway to read."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.status = 200
        self.pause_s = 0.0
        self.n_read = 0
        self.left = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.n_read += 1
                outer.left.wait(outer.pause_s)
                tag = f'"{hash(outer.body)}"'
                is_same = self.headers["If-None-Match"] == tag
                self.send_response(304 if is_same else outer.status)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(0 if is_same else len(outer.body)))
                self.end_headers()
                if not is_same:
                    self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/upstreams"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Source:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.left.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_read(self) -> None:
        """Return when the gateway has used what is served now."""
        before = self.n_read
        wait_until(lambda: self.n_read >= before + 2)


@dataclass
class Gateway:
    """A running nginx."""

    url: str
    ops_url: str
    folder: Path
    process: subprocess.Popen[bytes]
    source: Source
    log: Path
    nginx: Nginx
    settings: Mapping[str, Any] = field(default_factory=dict)

    def ask(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of an answer."""
        return ask(self.url + path, body, headers)

    def use(self, instances: Sequence[Listed]) -> None:
        """Let every worker of the gateway use another list."""
        mark = f"list-{self.source.n_read}"
        self.source.body = upstreams(instances, mark)
        # The kernel chooses the worker of each connection: this many in a row reach all of them.
        wait_until(lambda: all(mark in self.models() for _ in range(30)))

    def models(self) -> list[str]:
        """Return the models that the worker knows which is asked."""
        return [one["id"] for one in json.loads(self.ask("/v1/models")[2])["data"]]

    def reload(self) -> None:
        """Let new workers take over."""
        self.process.send_signal(signal.SIGHUP)

    def workers(self) -> list[int]:
        """Return the processes of the workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def wait_ready(self) -> None:
        """Return when the gateway has instances."""
        wait_until(lambda: self.process.poll() or _status(self.ops_url + "/healthz") == 200)
        assert self.process.poll() is None, self.log.read_text()


def ask(
    url: str, body: object = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers and body of an answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def _status(url: str) -> int:
    try:
        return ask(url)[0]
    except OSError:
        return 0


def wait_until(condition: Any) -> None:
    """Return once a condition is true; fail after a while."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "not true in time"
        time.sleep(0.02)


def nginx_with_lua() -> Nginx:
    """Return the nginx that tests run; its packages are fetched if they are missing."""
    return programs.locate_gateway(programs.default_dir(os.environ), say=print)


@contextmanager
def running_gateway(
    folder: Path, instances: Sequence[Listed], *, is_ready: bool = True, **sections: Any
) -> Iterator[Gateway]:
    """Run a gateway in front of these instances; sections are those of the settings file."""
    with Source(upstreams(instances)) as source:
        with running_nginx(folder, source, **sections) as gateway:
            if is_ready:
                gateway.wait_ready()
            yield gateway


@contextmanager
def running_nginx(folder: Path, source: Source, **sections: Any) -> Iterator[Gateway]:
    """Run nginx with a source that runs already."""
    state = folder / "state"
    state.mkdir(exist_ok=True)
    listen = {
        "address": f"127.0.0.1:{free_port()}",
        "ops_address": f"127.0.0.1:{free_port()}",
        **sections.pop("listen", {}),
    }
    user = pwd.getpwuid(os.geteuid()).pw_name
    of_nginx = {"user": user, "state_dir": str(state), "workers": 2}
    given = {
        "listen": listen,
        "upstreams": {"sources": [source.url], "refresh": "100ms", "timeout": "60s"},
        **sections,
        "nginx": of_nginx | sections.get("nginx", {}),
    }
    found = nginx_with_lua()
    render(Settings.model_validate(given), found, folder)
    log = folder / "error.log"
    command = (str(found.binary), "-e", "stderr", "-p", str(folder), "-c", str(folder / CONF_FILE))
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, env=found.environ(), stderr=stderr, cwd=folder)
    scheme = "https" if listen.get("tls_certificate") else "http"
    try:
        yield Gateway(
            url=f"{scheme}://{listen['address']}",
            ops_url=f"http://{listen['ops_address']}",
            folder=folder,
            process=process,
            source=source,
            log=log,
            nginx=found,
            settings=given,
        )
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
