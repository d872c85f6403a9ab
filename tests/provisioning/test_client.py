"""One client of several provisioners: failover, deadlines, what it sends and what it says."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trustme

from provisioning import client as client_module
from provisioning.api.routes import AGE_HEADER, NOT_LEADING
from provisioning.client import (
    Client,
    ClientError,
    Limits,
    RequestRefusedError,
    UnreachableError,
    checked_url,
    etag_of,
)
from provisioning.model import Fleet
from provisioning.spec.document import encode_fleet
from tests.ports import free_port
from tests.provisioning.api.board import FLEET
from tests.provisioning.api.served import Served
from tests.waiting import eventually

TOKEN = "t" * 32
SHORT = Limits(failover_s=0.3, silence_s=60.0, unreachable_s=0.4, deadline_s=0.6, pause_s=0.1)
PLAN = {"base_version": 1, "pools": [], "nodes": []}


@dataclass
class Reply:
    """What a stand-in answers; a wait lets it hang first."""

    status: int = 200
    body: bytes = b"[]"
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


@dataclass
class Seen:
    """A request that arrived."""

    line: str
    token: str | None
    if_match: str | None
    body: bytes


class StandIn:
    """A server in the place of a provisioner; answers its health, and the rest from a list."""

    def __init__(
        self, replies: list[Reply], *, is_hanging: bool = False, is_broken: bool = False
    ) -> None:
        self.replies = replies
        self.is_hanging = is_hanging
        self.is_broken = is_broken
        """It closes each connection without an answer."""
        self.seen: list[Seen] = []
        self.n_arrived = 0
        """Requests, those without an answer included."""
        self.ended = threading.Event()
        self.url = ""

    @contextmanager
    def serving(self, tls: ssl.SSLContext | None = None) -> Iterator[StandIn]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            self.ended.set()
            server.shutdown()
            thread.join()
            server.server_close()

    def next_reply(self) -> Reply:
        """Return the next reply; the last one stays."""
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            stand_in.n_arrived += 1
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if stand_in.is_broken:
                self.close_connection = True
                return
            if stand_in.is_hanging:
                stand_in.ended.wait(600)
            reply = Reply(body=b"ok") if self.path == "/-/healthy" else self.taken(body)
            stand_in.ended.wait(reply.wait_s)
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": len(reply.body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(reply.body)

        def taken(self, body: bytes) -> Reply:
            headers = self.headers
            line = f"{self.command} {self.path}"
            seen = Seen(line, headers.get("Authorization"), headers.get("If-Match"), body)
            stand_in.seen.append(seen)
            return stand_in.next_reply()

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def problem(status: int = 503, detail: str = "no", **others: Any) -> Reply:
    document = {"type": "about:blank", "title": "No", "status": status, "detail": detail, **others}
    return Reply(status, json.dumps(document).encode())


STANDBY = problem(detail="stands by; ask the leader, http://leader", type=NOT_LEADING)
UNREADY = problem(detail="nothing is known yet")
INSTANCE = Reply(
    202,
    msgspec.json.encode(
        {
            "id": "a",
            "url": "",
            "node": "n",
            "state": "running",
            "pool": "p",
            "port": 1,
            "phase": "running",
            "phase_since_s": 0.0,
            "generation": 1,
            "workload": "w",
            "history": [],
        }
    ),
)
Serve = Callable[..., StandIn]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def started(*replies: Reply, **how: Any) -> StandIn:
            return stack.enter_context(StandIn(list(replies), **how).serving())

        yield started


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def client_of(*servers: StandIn | str, limits: Limits = SHORT, **how: Any) -> Client:
    urls = [one if isinstance(one, str) else one.url for one in servers]
    return Client(urls, lambda: TOKEN, limits=limits, **how)


def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


# Against the real API


def scaled(count: int) -> Fleet:
    pool = FLEET.pools[0].replace(count=count)
    return FLEET.replace(pools=(pool, FLEET.pools[1]))


def test_every_call_is_one_of_the_api(served: Served) -> None:
    with Client([served.url], lambda: served.token) as client:
        chosen = client.instances({"pool": ["tiny"], "phase": ["running", "stopping"]})
        active = client.spec()
        assert active is not None
        plan = client.plan(scaled(5))
        client.apply(scaled(5), plan=plan)

        assert ["tiny-00001", "tiny-00002"] == [one.id for one in chosen]
        assert (FLEET, etag_of(plan)) == active
        assert (1, ()) == (plan.pools[0].n_created, client.plan(scaled(5)).pools[0].changes)
        assert "llama-00001" == client.instance("llama-00001").id
        assert "bob" == client.assign("llama-00002", "bob").developer
        assert "" == client.release("llama-00002").developer
        assert client.replace("llama-00002").is_replace_asked
        assert "draining" == client.drain("llama-00001").phase
        assert ["n1", "n2"] == [node.name for node in client.nodes()]
        assert [] == client.orphans()


def test_a_change_of_an_old_specification_is_refused(served: Served) -> None:
    with Client([served.url], lambda: served.token) as client:
        plan = client.plan(scaled(5))
        client.scale("llama", 6, etag=etag_of(plan))

        with pytest.raises(RequestRefusedError) as applied:
            client.apply(scaled(5), plan=plan)
        with pytest.raises(RequestRefusedError) as again:
            client.scale("llama", 7, etag=etag_of(plan))

    assert (412, 412) == (applied.value.status, again.value.status)


def test_an_id_is_one_segment_of_the_path_whatever_is_in_it(serve: Serve) -> None:
    server = serve(problem(404))
    with client_of(server) as client:
        for id_ in ("a/b", "../x", "", "a?b#c"):
            with pytest.raises(RequestRefusedError):
                client.instance(id_)

    assert [
        *("GET /instances/a%2Fb", "GET /instances/..%2Fx"),
        *("GET /instances/%20", "GET /instances/a%3Fb%23c"),
    ] == [one.line for one in server.seen]


# Failover


def test_the_next_address_is_asked_when_one_refuses_hangs_or_cannot_answer(serve: Serve) -> None:
    """A gateway, a standby and one that reads its store cannot."""
    hanging, good = serve(Reply(), is_hanging=True), serve(Reply())
    others = [serve(Reply(502)), serve(STANDBY), serve(UNREADY)]

    with client_of(nobody(), hanging, *others, good) as client:
        assert [] == client.nodes()

    assert [1, 1, 1, 1] == [len(one.seen) for one in (*others, good)]


def test_an_address_that_fails_is_asked_last_from_then_on(serve: Serve) -> None:
    broken, good = serve(Reply(), is_broken=True), serve(Reply())
    with client_of(broken, good, limits=Limits(failover_s=60.0)) as client:
        for _ in range(3):
            client.nodes()

    assert (1, 3) == (broken.n_arrived, len(good.seen))


def test_the_last_address_may_be_slow(serve: Serve) -> None:
    with client_of(nobody(), serve(Reply(wait_s=1.0))) as client:
        assert [] == client.nodes()


def test_a_change_goes_to_the_leader_alone(serve: Serve) -> None:
    hanging, standby = serve(Reply(), is_hanging=True), serve(STANDBY)
    leader = serve(INSTANCE)

    with client_of(nobody(), hanging, standby, leader) as client:
        assert "a" == client.drain("a").id

    assert [] == hanging.seen
    (sent,) = leader.seen
    assert ("POST /instances/a/drain", f"Bearer {TOKEN}") == (sent.line, sent.token)


def test_a_change_waits_for_a_leader_and_says_so_once(serve: Serve) -> None:
    lines: list[str] = []
    limits = Limits(pause_s=0.1)
    with client_of(serve(STANDBY, STANDBY, INSTANCE), limits=limits, notify=lines.append) as client:
        client.drain("a")

    assert ["waiting for a provisioner that leads and is ready"] == lines


def test_a_call_ends_at_its_deadline_and_says_what_each_address_did(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on only while the client sleeps."""
    now_s = 0.0

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s

    clock = {"sleep": sleep, "monotonic": lambda: now_s}
    monkeypatch.setattr(client_module, "time", SimpleNamespace(**vars(time) | clock))
    standby, dead = serve(STANDBY), nobody()
    limits = Limits(deadline_s=0.6, pause_s=0.1)

    with client_of(standby, dead, limits=limits) as client:
        with pytest.raises(UnreachableError) as caught:
            client.drain("a")

    assert 5 < len(standby.seen) < 9
    assert (
        f"cannot drain a: {standby.url}: stands by; ask the leader, http://leader; "
        f"{dead}: no connection; waited 0.6 s"
    ) == str(caught.value)


