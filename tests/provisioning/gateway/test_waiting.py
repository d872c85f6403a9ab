"""Real nginx: requests that wait for room are served in the order in which they came."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from provisioning.gateway.cli import gateway as command
from tests.provisioning.gateway.nginx import (
    DEADLINE_S,
    MODEL,
    Gateway,
    Listed,
    running_gateway,
    wait_until,
)
from tests.provisioning.gateway.series import wait_total
from tests.provisioning.gateway.servers import Server, running_servers

pytestmark = pytest.mark.slow

ONE_AT_ONCE = {"default": {"rate": 1000, "burst": 1000, "concurrency": 1}}
OTHER = "qwen3:4b"


class Scene:
    """An instance that answers when it is let, behind a gateway of one worker."""

    gateway: Gateway

    def __init__(self, stack: ExitStack, server: Server) -> None:
        self.server, self.is_open = server, threading.Event()
        self.stack = stack
        server.chunks = self._chunks  # type: ignore[method-assign]

    def _chunks(self) -> Iterator[bytes]:
        self.is_open.wait(DEADLINE_S)
        yield b'{"done":true}\n'

    def connect(self) -> HTTPConnection:
        """Return a client of its own connection."""
        client = HTTPConnection(urlsplit(self.gateway.url).netloc, timeout=DEADLINE_S)
        self.stack.callback(client.close)
        return client

    def ask(self, *prompts: str, **more: str) -> Sequence[HTTPConnection]:
        """Send requests one after another, each over a connection of its own."""
        return [send(self.connect(), prompt, **more) for prompt in prompts]

    def prompts(self) -> Sequence[str]:
        """Return what the instance was asked, in this order."""
        return [json.loads(body)["prompt"] for body in self.server.bodies]


def send(client: HTTPConnection, prompt: str, model: str = MODEL, key: str = "") -> HTTPConnection:
    """Send a request; return once the gateway has it, and so lets it wait."""
    body = json.dumps({"model": model, "prompt": prompt, "stream": True})
    client.request("POST", "/api/generate", body, {"Authorization": f"Bearer {key}"})
    wait_until(lambda: 0 == n_unread(client))
    return client


def look_in(client: HTTPConnection) -> HTTPConnection:
    """Ask for what the gateway answers itself."""
    client.request("GET", "/")
    client.getresponse().read()
    return client


def n_unread(client: HTTPConnection) -> int:
    """Return the bytes that the gateway has not read."""
    return int(_gateway_s_end(client)[4].partition(":")[2], 16)


def worker_of(gateway: Gateway, client: HTTPConnection) -> int:
    """Return the process that has the other end of a connection."""
    end = f"socket:[{_gateway_s_end(client)[9]}]"
    return next(worker for worker in gateway.workers() if end in _files(worker))


def _files(process: int) -> Iterator[str]:
    for one in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(one)


def _gateway_s_end(client: HTTPConnection) -> Sequence[str]:
    ends = f":{client.sock.getpeername()[1]:04X}", f":{client.sock.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        row = line.split()
        if ends == (row[1][-5:], row[2][-5:]):
            return row
    raise ConnectionError("the gateway has closed it")


def answered(*clients: HTTPConnection) -> Sequence[tuple[int, str | None]]:
    """Read answers one after another; return each one's status and Retry-After."""
    found = []
    for client in clients:
        answer = client.getresponse()
        answer.read()
        found.append((answer.status, answer.headers["Retry-After"]))
    return found


@contextmanager
def full(folder: Path, *others: Listed, **sections: Any) -> Iterator[Scene]:
    """Run a gateway before an instance of one request at once, and other instances."""
    given: dict[str, Any] = {
        "limits": ONE_AT_ONCE,
        "requests": {"wait": "600s"},
        "nginx": {"workers": 1},
    }
    with running_servers(1) as (server,), ExitStack() as stack:
        scene = Scene(stack, server)
        listed = (Listed(server.port, developer="ann"), *others)
        scene.gateway = stack.enter_context(running_gateway(folder, listed, **given | sections))
        yield scene


