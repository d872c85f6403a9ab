"""Leadership among the provisioners of a fleet, by a key in etcd that goes with a lease.

The epoch of a session is the revision that made the key: every write compares it. A session ends by
its own clock if etcd is silent. etcd deletes the key when its lease ends: by itself when the holder
dies or hangs, at once when it is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

from ollama_fleet.clock import Clock
from provisioning.errors import CompactedError, StoreError, StoreUnavailableError
from provisioning.store.base import LeaderSession, Term
from provisioning.store.etcd import store
from provisioning.store.etcd.client import GRANT, KEEP_ALIVE, RANGE, REVOKE, TXN, Client
from provisioning.store.etcd.messages_pb2 import (
    Event,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from provisioning.store.etcd.store import Keys, fence

PAUSE_S = 0.1
"""After an error, before the next try to keep the lease."""

GIVE_BACK_DEADLINE_S = 1.0
"""At each member: whoever leaves does not wait long for a cluster that is gone."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease, as etcd granted it: it may last longer than was asked for."""

    id: int
    ttl_s: int
    until_s: float
    """By our monotonic clock; etcd ends it later, never earlier."""


class EtcdLeadership:
    """See `base.Leadership`."""

    def __init__(
        self,
        client: Client,
        fleet: str,
        *,
        holder: str,
        clock: Clock,
        lease_s: int,
    ) -> None:
        self._client = client
        self._keys = Keys(fleet)
        self._holder = holder
        self._clock = clock
        self._lease_s = lease_s
        # A member that hangs together with the leader must not hide from us that it is gone.
        self._silence_s = lease_s / 4

    @property
    def holder(self) -> str:
        """Return who we are: the holder of the terms that begin here."""
        return self._holder

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[LeaderSession]:
        """Wait until nobody else leads, then lead.

        Raises:
            StoreUnavailableError: No member could be reached.
        """
        while True:
            await self._vacancy()
            lease = await self._grant()
            try:
                epoch = await self._claim(lease)
                if epoch is not None:
                    async with self._kept(
                        lease, LeaderSession(Term(epoch, self._holder))
                    ) as session:
                        yield session
                    return
            finally:
                await self._revoke(lease)

    async def leader(self) -> str | None:
        """Return who leads now; None: nobody, or it cannot be said."""
        with suppress(StoreError):
            response = await self._client.read(
                RANGE, RangeRequest(key=self._keys.leader), doing="read"
            )
            return next((kv.value.decode() for kv in response.kvs), None)
        return None

    async def _vacancy(self) -> None:
        """Return when nobody leads."""
        while True:
            response = await self._client.read(
                RANGE, RangeRequest(key=self._keys.leader), doing="read"
            )
            if not response.kvs:
                return
            # Where the watch breaks, the key is read again, from another member.
            with suppress(StoreUnavailableError, CompactedError):
                await self._deletion(after=response.header.revision)

    async def _deletion(self, *, after: int) -> None:
        following = store.watch_events(
            self._client,
            self._keys.leader,
            after=after,
            clock=self._clock,
            silence_s=self._silence_s,
        )
        async with aclosing(following):
            async for events in following:
                if any(event.type == Event.DELETE for event in events):
                    return

    async def _grant(self) -> Lease:
        sent_s = self._clock.monotonic_s()
        request = LeaseGrantRequest(ttl=self._lease_s)
        response = await self._client.read(GRANT, request, doing="get a lease")
        return Lease(response.id, response.ttl, sent_s + response.ttl)

    async def _claim(self, lease: Lease) -> int | None:
        """Make the key if it does not exist; return the revision, None: another was quicker."""
        put = PutRequest(key=self._keys.leader, value=self._holder.encode(), lease=lease.id)
        request = TxnRequest(compare=[fence(self._keys, 0)], success=[RequestOp(request_put=put)])
        response = await self._client.write(TXN, request, doing="claim the leadership")
        return response.header.revision if response.succeeded else None

    @asynccontextmanager
    async def _kept(self, lease: Lease, session: LeaderSession) -> AsyncIterator[LeaderSession]:
        session.hold_until(lease.until_s)
        keeping = asyncio.create_task(self._keep(lease, session))
        try:
            yield session
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})

    async def _keep(self, lease: Lease, session: LeaderSession) -> None:
        """Renew the lease three times in its length, until that goes wrong for its whole length."""
        pause_s = lease.ttl_s / 3
        try:
            while (left_s := session.until_s - self._clock.monotonic_s()) > 0:
                await self._clock.sleep(min(pause_s, left_s))
                sent_s = self._clock.monotonic_s()
                ttl_s = await self._renew(lease, left_s=session.until_s - sent_s)
                if ttl_s is None:
                    pause_s = PAUSE_S
                else:
                    session.hold_until(sent_s + ttl_s)
                    pause_s = ttl_s / 3
        finally:
            # However it came to its end, nobody keeps the lease any more.
            session.end()

    async def _renew(self, lease: Lease, *, left_s: float) -> int | None:
        """Return how long the lease lasts from now on; 0: it is lost, None: nobody answered."""
        if left_s <= 0:
            return 0
        with suppress(StoreError, TimeoutError):
            # Where a log-in is due as well, that has no more time either: the lease ends meanwhile.
            async with asyncio.timeout(left_s):
                response = await self._client.first_response(
                    KEEP_ALIVE,
                    LeaseKeepAliveRequest(id=lease.id),
                    doing="keep the lease",
                    deadline_s=min(left_s, lease.ttl_s / 6),
                )
                return response.ttl
        return None

    async def _revoke(self, lease: Lease) -> None:
        """End the lease, and the key with it; where that fails, etcd does it when it is due."""
        with suppress(StoreError):
            request = LeaseRevokeRequest(id=lease.id)
            await self._client.read(
                REVOKE, request, doing="end the lease", deadline_s=GIVE_BACK_DEADLINE_S
            )