def test_where_nobody_answers_it_says_which_setting_to_check() -> None:
    dead = nobody()

    with client_of(dead) as client, pytest.raises(UnreachableError) as caught:
        client.nodes()

    assert (
        f"cannot list nodes: {dead}: no connection; check that a provisioner runs there and that "
        "--provisioner.url is right"
    ) == str(caught.value)


@pytest.mark.parametrize("reply", [Reply(502), Reply(wait_s=600.0), Reply(200, b"<html>"), UNREADY])
def test_a_change_that_may_have_been_made_is_not_sent_again(serve: Serve, reply: Reply) -> None:
    first, second = serve(reply), serve(INSTANCE)
    limits = Limits(silence_s=0.3 if reply.wait_s else 60.0, failover_s=60.0)

    with client_of(first, second, limits=limits) as client, pytest.raises(ClientError) as caught:
        client.drain("a")

    asyncio.run(eventually(lambda: first.seen))
    assert (1, 0) == (len(first.seen), len(second.seen))
    if reply.status == 502 or reply.wait_s:
        assert "the change may have been made: check before you try again" in str(caught.value)


# What it accepts and says


@pytest.mark.parametrize("reply", [Reply(404), Reply(302, headers={"Location": "/elsewhere"})])
def test_a_server_that_is_no_provisioner_is_not_one_without_a_specification(
    serve: Serve, reply: Reply
) -> None:
    server = serve(reply)
    with client_of(server) as client, pytest.raises(UnreachableError, match="not an answer of a"):
        client.spec()

    assert 1 == len(server.seen)


