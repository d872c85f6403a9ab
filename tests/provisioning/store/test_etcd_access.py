"""TLS and users, against a real etcd that asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme

from ollama_fleet.clock import SystemClock
from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.store.base import Store
from provisioning.store.etcd.access import Access, Credentials
from provisioning.store.etcd.client import Client
from provisioning.store.factory import open_store
from tests.etcd import Cluster, etcd_cluster, gateway
from tests.provisioning.store.examples import Opened, instance, leading, put, watched
from tests.provisioning.store.patience import DEADLINE_S, opened_with
from tests.waiting import eventually

PASSWORD = "s3cr3t-of-the-fleet"  # noqa: S105
TOKEN_TTL_S = 1
FORGOTTEN_S = 2.5 * TOKEN_TTL_S
"""Without a word; etcd looks once a second for what is to be forgotten."""
PEM_OF_NOTHING = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class Secured:
    url: str
    credentials: Credentials


@pytest.fixture(scope="module")
def secured(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "provisioner.example")):
        certificate = authority.issue_cert(identity)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    options = (
        f"--cert-file={folder / 'server.pem'}",
        f"--key-file={folder / 'server.key'}",
        f"--trusted-ca-file={folder / 'ca.pem'}",
        "--client-cert-auth",
    )
    with etcd_cluster(etcd_binary, folder, *options, scheme="https") as cluster:
        yield Secured(
            cluster.url.replace("etcd:", "etcds:"),
            Credentials(
                ca_file=folder / "ca.pem",
                certificate_file=folder / "client.pem",
                key_file=folder / "client.key",
            ),
        )


@pytest.fixture(scope="module")
def guarded(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An etcd with a user `fleet` who may do everything."""
    with etcd_cluster(etcd_binary, tmp_path_factory.mktemp("guarded")) as cluster:
        ask_for_users(cluster)
        yield cluster


@pytest.fixture
def forgetful(etcd_binary: Path, tmp_path: Path) -> Iterator[Cluster]:
    """One whose tokens are soon forgotten."""
    with etcd_cluster(etcd_binary, tmp_path, f"--auth-token-ttl={TOKEN_TTL_S}") as cluster:
        ask_for_users(cluster)
        yield cluster


def ask_for_users(cluster: Cluster) -> None:
    (address,) = cluster.addresses
    for user in ("root", "fleet"):
        gateway(address, "auth/user/add", name=user, password=PASSWORD)
        gateway(address, "auth/user/grant", user=user, role="root")
    gateway(address, "auth/enable")


@pytest.fixture
def user(tmp_path: Path) -> Credentials:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    return Credentials(user="fleet", password_file=file)


def opened(url: str, credentials: Credentials | None = None) -> Opened:
    return open_store(url, "test", clock=SystemClock(), holder="alice", credentials=credentials)


def patiently_opened(url: str, credentials: Credentials) -> Opened:
    """Return a store and a leadership whose client waits for its answers."""
    scheme, _, members = url.partition("://")
    access = Access(
        tuple(members.split(",")), scheme == "etcds", credentials, deadline_s=DEADLINE_S
    )
    return opened_with(Client(access), "test")


async def test_a_cluster_that_asks_for_a_certificate_is_used_with_ours(secured: Secured) -> None:
    alice = patiently_opened(secured.url, secured.credentials)
    async with leading(alice) as (store, term):
        start = await store.load()
        await put(store, term, instance())

        assert 1 == len(await watched(store, start.revision, bool))
    await alice[0].close()


async def test_a_client_without_its_certificate_is_refused(secured: Secured) -> None:
    without = replace(secured.credentials, certificate_file=None, key_file=None)
    store, _ = opened(secured.url, without)

    with pytest.raises(StoreUnavailableError, match="cannot load at etcd"):
        await store.load()
    await store.close()


