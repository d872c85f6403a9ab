"""Hear of containers that end or run out of memory, as it happens.

In:   a daemon. Out: a call for each event, as long as the daemon lives and again once it is back.
Fails never, and logs what it did not expect. What happened while the connection was down is not
told, so `look` is called in each try, to look for it: after the subscription was asked for, so that
what happens amid it is heard. containerd does not say when it has taken a subscription: it does so
in microseconds, while the look asks it two things, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable

from provisioning.clock import Clock
from provisioning.errors import UnitError
from provisioning.runtime import containerd_api as api
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd_daemon import Daemon

EXIT, OUT_OF_MEMORY = "/tasks/exit", "/tasks/oom"
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0

log = logging.getLogger(__name__)


class Events:
    """A subscription that is renewed whenever it ends."""

    def __init__(
        self,
        daemon: Daemon,
        namespace: str,
        clock: Clock,
        *,
        look: Callable[[], Awaitable[None]],
        heard: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """Call `heard(topic, container)`; both calls may raise UnitError, which ends a try."""
        topics = f"{EXIT}|{OUT_OF_MEMORY}"
        events = f'namespace=="{namespace}",topic~="^({topics})$"'
        self._request = messages.SubscribeRequest(filters=[events])
        self._daemon = daemon
        self._clock = clock
        self._look = look
        self._heard = heard
        self._listening: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Go on listening in the background, from the first call until `close`."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _listen(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                async with self._daemon.begun(api.SUBSCRIBE, self._request) as envelopes:
                    await self._look()
                    wait_s = FIRST_WAIT_S
                    await self._hear(envelopes)
            except UnitError as error:
                log.debug("events of %s: %s", self._daemon.endpoint, error)
            except Exception:
                # A fault of ours must not make us deaf for ever; once is enough for a while.
                log.exception("the events of %s could not be heard", self._daemon.endpoint)
                wait_s = LONGEST_WAIT_S
            await self._clock.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _hear(self, envelopes: AsyncIterable[messages.Envelope]) -> None:
        async for envelope in envelopes:
            event = messages.TaskEvent.FromString(envelope.event.value)
            await self._heard(envelope.topic, event.container_id)
