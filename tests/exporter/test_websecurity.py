from __future__ import annotations

import asyncio
import base64
import logging
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import bcrypt
import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from exporter import app
from exporter.app import Exporter
from exporter.check import read_settings
from exporter.config import Config, Given, build
from exporter.errors import InputError
from exporter.websecurity import MAX_CHECKS, MAX_CHECKS_OF_ONE, Guard
from ollama_fleet.clock import SystemClock
from tests.exporter.fetching import Fetched, fetch
from tests.waiting import eventually


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


HASH = hashed("secret")
ALICE = basic("alice", "secret")


class File:
    """A web configuration that is replaced as one should: by renaming another over it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str) -> None:
        replace(self.path, text.encode())

    def set_users(self, **hash_by_user: str) -> None:
        users = "".join(f"  {user}: {hash_}\n" for user, hash_ in hash_by_user.items())
        self.write(f"basic_auth_users:\n{users}")


def replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "web.yml")


@pytest.fixture
def n_checks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how often a password was checked the slow way."""
    n = 0
    check = bcrypt.checkpw

    def counting(password: bytes, hash_: bytes) -> bool:
        nonlocal n
        n += 1
        return check(password, hash_)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    return lambda: n


@asynccontextmanager
async def guarded(file: File, on_busy: Callable[[], object] = bool) -> AsyncIterator[int]:
    """Serve one page behind a guard; yield the port."""
    async with guarded_site(file, on_busy) as runner:
        yield runner.addresses[0][1]


@asynccontextmanager
async def guarded_site(
    file: File, on_busy: Callable[[], object] = bool
) -> AsyncIterator[web.AppRunner]:

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="the page")

    guard = Guard(file.path)
    app = web.Application()
    app.router.add_get("/", page)
    guard.protect(app, on_busy=on_busy)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=guard.context).start()
    try:
        yield runner
    finally:
        await runner.cleanup()


async def status(port: int, authorization: str, path: str = "/") -> int:
    return (await fetch(port, path, Authorization=authorization)).status


# Passwords


@pytest.mark.parametrize("path", ["/", "/-/healthy", "/no-such-page"])
async def test_every_path_asks_for_a_password(file: File, path: str) -> None:
    file.set_users(alice=HASH)
    async with guarded(file) as port:
        answer = await fetch(port, path)

    assert (401, "Basic") == (answer.status, answer.headers["WWW-Authenticate"])
    assert "the page" not in answer.text


@pytest.mark.parametrize(
    ("user", "password", "expected"),
    [
        ("alice", "secret", 200),
        ("alice", "Secret", 401),
        ("alice", "", 401),
        ("bob", "secret", 401),
        ("", "secret", 401),
        ("jürgen", "pass:wörd", 200),
        ("long", "x" * 80, 200),
        ("long", "x" * 71, 401),
    ],
)
async def test_users_get_in_with_their_own_password(
    file: File, user: str, password: str, expected: int
) -> None:
    file.set_users(alice=HASH, jürgen=hashed("pass:wörd"), long=hashed("x" * 80))
    async with guarded(file) as port:
        for _ in range(2):
            assert expected == await status(port, basic(user, password))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic %%%",
        "Basic YWxpY2U=",
        "Basic /zo=",
        f"Basic %{ALICE[6:]}",
        f"Bearer {ALICE[6:]}",
        "é",
        ":",
    ],
)
async def test_an_odd_authorization_gets_nobody_in(file: File, authorization: str) -> None:
    file.set_users(alice=HASH)
    async with guarded(file) as port:
        assert 401 == await status(port, authorization)


async def test_a_scraper_pays_for_its_password_once(
    file: File, n_checks: Callable[[], int]
) -> None:
    file.set_users(alice=HASH)
    async with guarded(file) as port:
        at_once = await asyncio.gather(*[status(port, ALICE) for _ in range(10)])
        later = [await status(port, ALICE) for _ in range(10)]

    assert [200] * 20 == at_once + later
    assert 1 == n_checks()


