"""Open the store that a URL names, and the leadership that goes with it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from ollama_fleet.clock import Clock
from ollama_fleet.extras import install_line
from provisioning.errors import StoreError
from provisioning.store.base import Leadership, Store
from provisioning.store.etcd.access import Access, Credentials
from provisioning.store.memory import MemoryBackend, MemoryLeadership, MemoryStore
from provisioning.store.sqlite.leadership import SqliteLeadership
from provisioning.store.sqlite.store import SqliteStore

LEASE_S = 10
ETCD_PORT = 2379
FORMS = "memory:, sqlite:PATH, etcd://host:port,… or etcds://host:port,… for TLS"
MEMBER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")

Opened = tuple[Store, Leadership]


def open_store(
    url: str,
    fleet: str,
    *,
    clock: Clock,
    holder: str,
    credentials: Credentials | None = None,
    lease_s: int = LEASE_S,
    memory: MemoryBackend | None = None,
) -> Opened:
    """Return the store of a fleet, and its leadership for `holder`, the URL of our API.

    `lease_s` is etcd's: how long a leader that is silent stays the leader; 2 at least.

    Raises:
        StoreError: It cannot be opened; says what to write instead, or what to install.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "memory" if not rest:
            backend = memory or MemoryBackend()
            return MemoryStore(backend), MemoryLeadership(backend, holder=holder)
        case "memory":
            raise StoreError(f"cannot open the store {url}: memory: takes no path; write memory:")
        case "sqlite" if not rest:
            raise StoreError(
                "cannot open the store sqlite: without a file; write sqlite:PATH, "
                "as sqlite:/var/lib/ollama-fleet/fleet.db"
            )
        case "sqlite":
            return _open_sqlite(Path(rest), fleet, clock=clock, holder=holder)
        case "etcd" | "etcds":
            access = Access(
                members=read_members(url),
                is_secure=scheme == "etcds",
                credentials=credentials or Credentials(),
            )
            return _open_etcd(access, fleet, clock=clock, holder=holder, lease_s=lease_s)
    raise StoreError(f"cannot open the store {scheme!r}: there is no such kind; write {FORMS}")


def read_members(url: str) -> tuple[str, ...]:
    """Return the members of `etcd://host:port,host`, each as `host:port`.

    Raises:
        StoreError: One of them is no address, or the URL names a user.
    """
    scheme, _, rest = url.partition(":")
    listed = rest[2:] if rest.startswith("//") else ""
    if "@" in listed:
        # What stands before it may be a password, and is not repeated.
        raise StoreError(
            f"cannot open the store {scheme}://…@…: a URL is seen by everybody on the machine; "
            f"name the user, and the file of the password, by their options"
        )
    return tuple(_read_member(member, scheme) for member in listed.rstrip("/").split(","))


def _read_member(member: str, scheme: str) -> str:
    read = MEMBER.fullmatch(member)
    if read is None or not 0 < int(read["port"] or ETCD_PORT) < 2**16:
        raise StoreError(
            f"cannot open the store: {member!r} is no address of an etcd member; "
            f"write {scheme}://host:port,host:port"
        )
    return f"{read['host']}:{read['port'] or ETCD_PORT}"


def _open_sqlite(path: Path, fleet: str, *, clock: Clock, holder: str) -> Opened:
    store = SqliteStore(path, fleet, clock=clock)
    return store, SqliteLeadership(store.writer, holder=holder, clock=clock)


def _open_etcd(access: Access, fleet: str, *, clock: Clock, holder: str, lease_s: int) -> Opened:
    for name in ("grpc", "google.protobuf"):
        if not _is_installed(name):
            raise StoreError(
                f"cannot speak with etcd: the Python module {name} is missing; "
                f"install it with: {install_line('provisioner')}"
            )
    from provisioning.store.etcd.client import Client
    from provisioning.store.etcd.leadership import EtcdLeadership
    from provisioning.store.etcd.store import EtcdStore

    client = Client(access)
    leadership = EtcdLeadership(client, fleet, holder=holder, clock=clock, lease_s=lease_s)
    return EtcdStore(client, fleet, clock=clock), leadership


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