def test_a_fleet_without_a_specification_has_none(serve: Serve) -> None:
    with client_of(serve(problem(404), problem(400))) as client:
        assert client.spec() is None
        with pytest.raises(RequestRefusedError, match="cannot read the specification at http://"):
            client.spec()


@pytest.mark.parametrize("body", [b"<html>", b'{"a": 1}', b"\xff"])
def test_an_answer_of_another_form_is_refused(serve: Serve, body: bytes) -> None:
    with client_of(serve(Reply(body=body))) as client:
        with pytest.raises(UnreachableError, match="does not answer as a provisioner of this rel"):
            client.instances()


def test_an_answer_is_bounded_in_size_and_time(serve: Serve) -> None:
    small = Limits(body_bytes=100, unreachable_s=0.1)
    with client_of(serve(Reply(body=b"x" * 101)), limits=small) as client:
        with pytest.raises(UnreachableError, match="more than 100 bytes"):
            client.nodes()
    short = Limits(answer_s=0.0, unreachable_s=0.1)
    with client_of(serve(Reply()), limits=short) as client:
        with pytest.raises(UnreachableError, match="no whole answer in 0 s"):
            client.nodes()


def test_a_refusal_carries_its_problems_and_cannot_move_the_cursor(serve: Serve) -> None:
    server = serve(problem(422, "bad\x1b[2J\nline", problems=["a", "b"]))
    with client_of(server) as client, pytest.raises(RequestRefusedError) as caught:
        client.plan(FLEET)

    assert (422, ("a", "b")) == (caught.value.status, caught.value.problems)
    assert f"cannot plan at {server.url}: bad [2J\nline" == str(caught.value)


def test_a_refused_token_names_the_option_and_is_in_no_message(serve: Serve) -> None:
    with client_of(serve(problem(401))) as client, pytest.raises(RequestRefusedError) as caught:
        client.drain("a")

    assert str(caught.value).endswith("token file with --provisioner.token-file")
    assert TOKEN not in str(caught.value)


def test_a_weakened_etag_names_its_version(serve: Serve) -> None:
    """As a reverse proxy that compresses answers makes it."""
    spec = Reply(body=encode_fleet(FLEET).encode(), headers={"ETag": 'W/"7"'})
    server = serve(spec, Reply(404))
    with client_of(server) as client:
        active = client.spec()
        assert active is not None
        with pytest.raises(UnreachableError):
            client.scale("llama", 1, etag=active.etag)

    assert '"7"' == server.seen[-1].if_match


@pytest.mark.parametrize(("age", "n_lines"), [("9.9", 0), ("34", 1), ("x", 0)])
def test_a_stale_answer_is_announced_once(serve: Serve, age: str, n_lines: int) -> None:
    lines: list[str] = []
    server = serve(Reply(headers={AGE_HEADER: age}))
    with client_of(server, notify=lines.append) as client:
        client.instances()
        client.instances()

    expected = f"this answer is 34 s old: the provisioner at {server.url} has lost its store"
    assert [expected] * n_lines == lines


# Secrets and addresses


def test_the_token_is_sent_only_where_it_is_needed_and_no_password_of_netrc(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(Reply(), Reply(), problem(404))
    with client_of(server) as client:
        client.instances()
        client.nodes()
        client.spec()

    assert [None, None, f"Bearer {TOKEN}"] == [one.token for one in server.seen]


def test_the_environments_proxies_get_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(Reply()), serve(Reply())
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    with client_of(server) as client:
        client.nodes()

    assert (0, 1) == (len(proxy.seen), len(server.seen))


def test_a_server_is_verified_with_the_ca_file(tmp_path: Path) -> None:
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with StandIn([Reply()]).serving(context) as server:
        with client_of(server, ca_file=ca_file) as client:
            assert [] == client.nodes()
        with client_of(server) as client:
            with pytest.raises(UnreachableError, match=r"give its CA with --provisioner\.ca-file"):
                client.nodes()


@pytest.mark.parametrize(
    "url",
    [
        *("", "one:8080", "ftp://one", "http://", "http://one:0", "http://one:x", "http://[::1"),
        *("http://o ne", "http://one/\n", "http://one?x=1", "http://one/#x"),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match=r"^--provisioner\.url (must|is not)"):
        checked_url(url)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ClientError, match="must not hold a user or password") as caught:
        checked_url("http://ann:secret@one:8080")

    assert "secret" not in str(caught.value)
    assert "http://one:8080" == checked_url("http://one:8080/")