async def test_a_remembered_password_lets_no_other_one_in(file: File) -> None:
    file.set_users(alice=HASH, bob=hashed("other"))
    async with guarded(file) as port:
        assert 200 == await status(port, ALICE)

        for stranger in (("alice", "other"), ("alice", ""), ("bob", "secret"), ("eve", "secret")):
            assert 401 == await status(port, basic(*stranger))


async def test_an_unknown_user_costs_as_much_as_the_costliest_known(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    costly = hashed("other", cost=5)

    def check(password: bytes, hash_: bytes) -> bool:
        checked.append(hash_.decode())
        return True

    monkeypatch.setattr(bcrypt, "checkpw", check)
    file.set_users(alice=HASH, carol=costly, dave=HASH)
    async with guarded(file) as port:
        for _ in range(2):
            assert 401 == await status(port, basic("bob", "secret"))

    assert [costly] * 2 == checked


async def test_a_check_delays_only_who_has_to_be_checked(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, n_at_once, n_at_once_most = threading.Event(), 0, 0

    def check(password: bytes, hash_: bytes) -> bool:
        nonlocal n_at_once, n_at_once_most
        n_at_once += 1
        n_at_once_most = max(n_at_once, n_at_once_most)
        go_on.wait(200)
        n_at_once -= 1
        return False

    file.set_users(alice=HASH)
    async with guarded(file) as port:
        assert 200 == await status(port, ALICE)
        monkeypatch.setattr(bcrypt, "checkpw", check)
        strangers = [asyncio.create_task(status(port, basic("m", str(n)))) for n in range(5)]
        await eventually(lambda: n_at_once)

        assert 200 == await asyncio.wait_for(status(port, ALICE), 100)

        go_on.set()
        assert [401] * 5 == await asyncio.gather(*strangers)
    assert 1 == n_at_once_most


class HeldChecks:
    """Checks of passwords that last until they may go on; all find the password wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.n_begun = 0
        monkeypatch.setattr(bcrypt, "checkpw", self._check)

    def _check(self, _password: bytes, _hash: bytes) -> bool:
        self.n_begun += 1
        return not self.go_on.wait(200)


async def test_few_wait_for_a_check_and_others_are_sent_away(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_peers = MAX_CHECKS // MAX_CHECKS_OF_ONE + 1
    refused: list[None] = []
    file.set_users(alice=HASH)
    async with guarded(file, on_busy=lambda: refused.append(None)) as port:
        checks = HeldChecks(monkeypatch)
        guesses = [
            asyncio.create_task(status_from(f"127.0.0.{2 + n % n_peers}", port, str(n)))
            for n in range(100)
        ]
        await eventually(lambda: len(refused) == 100 - MAX_CHECKS)
        away = await fetch(port, "/", Authorization=basic("m", "guess"))

        assert (503, "2") == (away.status, away.headers["Retry-After"])
        checks.go_on.set()
        statuses = await asyncio.gather(*guesses)
    assert (MAX_CHECKS, 100 - MAX_CHECKS) == (statuses.count(401), statuses.count(503))


async def test_guesses_from_one_address_keep_nobody_elsewhere_out(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[None] = []
    file.set_users(alice=HASH)
    async with guarded(file, on_busy=lambda: refused.append(None)) as port:
        checks = HeldChecks(monkeypatch)
        guesses = [asyncio.create_task(status(port, basic("m", str(n)))) for n in range(30)]
        await eventually(lambda: len(refused) == 30 - MAX_CHECKS_OF_ONE)
        elsewhere = asyncio.create_task(status_from("127.0.0.2", port, "secret"))
        checks.go_on.set()

        assert 401 == await elsewhere  # checked; all are found wrong here
        await asyncio.gather(*guesses)


async def status_from(address: str, port: int, password: str) -> int:
    """Ask from an address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    headers = {"Authorization": basic("alice", password)}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.get(f"http://127.0.0.1:{port}/") as answer,
    ):
        return answer.status


async def test_who_hung_up_is_not_checked(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    file.set_users(alice=HASH)
    async with guarded_site(file) as runner:
        server, port = runner.server, runner.addresses[0][1]
        assert server is not None
        checks = HeldChecks(monkeypatch)
        guesses = [asyncio.create_task(status(port, basic("m", str(n)))) for n in range(4)]
        await eventually(lambda: len(server.connections) == 4 and checks.n_begun)
        for guess in guesses:
            guess.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)
        await eventually(lambda: not any(client.transport for client in server.connections))

        checks.go_on.set()

        assert 401 == await status(port, basic("m", "still here"))
    assert 2 == checks.n_begun


# The file changes


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_a_pipe_in_the_files_place_leaves_what_was(
    file: File, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None]
) -> None:
    file.set_users(alice=HASH)
    async with guarded(file) as port:
        file.path.unlink()
        make(file.path)

        assert [200, 401] == [await status(port, ALICE), await status(port, "")]
    assert [True] == ["not a regular file" in record.message for record in caplog.records]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: " + "[" * 30_000, "{path}:1: is nested too deeply"),
        ("#" * 70_000, "{path}: is larger than 65,536 bytes"),
    ],
)
def test_a_deep_or_large_file_is_refused(file: File, content: str, expected: str) -> None:
    file.write(content)

    assert [expected.format(path=file.path)] == start_problems(file)


