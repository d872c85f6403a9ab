"""Inventory from a real server on loopback, well-behaved and not."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exporter.errors import InputError, SourceError
from exporter.inventory import SourceSettings
from exporter.inventory.sources import HttpSource
from tests.exporter.inventory.serving import Answer, InventoryServer
from tests.exporter.servers import response, serving


@asynccontextmanager
async def reading(url: str, **settings: object) -> AsyncIterator[HttpSource]:
    source = HttpSource(url, url, SourceSettings(**settings))  # type: ignore[arg-type]
    try:
        yield source
    finally:
        await source.close()


async def refusal(url: str, **settings: object) -> str:
    async with reading(url, **settings) as source:
        with pytest.raises(SourceError) as caught:
            await source.read()
        return str(caught.value)


async def test_a_body_is_given_once_and_again_when_it_changes(server: InventoryServer) -> None:
    async with reading(server.url) as source:
        assert b"[]" == await source.read()
        assert await source.read() is None
        server.answer = Answer(b"[1]")
        assert b"[1]" == await source.read()


async def test_a_known_etag_is_sent_and_a_304_is_unchanged(server: InventoryServer) -> None:
    async with reading(server.url) as source:
        server.answer = Answer(b"[1]", etag='"v1"')
        assert b"[1]" == await source.read()
        assert await source.read() is None
        server.answer = Answer(b"[2]", etag='"v2"')
        assert b"[2]" == await source.read()

    sent = [request.get("If-None-Match") for request in server.requests]
    assert [None, '"v1"', '"v1"'] == sent


@pytest.mark.parametrize("etag", ['"a\x01b"', '"a\x7fb"', '"a b"', '"é"', "x" * 2_000])
async def test_an_etag_that_cannot_be_sent_back_is_not_kept(etag: str) -> None:
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response(b"[1]", "200 OK", f"ETag: {etag}"))
        await writer.drain()

    async with serving(handle) as port, reading(f"http://127.0.0.1:{port}/instances") as source:
        assert b"[1]" == await source.read()
        assert await source.read() is None

    assert [False, False] == [b"If-None-Match" in request for request in requests]


@pytest.mark.parametrize("status", [201, 204, 404, 500, 503])
async def test_any_other_status_is_a_failure(server: InventoryServer, status: int) -> None:
    server.answer = Answer(b"[]", status=status)

    assert f"answered {status}, expected 200" == await refusal(server.url)


async def test_a_redirect_is_not_followed(server: InventoryServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    server.answer = Answer(status=302, headers={"Location": f"{server.url}/elsewhere"})

    message = await refusal(server.url, token_file=token)

    assert "answered 302, a redirect, which is not followed" in message
    assert ["/instances"] == server.paths


async def test_a_hanging_server_fails_within_the_time_out(server: InventoryServer) -> None:
    server.answer = Answer(hangs_before_s=60.0)

    assert "gave no whole answer within 0.1 s" in await refusal(server.url, timeout_s=0.1)


async def test_a_body_may_be_as_large_as_the_limit_but_no_larger(server: InventoryServer) -> None:
    server.answer = Answer(b"x" * 300_000)

    async with reading(server.url, max_body_bytes=300_000) as source:
        assert b"x" * 300_000 == await source.read()
    refused = await refusal(server.url, max_body_bytes=299_999)
    assert "sent more than 299,999 bytes" in refused
    assert "give each as an --inventory of its own" in refused


async def test_a_body_that_breaks_off_is_a_failure(server: InventoryServer) -> None:
    server.answer = Answer(b"[1, 2, 3]", closes_after_bytes=4)

    assert "cannot be read" in await refusal(server.url)


async def test_a_compressed_body_is_not_asked_for_and_not_unpacked(server: InventoryServer) -> None:
    server.answer = Answer(gzip.compress(b"[]"), headers={"Content-Encoding": "gzip"})

    assert "compressed" in await refusal(server.url)
    assert "identity" == server.requests[0]["Accept-Encoding"]


async def test_the_token_is_sent_and_read_anew_each_time(
    server: InventoryServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with reading(server.url, token_file=token) as source:
        await source.read()
        token.write_text("second")
        await source.read()

    sent = [request["Authorization"] for request in server.requests]
    assert ["Bearer first", "Bearer second"] == sent


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"s3cret s3cret", b"s3cret\r\nX: y", b"s3cret\xff"]
)
async def test_a_token_file_that_holds_no_token_is_refused_without_showing_it(
    server: InventoryServer, tmp_path: Path, content: bytes
) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    async with reading(server.url, token_file=token) as source:
        with pytest.raises(InputError) as caught:
            await source.read()

    assert f"{token}: must hold one token" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert [] == server.requests


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key in one file, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    key = path.with_suffix(".key")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(path)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


@pytest.fixture
async def tls_server(certificate: Path) -> AsyncIterator[InventoryServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = InventoryServer()
    await server.start(context)
    yield server
    await server.stop()


async def test_a_server_is_verified_by_default(tls_server: InventoryServer) -> None:
    assert "certificate verify failed" in await refusal(tls_server.url)


async def test_a_server_is_verified_by_the_given_certificates(
    tls_server: InventoryServer, certificate: Path
) -> None:
    async with reading(tls_server.url, ca_file=certificate) as source:
        assert b"[]" == await source.read()


async def test_a_certificate_file_that_is_none_is_for_a_person_to_mend(
    tls_server: InventoryServer, tmp_path: Path
) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")

    for path in (nonsense, tmp_path / "missing.pem"):
        async with reading(tls_server.url, ca_file=path) as source:
            with pytest.raises(InputError, match="cannot be used as certificates"):
                await source.read()
