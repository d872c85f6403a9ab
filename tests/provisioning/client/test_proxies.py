"""A proxy of the environment gets neither token nor specification, and is named where it fails."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import RemoteDisconnected
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import requests
import trustme
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from provisioning.client.answers import never_arrived
from provisioning.client.client import Client
from provisioning.client.errors import ClientError, UnreachableError
from provisioning.client.proxies import proxy_of
from provisioning.client.transport import Transport
from tests.ports import free_port
from tests.provisioning.api.board import FLEET
from tests.provisioning.api.served import Served

TOKEN = "t" * 32
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TUNNELLING = b"HTTP/1.1 200 Tunnelling\r\n\r\n"


class Proxy:
    """Hears what it is sent; passes on to a port of this machine, or refuses to."""

    def __init__(self) -> None:
        self.heard = b""
        self.to_port: int | None = None
        self.port_by_host: dict[str, int] = {}
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
        asked = client.recv(2**16)
        self.heard += asked
        host = asked.split()[1].decode().partition(":")[0]
        port = self.port_by_host.get(host, self.to_port)
        if port is None:
            client.sendall(FORBIDDEN)
            return
        with socket.create_connection(("127.0.0.1", port)) as server:
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
    port = free_port()
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
def _provisioner(
    authority: trustme.CA, name: str, handler: type[BaseHTTPRequestHandler] | None = None
) -> Iterator[int]:
    """Serve what each request has as its Authorization, over TLS; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with HTTPServer(("127.0.0.1", 0), handler or _Repeating) as server:
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
    port = free_port()
    monkeypatch.setenv("https_proxy", f"http://ann:secret@127.0.0.1:{port}")
    url = "https://provisioner.example"

    with Transport([url], lambda: TOKEN) as transport, pytest.raises(ClientError) as caught:
        transport.write("PUT", "/spec", doing="apply", body=b"{}")

    assert f"{url}: no connection to the proxy http://127.0.0.1:{port}; " in str(caught.value)


@pytest.mark.parametrize("is_other_there", [False, True])
def test_a_change_that_a_proxy_has_passed_on_is_not_sent_again(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_other_there: bool
) -> None:
    """The first provisioner gets it, and dies before it answers: the tunnel is closed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    urls = ["https://one.example", "https://two.example"][: 1 + is_other_there]
    _Closing.got = []

    with (
        _provisioner(authority, "one.example", _Closing) as one,
        _provisioner(authority, "two.example", _Closing) as two,
    ):
        proxy.port_by_host = {"one.example": one, "two.example": two}
        with Transport(urls, lambda: TOKEN) as transport:
            with pytest.raises(UnreachableError) as caught:
                transport.write("PUT", "/spec", doing="apply", body=b"{}")

    assert ["one.example"] == _Closing.got
    through = f"no connection, through the proxy http://{proxy.address}"
    assert f"one.example: {through}, so it may have been done: look" in str(caught.value)


@pytest.mark.parametrize(
    ("cause", "is_told"),
    [
        (NewConnectionError(None, "refused"), True),  # type: ignore[arg-type]
        (ConnectTimeoutError(None, "silent"), True),
        (OSError("Tunnel connection failed: 502 Bad Gateway"), True),
        (RemoteDisconnected("Remote end closed connection without response"), False),
        (ConnectionResetError(104, "Tunnel connection failed: "), False),
        (SSLError("unexpected end"), False),
    ],
)
def test_of_a_proxys_fault_the_cause_tells_whether_anything_arrived(
    cause: Exception, *, is_told: bool
) -> None:
    fault = MaxRetryError(HTTPSConnectionPool("x"), "/x", ProxyError("Unable to connect", cause))

    assert is_told == never_arrived(requests.exceptions.ProxyError(fault))


class _Closing(BaseHTTPRequestHandler):
    """Is there, and closes the connection once it has an order."""

    got: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append(self.headers["Host"])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("socks5://ann:secret@proxy.example", "it needs PySocks, which is not installed"),
        ("http://ann:secret@", "it is no address of a proxy"),
        ("http://ann:secret@[::1", "it is no address of a proxy"),
        ("http://ann:secret@proxy.example:port", "it is no address of a proxy"),
        ("http://ann:secret@proxy.example:99999", "it is no address of a proxy"),
        ("ftp://ann:secret@proxy.example", "it is no address of a proxy"),
    ],
)
def test_through_a_proxy_that_cannot_be_used_nothing_was_done(
    monkeypatch: pytest.MonkeyPatch, named: str, why: str
) -> None:
    monkeypatch.setenv("https_proxy", named)
    url = "https://provisioner.example"

    with Transport([url], lambda: TOKEN) as transport, pytest.raises(ClientError) as caught:
        transport.write("PUT", "/spec", doing="apply", body=b"{}")

    shown = named.replace("ann:secret@", "")
    assert (
        f"cannot apply: {url}: the proxy {shown} cannot be used: {why}; see that a provisioner "
        "runs there, and that --provisioner.url is right"
    ) == str(caught.value)


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_authorities_that_are_not_there_are_told_by_the_variable_that_names_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, scheme: str
) -> None:
    for each in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, str(tmp_path / "nowhere.pem"))

    with Transport([f"{scheme}://one.example"], lambda: TOKEN) as transport:
        with pytest.raises(ClientError) as caught:
            transport.write("PUT", "/spec", doing="apply", body=b"{}")

    assert (
        f"cannot find the authorities in {tmp_path / 'nowhere.pem'}; mend or unset {name}"
    ) == str(caught.value)


def test_what_goes_in_clear_needs_no_authorities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))

    with Served(tmp_path) as served, Transport([served.url], lambda: served.token) as transport:
        assert FLEET.name == Client(transport).plan(FLEET).fleet


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
