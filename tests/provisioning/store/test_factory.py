from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import StoreError
from provisioning.store.etcd.access import Credentials
from provisioning.store.factory import open_store, read_members
from provisioning.store.memory import MemoryBackend, MemoryStore
from provisioning.store.sqlite.store import SqliteStore
from tests.provisioning.store.examples import Opened, instance, leading, put


def opened(
    url: str, memory: MemoryBackend | None = None, credentials: Credentials | None = None
) -> Opened:
    return open_store(
        url,
        "test",
        clock=SystemClock(),
        holder="alice",
        memory=memory,
        credentials=credentials,
    )


async def test_memory_is_forgotten_unless_it_is_shared() -> None:
    backend = MemoryBackend()
    async with leading(opened("memory:", backend)) as (store, term):
        await put(store, term, instance())

        assert isinstance(store, MemoryStore)
        assert 1 == len((await opened("memory:", backend)[0].load()).stored)
        assert 0 == len((await opened("memory:")[0].load()).stored)


@pytest.mark.parametrize("form", ["sqlite:{path}", "sqlite:{path}?not=an option"])
async def test_sqlite_takes_a_path(tmp_path: Path, form: str) -> None:
    store, _ = opened(form.format(path=tmp_path / "fleet.db"))

    await store.load()

    assert isinstance(store, SqliteStore)
    assert form.format(path=tmp_path / "fleet.db").removeprefix("sqlite:") in {
        str(path) for path in tmp_path.iterdir()
    }
    await store.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("etcd://a", ("a:2379",)),
        ("etcd://a:1,b:2,10.0.0.3:3", ("a:1", "b:2", "10.0.0.3:3")),
        ("etcds://etcd-1.example.org:2379/", ("etcd-1.example.org:2379",)),
        ("etcd://[::1]:5,[2001:db8::1]", ("[::1]:5", "[2001:db8::1]:2379")),
    ],
)
def test_etcd_takes_its_members(url: str, expected: tuple[str, ...]) -> None:
    assert expected == read_members(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "there is no such kind; write memory:, sqlite:PATH, etcd://host:port"),
        ("postgres://db", "'postgres'"),
        ("memory:x", "the store memory:x: memory: takes no path; write memory:"),
        ("sqlite:", "the store sqlite: without a file; write sqlite:PATH"),
        ("/var/lib/fleet.db", "/var/lib/fleet.db"),
        ("etcd:", "'' is no address of an etcd member; write etcd://host:port"),
        ("etcd://", "'' is no address"),
        ("etcd://a:1,,b:2", "'' is no address"),
        ("etcd://a:0", "'a:0' is no address"),
        ("etcd://a:65536", "'a:65536' is no address"),
        ("etcd://a:x", "'a:x' is no address"),
        ("etcds://a b", "write etcds://"),
        ("etcd://a/path", "'a/path' is no address"),
    ],
)
def test_a_url_that_will_not_do_is_told(url: str, expected: str) -> None:
    with pytest.raises(StoreError) as caught:
        opened(url)

    assert expected in str(caught.value)


@pytest.mark.parametrize("url", ["etcd://fleet:s3cr3t@a:1", "etcd://fleet:s3c,r3t@a:1"])
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(StoreError, match="by their options") as caught:
        opened(url)

    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {"ca_file": Path("ca.pem")},
        {"certificate_file": Path("client.pem"), "key_file": Path("client.key")},
    ],
)
def test_files_of_tls_are_not_ignored_where_the_url_is_without_it(files: dict[str, Path]) -> None:
    """Else a password would go in the clear to whoever answers."""
    with pytest.raises(StoreError, match="write etcds://, or leave the files of TLS out"):
        opened("etcd://a", credentials=Credentials(**files))  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf"])
def test_without_grpc_the_error_names_what_to_install(missing: str) -> None:
    """And the other stores work: nothing of grpc is imported for them."""
    script = f"""
import sys
sys.modules[{missing!r}] = None
from ollama_fleet.clock import SystemClock
from provisioning.store.factory import open_store
open_store("memory:", "test", clock=SystemClock(), holder="alice")
open_store("sqlite:x", "test", clock=SystemClock(), holder="alice")
assert not any(name.startswith("grpc") for name in set(sys.modules) - {{"grpc"}})
open_store("etcd://a", "test", clock=SystemClock(), holder="alice")
"""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )

    assert f"the Python module {missing} is missing; install it with: " in (ran.stderr)