async def test_a_changed_password_is_in_force_at_the_next_request(file: File) -> None:
    file.set_users(alice=HASH)
    async with guarded(file) as port:
        assert 200 == await status(port, ALICE)

        file.set_users(alice=hashed("new"))

        assert 401 == await status(port, ALICE)
        assert 200 == await status(port, basic("alice", "new"))


async def test_a_removed_user_stays_out_even_if_another_has_the_same_hash(file: File) -> None:
    file.set_users(alice=HASH, bob=HASH)
    async with guarded(file) as port:
        assert 200 == await status(port, basic("bob", "secret"))

        file.set_users(alice=HASH)

        assert [401] * 2 == [await status(port, basic("bob", "secret")) for _ in range(2)]
        assert 200 == await status(port, ALICE)


@pytest.mark.parametrize(
    "content", ["", "basic_auth_users:", "basic_auth_users: {alice: x}", "a: [", "colour: red"]
)
async def test_a_bad_file_leaves_what_was_and_is_logged_once(
    file: File, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """An empty file is one that somebody is about to write: it must not open the pages."""
    file.set_users(alice=HASH)
    async with guarded(file) as port:
        file.write(content)
        statuses = [await status(port, authorization) for authorization in (ALICE, "", ALICE)]
        warnings = [record.message for record in caplog.records]
        file.set_users(bob=HASH)
        healed = await status(port, basic("bob", "secret"))

    assert [200, 401, 200] == statuses
    assert 1 == len(warnings)
    assert f"reload failed, the last good version stays active: {file.path}: " in warnings[0]
    assert "\n" not in warnings[0]
    assert 200 == healed


async def test_neither_passwords_nor_hashes_are_logged(
    file: File, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file.set_users(alice=HASH)
    async with guarded(file) as port:
        for authorization in (ALICE, basic("alice", "hunter2"), "Basic hunter2"):
            await status(port, authorization)
        for content in (f"alice: {HASH}", "basic_auth_users: {a: hunter2}", "a: *hunter2"):
            file.write(content)
            await status(port, ALICE)

    assert 3 == caplog.text.count("reload failed")
    assert "hunter2" not in caplog.text
    assert "secret" not in caplog.text
    assert HASH[7:] not in caplog.text


# Headers


async def test_every_answer_has_the_headers(file: File) -> None:
    headers = "http_server_config: {headers: {X-Frame-Options: sameorigin, X-XSS-Protection: 0}}"
    file.write(f"{headers}\nbasic_auth_users: {{alice: {HASH}}}")
    async with guarded(file) as port:
        answers = [
            await fetch(port, path, Authorization=authorization)
            for path, authorization in (("/", ALICE), ("/none", ALICE), ("/", ""))
        ]
        file.set_users(alice=HASH)
        later = await fetch(port, "/", Authorization=ALICE)

    assert [200, 404, 401] == [answer.status for answer in answers]
    for answer in answers:
        assert "sameorigin" == answer.headers["X-Frame-Options"]
        assert "0" == answer.headers["X-XSS-Protection"]
    assert "X-Frame-Options" not in later.headers


# TLS


class Certificates:
    """A server's certificate on disk, and the authority that vouches for it."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.clients = trustme.CA()
        self.certificate = folder / "server.crt"
        self.key = folder / "server.key"
        self.client_ca = folder / "clients.crt"
        self.rotate()
        replace(self.client_ca, self.clients.cert_pem.bytes())

    def issue(self) -> trustme.LeafCert:
        return self.authority.issue_cert("127.0.0.1")

    def rotate(self) -> bytes:
        """Put a new certificate in place; return it as a client sees it."""
        fresh = self.issue()
        replace(self.certificate, fresh.cert_chain_pems[0].bytes())
        replace(self.key, fresh.private_key_pem.bytes())
        return ssl.PEM_cert_to_DER_cert(fresh.cert_chain_pems[0].bytes().decode())

    def section(self, more: str = "") -> str:
        return f"tls_server_config: {{cert_file: server.crt, key_file: server.key{more}}}\n"

    def client(self, of: trustme.CA | None = None) -> ssl.SSLContext:
        """Return a client's context, with a certificate of its own if an authority is given."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if of is not None:
            of.issue_cert("client@example.org").configure_cert(context)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def fetch_tls(port: int, context: ssl.SSLContext, **headers: str) -> Fetched:
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{port}/"
        async with session.get(url, ssl=context, headers=headers) as answer:
            return Fetched(answer.status, answer.headers, await answer.read())


async def shown_certificate(port: int, context: ssl.SSLContext) -> bytes:
    """Return the certificate that a new connection is given."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return certificate


async def gets_in(port: int, context: ssl.SSLContext) -> bool:
    try:
        return 200 == (await fetch_tls(port, context)).status
    except (aiohttp.ClientError, ssl.SSLError):
        return False


async def test_pages_are_served_over_https(file: File, certificates: Certificates) -> None:
    file.write(certificates.section() + f"basic_auth_users: {{alice: {HASH}}}")
    async with guarded(file) as port:
        assert 401 == (await fetch_tls(port, certificates.client())).status
        assert 200 == (await fetch_tls(port, certificates.client(), Authorization=ALICE)).status
        with pytest.raises(aiohttp.ClientError):
            await fetch(port, "/")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("RequestClientCert", (True, True, True)),
        ("VerifyClientCertIfGiven", (True, True, False)),
        ("RequireAndVerifyClientCert", (True, False, False)),
    ],
)
async def test_certificates_of_clients_are_verified(
    file: File, certificates: Certificates, kind: str, expected: tuple[bool, bool, bool]
) -> None:
    """In turn: with a good one, without one, with one of somebody else's authority."""
    file.write(certificates.section(f", client_auth_type: {kind}, client_ca_file: clients.crt"))
    async with guarded(file) as port:
        seen = [
            await gets_in(port, certificates.client(authority))
            for authority in (certificates.clients, None, trustme.CA())
        ]

    assert expected == tuple(seen)


async def test_a_rotated_certificate_is_shown_to_new_connections(
    file: File, certificates: Certificates
) -> None:
    file.write(certificates.section())
    client = certificates.client()
    first = certificates.rotate()
    async with guarded(file) as port, aiohttp.ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{port}/", ssl=client) as answer:
            assert "the page" == await answer.text()
        assert first == await shown_certificate(port, client)

        second = certificates.rotate()

        assert second != first
        assert second == await shown_certificate(port, client)
        async with session.get(f"https://127.0.0.1:{port}/", ssl=client) as answer:
            assert "the page" == await answer.text()


async def test_a_certificate_without_its_key_leaves_the_last_good_one_and_is_logged_once(
    file: File, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever rotates writes one file after the other, and connections come in between."""
    file.write(certificates.section())
    client = certificates.client()
    good = certificates.rotate()
    fresh = certificates.issue()
    async with guarded(file) as port:
        replace(certificates.certificate, fresh.cert_chain_pems[0].bytes())
        shown = [await shown_certificate(port, client) for _ in range(3)]
        warnings = [record.message for record in caplog.records]
        replace(certificates.key, fresh.private_key_pem.bytes())
        healed = await shown_certificate(port, client)

    assert [good] * 3 == shown
    assert 1 == len(warnings)
    assert f"stays active: the certificate {certificates.certificate}: " in warnings[0]
    assert healed != good


async def test_other_changes_of_tls_are_said_to_take_a_restart(
    file: File, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    file.write(certificates.section())
    async with guarded(file) as port:
        file.write(certificates.section(", min_version: TLS13"))

        assert 200 == (await fetch_tls(port, certificates.client())).status
    assert "tls_server_config changed; restart the exporter to apply it" in caplog.text


def start_problems(file: File) -> list[str]:
    with pytest.raises(InputError) as caught:
        Guard(file.path)
    return [str(problem) for problem in caught.value.problems]


def test_files_that_cannot_be_read_forbid_the_start(file: File) -> None:
    files = "cert_file: none.crt, key_file: none.key, client_ca_file: none.ca"
    file.write(f"tls_server_config: {{{files}, client_auth_type: RequireAndVerifyClientCert}}")

    certificate, authorities = start_problems(file)

    assert certificate.startswith("tls_server_config.cert_file: no PEM certificate with its key")
    assert str(file.path.parent / "none.crt") in certificate
    assert certificate.endswith(": No such file or directory")
    assert authorities.startswith("tls_server_config.client_ca_file: no certificates can be read")


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(
    file: File, certificates: Certificates
) -> None:
    key = serialization.load_pem_private_key(certificates.key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )
    certificates.key.write_bytes(encrypted)
    file.write(certificates.section())

    (problem,) = start_problems(file)

    assert "without passphrase" in problem


# In the exporter


def config(file: File) -> Config:
    """Return a configuration with an empty inventory."""
    inventory = file.path.with_name("fleet.json")
    inventory.write_text("[]")
    texts = {
        "inventory": str(inventory),
        "web.listen-address": "127.0.0.1:0",
        "web.config.file": str(file.path),
    }
    return build({name: Given((text,), name) for name, text in texts.items()})


async def test_the_exporter_serves_what_the_web_configuration_says(
    file: File,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(app, "raise_limit", lambda: 4096)
    caplog.set_level(logging.INFO, "exporter")
    file.write(certificates.section() + f"basic_auth_users: {{alice: {HASH}}}")
    client = certificates.client()
    async with Exporter(config(file)) as exporter:
        refused = await fetch_tls(exporter.port, client)
        answer = await fetch_tls(exporter.port, client, Authorization=ALICE)

    assert (401, 200) == (refused.status, answer.status)
    assert "ollama-fleet exporter" in answer.text
    assert f"listening url=https://127.0.0.1:{exporter.port}" in caplog.text


async def test_handshakes_that_never_end_keep_no_scraper_out(
    file: File, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "raise_limit", lambda: 8)  # two connections
    file.write(certificates.section())
    async with Exporter(config(file)) as exporter:
        strangers = [await asyncio.open_connection("127.0.0.1", exporter.port) for _ in range(4)]

        answer = await fetch_tls(exporter.port, certificates.client())
        gone = [reader.read() for reader, _ in strangers[:3]]

        assert 200 == answer.status
        assert [b""] * 3 == await asyncio.wait_for(asyncio.gather(*gone), 30.0)  # none by its age
        for _, writer in strangers:
            writer.transport.abort()


async def test_a_bad_web_configuration_neither_starts_nor_passes_the_check(file: File) -> None:
    file.write("basic_auth_users: {alice: secret}")

    with pytest.raises(InputError, match=r"basic_auth_users\.alice: is not a bcrypt hash"):
        await read_settings(config(file), SystemClock())
    with pytest.raises(InputError, match=r"basic_auth_users\.alice"):
        async with Exporter(config(file)):
            pass