def test_requests_are_served_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    """Also those that come just when there is room, over the connection that has made it."""
    prompts = [str(number) for number in range(12)]
    with full(tmp_path) as scene:
        clients = scene.ask(*prompts)
        scene.is_open.set()
        for client in clients:
            assert [(200, None)] == answered(client)
            send(client, f"{len(scene.prompts())} again")
        assert [(200, None)] * 12 == answered(*clients)

        assert prompts == scene.prompts()[:12]
        assert all(prompt.endswith("again") for prompt in scene.prompts()[12:])


def test_clients_that_leave_hold_up_nobody_and_cost_no_instance_anything(tmp_path: Path) -> None:
    """The first of the queue, one in its middle and its last one."""
    with full(tmp_path) as scene:
        clients = scene.ask("0", "1", "2", "3", "4", "5")
        for number in (5, 3, 1):
            clients[number].close()
        wait_total(scene.gateway, 3, "queue_time_seconds_count")
        (late,) = scene.ask("6")
        scene.is_open.set()

        assert [(200, None)] * 4 == answered(*clients[:5:2], late)
        assert ["0", "2", "4", "6"] == scene.prompts()


def test_a_model_without_room_holds_up_no_other_model(tmp_path: Path) -> None:
    with (
        running_servers(1) as (other,),
        full(tmp_path, Listed(other.port, loaded=(OTHER,))) as scene,
    ):
        scene.ask("0", "1")

        assert [(200, None)] * 3 == [answered(*scene.ask("x", model=OTHER))[0] for _ in range(3)]
        assert ["0"] == scene.prompts()


def test_a_request_lets_those_of_other_workers_look_first_and_waits_for_no_hung_one(
    tmp_path: Path,
) -> None:
    with full(tmp_path, nginx={"workers": 2}) as scene:
        clients: dict[int, list[HTTPConnection]] = {one: [] for one in scene.gateway.workers()}
        while min(map(len, clients.values())) < 2:
            client = look_in(scene.connect())
            clients[worker_of(scene.gateway, client)].append(client)
        (ours, *_), (theirs, other, *_) = clients.values()
        send(ours, "0")
        wait_until(scene.prompts)
        send(theirs, "1")
        look_in(other)  # so its worker is done with the one before
        hung = worker_of(scene.gateway, theirs)
        os.kill(hung, signal.SIGSTOP)
        scene.stack.callback(os.kill, hung, signal.SIGCONT)
        scene.is_open.set()
        answered(ours)
        delays_s = []
        for _ in range(10):
            sent_s = time.monotonic()
            assert [(200, None)] == answered(send(ours, "2"))
            delays_s.append(scene.server.times_s[-1] - sent_s)

    assert 0.01 < min(delays_s)


def test_requests_that_wait_too_long_are_refused_and_later_ones_served(tmp_path: Path) -> None:
    with full(tmp_path, requests={"wait": "200ms"}) as scene:
        served, *refused = scene.ask("0", "1", "2", "3")
        assert [(429, "1")] * 3 == answered(*refused)
        scene.is_open.set()
        assert [(200, None)] == answered(served)

        assert [(200, None)] == answered(send(refused[0], "4"))
        assert ["0", "4"] == scene.prompts()


def test_more_requests_than_may_wait_are_refused_at_once(tmp_path: Path) -> None:
    """Those who wait keep their turn."""
    with full(tmp_path, requests={"wait": "600s", "max_waiting": 2}) as scene:
        for _ in range(2):
            scene.is_open.clear()
            clients = scene.ask("0", "1", "2")
            assert [(429, "1")] == answered(*scene.ask("3"))
            scene.is_open.set()
            assert [(200, None)] * 3 == answered(*clients)

        assert ["0", "1", "2"] * 2 == scene.prompts()


def test_a_developer_does_not_wait_where_their_own_instance_has_room(tmp_path: Path) -> None:
    """Ann asks again at once, until she comes before the next look for Bob."""
    keys = str(tmp_path / "keys.json")
    ann, bob = (
        CliRunner().invoke(command, ("keys", "add", "--file", keys, name)).stdout.strip()
        for name in ("ann", "bob")
    )
    with full(tmp_path, sticky=True, keys={"file": keys}) as scene:

        def is_first() -> bool:
            scene.server.bodies.clear()
            scene.is_open.clear()
            hers, his = *scene.ask("0", key=ann), *scene.ask("1", key=bob)
            scene.is_open.set()
            answered(hers)
            answered(send(hers, "2", key=ann), his)
            return ["0", "2", "1"] == scene.prompts()

        wait_until(is_first)
