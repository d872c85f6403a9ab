"""What each of etcd's errors means to who asks."""

from __future__ import annotations

import socket

import grpc
import grpc.aio
import pytest

from provisioning.errors import CompactedError, StoreError, StoreUnavailableError
from provisioning.store.etcd import client
from provisioning.store.etcd.access import DEADLINE_S, Access, Credentials
from provisioning.store.etcd.client import RANGE, Client
from provisioning.store.etcd.messages_pb2 import RangeRequest
from tests.ports import free_ports

STATUS = grpc.StatusCode


def translated(code: grpc.StatusCode, words: str) -> StoreError:
    client = Client(Access(members=("a:1", "b:1"), is_secure=False, credentials=Credentials()))
    nothing = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(code, nothing, nothing, details=f"etcdserver: {words}")
    return client.translated(error, doing="write", member="a:1")


@pytest.mark.parametrize(
    ("code", "words", "expected", "help_"),
    [
        (STATUS.UNAVAILABLE, "no leader", StoreUnavailableError, "most members reach each other"),
        (STATUS.RESOURCE_EXHAUSTED, "too many requests", StoreUnavailableError, "keep up"),
        (
            STATUS.RESOURCE_EXHAUSTED,
            "mvcc: database space exceeded",
            StoreUnavailableError,
            "quota",
        ),
        (
            STATUS.INVALID_ARGUMENT,
            "revision of auth store is old",
            StoreUnavailableError,
            "logs in",
        ),
        (STATUS.NOT_FOUND, "requested lease not found", StoreUnavailableError, "keep up"),
        (STATUS.UNAUTHENTICATED, "invalid auth token", StoreUnavailableError, "logs in"),
        (STATUS.OUT_OF_RANGE, "required revision has been compacted", CompactedError, "load"),
        (STATUS.PERMISSION_DENIED, "permission denied", StoreError, "roles"),
    ],
)
def test_an_error_says_whether_it_may_pass_and_what_helps(
    code: grpc.StatusCode, words: str, expected: type[StoreError], help_: str
) -> None:
    error = translated(code, words)

    assert expected is type(error)
    assert words in str(error)
    assert help_ in str(error)


@pytest.mark.parametrize("n_members", [1, 3])
async def test_where_no_member_answers_each_is_named_once(n_members: int) -> None:
    members = tuple(f"127.0.0.1:{port}" for port in free_ports(n_members))
    client = Client(Access(members=members, deadline_s=1.0))

    with pytest.raises(StoreUnavailableError) as caught:
        await client.read(RANGE, RangeRequest(key=b"a"), doing="load")

    words = str(caught.value)
    assert words.startswith(f"cannot load at etcd {members[-1]}: ")
    others = f"; nor at {', '.join(members[:-1])}" if n_members > 1 else "reach each other"
    assert words.endswith(others)
    await client.close()


@pytest.mark.parametrize("deadline_s", [0.5, DEADLINE_S, 10.0])
def test_a_connection_may_take_as_long_as_the_call_that_needs_it(deadline_s: float) -> None:
    limit_ms = dict(client.options(deadline_s))["grpc.min_reconnect_backoff_ms"]

    assert 1000 * deadline_s <= limit_ms


async def test_a_call_that_waits_for_its_connection_ends_at_its_own_deadline() -> None:
    """A member that is busy or far away: more than a moment goes by until one is made."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(Access((f"127.0.0.1:{silent.getsockname()[1]}",), deadline_s=0.5))

        with pytest.raises(StoreUnavailableError, match="DEADLINE_EXCEEDED"):
            await client.read(RANGE, RangeRequest(key=b"a"), doing="load")
        await client.close()
