"""A log-in that hangs, at a member that is none: what it holds up, and what it must not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from provisioning.store.etcd.access import Access, Credentials
from provisioning.store.etcd.client import (
    AUTHENTICATE,
    GRANT,
    KEEP_ALIVE,
    RANGE,
    REVOKE,
    TXN,
    Client,
)
from provisioning.store.etcd.leadership import EtcdLeadership
from provisioning.store.etcd.messages_pb2 import (
    AuthenticateResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    RangeResponse,
    TxnResponse,
)
from tests.provisioning.store.examples import PATIENCE_S
from tests.provisioning.store.patience import HurriedClock

LEASE_S = 10
ANSWERS = {
    AUTHENTICATE.path: AuthenticateResponse(token="token"),  # noqa: S106
    GRANT.path: LeaseGrantResponse(id=1, ttl=LEASE_S),
    RANGE.path: RangeResponse(),
    REVOKE.path: LeaseRevokeResponse(),
    TXN.path: TxnResponse(succeeded=True),
}


@dataclass
class ForgetfulMember(grpc.GenericRpcHandler):
    """Knows no token any more when a lease is to be kept; from then on log-ins hang."""

    has_forgotten: bool = False
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        path = details.method
        if path == KEEP_ALIVE.path:
            return grpc.stream_stream_rpc_method_handler(self._refuse)

        async def answer(_request: bytes, _context: object) -> bytes:
            if path == AUTHENTICATE.path and self.has_forgotten:
                await self.is_over.wait()
            return ANSWERS[path].SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _refuse(self, _requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.has_forgotten = True
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")


@asynccontextmanager
async def serving(member: ForgetfulMember) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((member,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_term_does_not_outlive_its_lease_while_a_log_in_hangs(tmp_path: Path) -> None:
    """It is due at the first renewal, which comes at once, and would be waited for much longer."""
    (tmp_path / "password").write_text("password")
    credentials = Credentials(user="fleet", password_file=tmp_path / "password")
    member = ForgetfulMember()
    async with serving(member) as address:
        client = Client(Access((address,), credentials=credentials, deadline_s=3600.0))
        leadership = EtcdLeadership(
            client, "test", holder="alice", clock=HurriedClock(), lease_s=LEASE_S
        )
        async with leadership.lead() as current:
            try:
                await asyncio.wait_for(current.lost(), PATIENCE_S)
            finally:
                member.is_over.set()
            assert member.has_forgotten
        await client.close()
