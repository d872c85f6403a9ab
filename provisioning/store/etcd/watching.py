"""Follow a range of keys on one stream.

In:   a range, the revision to start after, a clock.
Out:  events, all those of a revision together, in order.
Fails with CompactedError, StoreUnavailableError; then the client has turned to the next member.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio

from provisioning.clock import Clock
from provisioning.errors import CompactedError, StoreUnavailableError
from provisioning.store.etcd.client import Client, send
from provisioning.store.etcd.messages_pb2 import (
    Event,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from provisioning.store.etcd.methods import WATCH

SILENCE_S = 5.0
"""After so long without a word the member is asked for one; after twice as long it is given up."""
# Without it a member that has lost the others would stay silent for ever.
NEEDS_QUORUM = (("hasleader", "true"),)

WatchCall = grpc.aio.StreamStreamCall[Any, Any]


async def events(
    client: Client,
    key: bytes,
    *,
    end: bytes = b"",
    after: int,
    clock: Clock,
    silence_s: float = SILENCE_S,
) -> AsyncGenerator[tuple[Event, ...], None]:
    """Yield what is written to a key, or to a range, after a revision; at least one event each.

    Raises:
        CompactedError: Some of it is forgotten.
        StoreUnavailableError: The member has gone, hangs, or has lost the others.
    """
    member = client.member
    # Fragments keep a long history below the size of a message.
    create = WatchCreateRequest(key=key, range_end=end, start_revision=after + 1, fragment=True)
    parts: list[Event] = []
    try:
        call = await client.stream(WATCH, metadata=NEEDS_QUORUM)
        try:
            await send(call, WatchRequest(create_request=create))
            while True:
                response = await _response(call, client, member, clock, silence_s)
                _refuse_the_end(response, client, member, after)
                parts.extend(response.events)
                if parts and not response.fragment:
                    yield tuple(parts)
                    parts.clear()
        finally:
            call.cancel()
    except grpc.aio.AioRpcError as error:
        raise client.translated(error, doing="watch", member=member) from error


async def _response(
    call: WatchCall, client: Client, member: str, clock: Clock, silence_s: float
) -> WatchResponse:
    """Return the stream's next response, asking for a sign of life where it is silent."""
    reading = asyncio.ensure_future(call.read())
    try:
        if not await _is_done(reading, clock, silence_s):
            await send(call, WatchRequest(progress_request=WatchProgressRequest()))
            if not await _is_done(reading, clock, silence_s):
                client.pass_by(member)
                raise StoreUnavailableError(
                    f"cannot watch at etcd {member}: no sign of life for {2 * silence_s:.0f} s; "
                    f"see that it runs"
                )
        response = reading.result()
    finally:
        reading.cancel()
    if isinstance(response, WatchResponse):
        return response
    client.pass_by(member)
    raise StoreUnavailableError(f"cannot watch at etcd {member}: it ended the stream")


async def _is_done(reading: asyncio.Future[Any], clock: Clock, within_s: float) -> bool:
    waiting = asyncio.ensure_future(clock.sleep(within_s))
    try:
        await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return reading.done()


def _refuse_the_end(response: WatchResponse, client: Client, member: str, after: int) -> None:
    """Raise where the member has ended the watch: the stream itself would stay open, and silent."""
    if response.compact_revision:
        raise CompactedError(
            f"cannot watch from revision {after}: etcd has compacted everything before "
            f"{response.compact_revision}; load again"
        )
    if response.canceled:
        client.forget_login()
        client.pass_by(member)
        raise StoreUnavailableError(
            f"cannot watch at etcd {member}: {response.cancel_reason or 'it ended the watch'}; "
            f"see etcd's log and its users' roles"
        )
