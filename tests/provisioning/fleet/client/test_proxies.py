"""A proxy of the environment gets neither token nor specification, and is named where it fails."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from provisioning.fleet.client.client import Client
from provisioning.fleet.client.errors import ClientError, UnreachableError
from provisioning.fleet.client.proxies import proxy_of
from provisioning.fleet.client.transport import Transport
from tests.ports import free_ports
from tests.provisioning.fleet.api.board import FLEET
from tests.provisioning.fleet.api.served import Served

TOKEN = "t" * 32
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TUNNELLING = b"HTTP/1.1 200 Tunnelling\r\n\r\n"


class Proxy:
    """Hears what it is sent; passes on to a port of this machine, or refuses to."""

    def __init__(self) -> None:
        self.heard = b""
        self.to_port: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                with client:
                    self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        self.heard += client.recv(2**16)
        if self.to_port is None:
            client.sendall(FORBIDDEN)
            return
        with socket.create_connection(("127.0.0.1", self.to_port)) as server:
            client.sendall(TUNNELLING)
            back = threading.Thread(target=_pass_on, args=(server, client))
            back.start()
            self.heard += _pass_on(client, server)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> bytes:
    """Pass on what comes until no more does; return it."""
    passed = b""
    with suppress(OSError):
        while piece := source.recv(2**16):
            passed += piece
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    return passed


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


@pytest.fixture(autouse=True)
def _environment(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://ann:secret@{proxy.address}")


def test_what_is_on_this_machine_goes_through_no_proxy(proxy: Proxy, tmp_path: Path) -> None:
    with Served(tmp_path) as served, Transport([served.url], lambda: served.token) as transport:
        client = Client(transport)
        client.apply(FLEET, plan=client.plan(FLEET))

    assert b"" == proxy.heard


def test_what_goes_in_clear_goes_through_no_proxy_which_is_said(proxy: Proxy) -> None:
    """The address is this machine's, but does not look like it."""
    (port,) = free_ports(1)
    url = f"http://0.0.0.0:{port}"

    with Transport([url], lambda: TOKEN) as transport, pytest.raises(UnreachableError) as caught:
        transport.write("PUT", "/spec", doing="apply", body=b"secret")

    assert f"{url}: no connection (plain http goes through no proxy); " in str(caught.value)
    assert b"" == proxy.heard


@pytest.mark.parametrize(
    ("url", "is_through"),
    [
        ("https://provisioner.example:8443", True),
        ("http://provisioner.example:8080", False),
        ("https://127.0.0.1:8443", False),
        ("https://[::1]:8443", False),
        ("https://localhost:8443", False),
        ("https://near.example", False),
    ],
)
def test_only_what_is_encrypted_and_elsewhere_goes_through_a_proxy(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, url: str, *, is_through: bool
) -> None:
    monkeypatch.setenv("no_proxy", "near.example")

    assert (f"http://ann:secret@{proxy.address}" if is_through else None) == proxy_of(url)


def test_a_proxy_passes_on_what_it_cannot_read(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provisioner's authority is the environment's, too."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))

    with _provisioner(authority, "provisioner.example") as port:
        proxy.to_port = port
        with Transport(["https://provisioner.example:8443"], lambda: TOKEN) as transport:
            answer = transport.read("/x", doing="look", is_private=True)

    assert f"Bearer {TOKEN}".encode() == answer.body
    assert proxy.heard.startswith(b"CONNECT provisioner.example:8443 HTTP/1.")
    assert TOKEN.encode() not in proxy.heard


@contextmanager
def _provisioner(authority: trustme.CA, name: str) -> Iterator[int]:
    """Serve what each request has as its Authorization, over TLS; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with HTTPServer(("127.0.0.1", 0), _Repeating) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class _Repeating(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Authorization"].encode())

    def log_message(self, *_: object) -> None:
        pass


def test_a_proxy_that_does_not_pass_on_is_named_and_nothing_was_done(proxy: Proxy) -> None:
    url = "https://provisioner.example:8443"

    with Transport([url], lambda: TOKEN) as transport, pytest.raises(ClientError) as caught:
        transport.write("PUT", "/spec", doing="apply", body=b"{}")

    said = f"{url}: the proxy http://{proxy.address} does not pass on: 403 Forbidden; "
    assert said in str(caught.value)
    assert "may have been done" not in str(caught.value)
    assert TOKEN.encode() not in proxy.heard


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("https_proxy", f"http://ann:secret@127.0.0.1:{port}")
    url = "https://provisioner.example"

    with Transport([url], lambda: TOKEN) as transport, pytest.raises(ClientError) as caught:
        transport.write("PUT", "/spec", doing="apply", body=b"{}")

    assert f"{url}: no connection to the proxy http://127.0.0.1:{port}; " in str(caught.value)


def test_what_fails_behind_a_proxy_is_told_with_it(proxy: Proxy) -> None:
    """Its own certificate is one that nobody here knows."""
    url = "https://provisioner.example"

    with _provisioner(trustme.CA(), "provisioner.example") as port:
        proxy.to_port = port
        with Transport([url], lambda: TOKEN) as transport, pytest.raises(ClientError) as caught:
            transport.write("PUT", "/spec", doing="apply", body=b"{}")

    assert (
        f"{url}: its TLS certificate is not trusted, through the proxy http://{proxy.address}"
    ) in str(caught.value)