async def test_a_member_that_another_authority_vouches_for_is_not_trusted(
    secured: Secured, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    store, _ = opened(secured.url, replace(secured.credentials, ca_file=tmp_path / "other.pem"))

    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate|handshake"):
        await store.load()
    await store.close()


def test_a_certificate_that_cannot_be_read_is_named(secured: Secured, tmp_path: Path) -> None:
    missing = replace(secured.credentials, ca_file=tmp_path / "missing.pem")

    with pytest.raises(StoreError, match=r"CA certificate .*missing\.pem: No such file"):
        opened(secured.url, missing)


async def test_a_user_logs_in_with_the_password_of_a_file(
    guarded: Cluster, user: Credentials
) -> None:
    alice = patiently_opened(guarded.url, user)
    async with leading(alice) as (store, term):
        start = await store.load()
        await put(store, term, instance())

        assert 1 == len(await watched(store, start.revision, bool))
    await alice[0].close()


@pytest.mark.nightly
async def test_a_log_in_that_is_forgotten_is_made_again(
    forgetful: Cluster, user: Credentials
) -> None:
    """By a read, by a write, and by the watch that follows one that failed."""
    alice = opened(forgetful.url, user)
    async with alice[1].lead() as current:
        store = alice[0]
        await asyncio.sleep(FORGOTTEN_S)
        start = await store.load()
        await asyncio.sleep(FORGOTTEN_S)
        await put(store, current.term, instance("later", port=7))

        # Who asks whether a token is known keeps it from being forgotten.
        await eventually(lambda: is_told_that_it_is_forgotten(store, start.revision))
        assert await watched(store, start.revision, bool)
    await store.close()


async def is_told_that_it_is_forgotten(store: Store, after: int) -> bool:
    """Say nothing for a while, then watch."""
    await asyncio.sleep(FORGOTTEN_S)
    try:
        return not await watched(store, after, bool)
    except StoreUnavailableError as error:
        return "invalid auth token" in str(error)


async def test_a_wrong_password_is_told_and_not_shown(guarded: Cluster, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wr0ng-s3cr3t")
    credentials = Credentials(user="fleet", password_file=tmp_path / "password")
    store, _ = opened(guarded.url, credentials)

    with pytest.raises(StoreError, match="invalid user ID or password") as caught:
        await store.load()

    assert not isinstance(caught.value, StoreUnavailableError)
    assert "wr0ng" not in str(caught.value)
    await store.close()


async def test_a_cluster_that_asks_for_a_user_is_not_used_without(guarded: Cluster) -> None:
    store, _ = opened(guarded.url)

    with pytest.raises(StoreError, match="user name is empty"):
        await store.load()
    await store.close()


async def test_an_empty_password_file_is_told(guarded: Cluster, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    credentials = Credentials(user="fleet", password_file=tmp_path / "password")
    store, _ = opened(guarded.url, credentials)

    with pytest.raises(StoreError, match=r"password file .* is empty"):
        await store.load()
    await store.close()


def test_a_password_that_is_no_utf8_is_told_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes("gehëim".encode("latin-1"))
    credentials = Credentials(user="fleet", password_file=tmp_path / "password")

    with pytest.raises(StoreError, match=r"password file .* is no UTF-8") as caught:
        credentials.password()

    assert "geh" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("content", ["", "no certificate\n", PEM_OF_NOTHING])
def test_an_authority_that_is_no_certificate_is_refused_at_once(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "ca.pem").write_text(content)

    with pytest.raises(StoreError, match=r"etcd's CA certificate .*ca\.pem holds no certificate"):
        opened("etcds://127.0.0.1:1", Credentials(ca_file=tmp_path / "ca.pem"))


@pytest.mark.parametrize("spoilt", ["client.pem", "client.key"])
def test_a_certificate_and_a_key_that_do_not_fit_are_refused_at_once(
    secured: Secured, tmp_path: Path, spoilt: str
) -> None:
    other = trustme.CA().issue_cert("somebody.example")
    given = secured.credentials
    if spoilt == "client.pem":
        (tmp_path / spoilt).write_text("no certificate\n")
        given = replace(given, certificate_file=tmp_path / spoilt)
    else:
        other.private_key_pem.write_to_path(tmp_path / spoilt)
        given = replace(given, key_file=tmp_path / spoilt)

    with pytest.raises(
        StoreError, match=r"client\.pem and its key .*client\.key do not go together"
    ):
        opened(secured.url, given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"certificate_file": Path("c")}, "go together"),
        ({"key_file": Path("k")}, "go together"),
        ({"user": "fleet"}, "go together"),
        ({"password_file": Path("p")}, "go together"),
    ],
)
def test_half_of_the_credentials_is_refused(given: dict[str, Path], expected: str) -> None:
    with pytest.raises(StoreError, match=expected):
        Credentials(**given)  # type: ignore[arg-type]
