"""Real nginx: what clients see of the APIs, and what they may not do."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from tests.provisioning.gateway.nginx import MODEL, Gateway, Listed, running_gateway, wait_until
from tests.provisioning.gateway.servers import Server, running_servers

pytestmark = pytest.mark.slow

ASK = {"model": MODEL, "prompt": "Why?", "stream": False}
PLENTY = {"default": {"rate": 1000, "burst": 1000, "concurrency": 100}}


@pytest.fixture
def server() -> Iterator[Server]:
    with running_servers(1) as (one,):
        yield one


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Iterator[Gateway]:
    instance = Listed(server.port, installed=(MODEL, "qwen3:4b"))
    with running_gateway(tmp_path, [instance], limits=PLENTY) as running:
        yield running


def connection(gateway: Gateway) -> socket.socket:
    parts = urlsplit(gateway.url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=60)


def head(length: int) -> bytes:
    return b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length


def test_a_stream_arrives_piece_by_piece(server: Server, gateway: Gateway) -> None:
    """The server sends the second one once the client has the first."""
    server.pause_s = 600.0
    body = json.dumps(ASK | {"stream": True}).encode()
    request = urllib.request.Request(gateway.url + "/api/generate", body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        first = answer.readline()
        server.go_on.set()
        others = answer.readlines()

    assert b'"0"' in first
    assert 2 == len(others)


def test_a_stream_without_chunks_arrives_piece_by_piece(tmp_path: Path) -> None:
    """It ends with its connection; nginx would hold it back in buffers, unlike chunks."""
    body = json.dumps(ASK).encode()
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        running_gateway(tmp_path, [Listed(listening.getsockname()[1])]) as gateway,
        connection(gateway) as client,
    ):
        client.sendall(head(len(body)) + body)
        instance, _ = listening.accept()
        with instance:
            instance.recv(65_536)
            instance.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for piece in (b"first", b"second", b"third"):
                instance.sendall(piece)
                received = b""
                while piece not in received:
                    received += client.recv(65_536) or pytest.fail("the gateway ended the stream")


def test_a_client_that_leaves_stops_the_instance(server: Server, gateway: Gateway) -> None:
    server.pause_s = 0.1
    server.chunks = lambda: iter([b'{"response":"x"}\n'] * 1000)  # type: ignore[method-assign]
    body = json.dumps(ASK | {"stream": True}).encode()
    with connection(gateway) as client:
        client.sendall(head(len(body)) + body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")

    wait_until(lambda: server.n_left == 1 and server.n_at_once == 0)
    server.pause_s = 0.0
    assert 200 == gateway.ask("/api/generate", ASK)[0]


def test_a_large_prompt_arrives_whole(server: Server, gateway: Gateway) -> None:
    ask = ASK | {"prompt": "word " * 800_000}

    assert 200 == gateway.ask("/api/generate", ask)[0]
    assert ask == json.loads(server.bodies[0])


def test_what_is_too_large_wrong_or_unknown_gets_an_error_of_its_api(gateway: Gateway) -> None:
    cases: dict[tuple[str, bytes | None], int] = {
        ("/api/generate", b'{"model": "' + b"x" * 17_000_000 + b'"}'): 413,
        ("/api/generate", b"{"): 400,
        ("/api/generate", b"[]"): 400,
        ("/api/generate", b'{"model": 1}'): 400,
        ("/api/generate", b"[" * 5000): 400,
        ("/api/generate", b'{"model": "nope"}'): 404,
        ("/api/generate", None): 405,
        ("/api/tags", b"{}"): 405,
        ("/api/secret", None): 404,
        ("/api/pull", b"{}"): 403,
        ("/api/delete", b"{}"): 403,
        ("/api/create", b"{}"): 403,
        ("/api/copy", b"{}"): 403,
        ("/api/push", b"{}"): 403,
        ("/api/blobs/sha256:0", b""): 403,
        ("/v1/chat/completions", b"{"): 400,
        ("/v1/embeddings", b'{"model": "nope"}'): 404,
        ("/v1/files", b"{}"): 404,
    }
    wrong = {}
    for (path, body), status in cases.items():
        found, headers, text = gateway.ask(path, body)
        error = json.loads(text)["error"]
        message = error["message"] if path.startswith("/v1/") else error
        if (found, headers["Content-Type"]) != (status, "application/json") or not message:
            wrong[path, (body or b"")[:20]] = (found, text)

    assert {} == wrong


def test_the_lists_of_models_are_those_of_the_fleet(gateway: Gateway) -> None:
    tags = json.loads(gateway.ask("/api/tags")[2])["models"]
    loaded = json.loads(gateway.ask("/api/ps")[2])["models"]
    openai = json.loads(gateway.ask("/v1/models")[2])["data"]

    assert [MODEL, "qwen3:4b"] == [model["name"] for model in tags]
    assert [MODEL] == [model["model"] for model in loaded]
    assert [MODEL, "qwen3:4b"] == [model["id"] for model in openai]


def test_every_endpoint_that_asks_a_model_reaches_an_instance(
    server: Server, gateway: Gateway
) -> None:
    paths = ["generate", "chat", "embed", "embeddings", "show"]
    openai = ["chat/completions", "completions", "embeddings"]
    answers = [gateway.ask(f"/api/{path}", ASK)[0] for path in paths]
    answers += [gateway.ask(f"/v1/{path}", ASK)[0] for path in openai]
    answers += [gateway.ask("/api/version")[0]]

    assert [200] * 9 == answers
    assert 9 == server.n_requests


def test_instances_see_neither_keys_nor_origins_of_clients(
    server: Server, gateway: Gateway
) -> None:
    headers = {"Authorization": "Bearer secret", "Origin": "http://evil", "Host": "name"}
    gateway.ask("/api/generate", ASK, headers)

    (head_seen,) = server.heads
    assert "localhost" == head_seen["Host"]
    assert not {"Authorization", "Origin"} & head_seen.keys()


KEEP_ALIVES = {
    "0": "300s",
    "-1": None,
    '"10m"': None,
    '"1m"': "300s",
    '"0"': "300s",
    '"1h0m0.5s"': None,
    '"-5s"': None,
    "null": None,
    '"soon"': "300s",
    "299.9": "300s",
}


def test_a_shorter_keep_alive_is_raised_and_the_rest_stays_as_it_was(
    server: Server, gateway: Gateway
) -> None:
    wrong = {}
    for given, expected in KEEP_ALIVES.items():
        for key in ("keep_alive", "Keep_Alive"):
            text = f'{{"model": "{MODEL}", "{key}": {given}, "x": [[], {{}}, 1e400, 3]}} \n'
            gateway.ask("/api/chat", text.replace("1e400", "12345678901234567890").encode())
            seen = server.bodies[-1].decode()
            last = json.loads(seen).get("keep_alive") if expected else None
            is_kept = '"x": [[], {}, 12345678901234567890, 3]' in seen
            if last != expected or not is_kept or (not expected and "300s" in seen):
                wrong[given, key] = seen

    assert {} == wrong


@pytest.mark.parametrize("minimum", ["-1", "10m"])
def test_a_shorter_keep_alive_is_refused_by_setting(
    server: Server, tmp_path: Path, minimum: str
) -> None:
    rule = {"minimum": minimum, "below": "refuse"}
    with running_gateway(
        tmp_path, [Listed(server.port)], limits=PLENTY, keep_alive=rule
    ) as gateway:
        found = [
            gateway.ask("/api/generate", ASK | {"keep_alive": given})[0] for given in (0, "5m", -1)
        ]

    assert [403, 403, 200] == found


def test_slow_clients_are_left_and_do_not_hold_up_others(server: Server, tmp_path: Path) -> None:
    bounds = {"header_timeout": "300ms", "body_timeout": "300ms"}
    with running_gateway(
        tmp_path, [Listed(server.port)], limits=PLENTY, requests=bounds
    ) as gateway:
        with connection(gateway) as in_head, connection(gateway) as in_body:
            in_head.sendall(b"POST /api/generate HT")
            in_body.sendall(head(1000) + b'{"model"')
            wait_until(lambda: _is_answered(gateway))
            answers = [_answer(in_head), _answer(in_body)]

    assert b"" == answers[0]
    assert answers[1] == b"" or answers[1].startswith(b"HTTP/1.1 408")
    assert 1 == server.n_requests


def _is_answered(gateway: Gateway) -> bool:
    """Ask; say whether the machine was fast enough not to be left as well."""
    try:
        return gateway.ask("/api/generate", ASK)[0] == 200
    except OSError:
        return False


def _answer(client: socket.socket) -> bytes:
    try:
        return client.recv(1000)
    except ConnectionResetError:
        return b""


def test_clients_may_have_tls(server: Server, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate.cert_chain_pems[0].bytes())
    certificate.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    listen = {"tls_certificate": str(chain), "tls_key": str(key)}
    with running_gateway(tmp_path, [Listed(server.port)], listen=listen) as gateway:
        request = urllib.request.Request(gateway.url + "/api/generate", json.dumps(ASK).encode())
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            assert 200 == answer.status


def test_it_answers_as_an_ollama_server_does(gateway: Gateway) -> None:
    status, headers, body = gateway.ask("/")

    assert (200, b"Ollama is running") == (status, body)
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("is_counted", [True, False])
def test_streams_of_openai_s_api_are_counted_as_the_setting_says(
    server: Server, tmp_path: Path, is_counted: bool
) -> None:
    """Their limits would be evaded by not asking for the count."""
    common: dict[str, Any] = {"model": MODEL, "messages": []}
    usage: dict[str, Any] = {"stream_options": {"include_usage": True}}
    uncounted: list[dict[str, Any]] = [
        {"stream": True},
        {"stream": True, "stream_options": None},
        {"stream": True, "stream_options": {"include_usage": False}},
    ]
    other: list[dict[str, Any]] = [{"stream": False}, {"stream": True, **usage}]
    every = [common | one for one in (*uncounted, *other)]
    with running_gateway(
        tmp_path, [Listed(server.port)], limits=PLENTY, requests={"count_streams": is_counted}
    ) as gateway:
        for given in every:
            gateway.ask("/v1/chat/completions", given)
        seen = [json.loads(body) for body in server.bodies]

    added = usage if is_counted else {}
    assert [*(one | added for one in every[:3]), *every[3:]] == seen
