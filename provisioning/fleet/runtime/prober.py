"""Ask instances over HTTP how they are, and warm them up.

In:   where an instance listens, and what to ask.
Out:  whether it answers 200 in time; else what was seen, in words.
`ask` fails with NotAskedError, `warm_up` with TransientError. Redirects are not followed, the body
of a probe is not read, and of other bodies at most `SAID_BYTES` are kept.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import aiohttp

from provisioning.descriptors import SHORTAGES
from provisioning.fleet.errors import NotAskedError, TransientError
from provisioning.fleet.model import Probe, WarmUp

SAID_BYTES = 200
"""How much of a refusal is told."""
CHUNK_BYTES = 65_536
MAX_AT_ONCE = 1000
"""Probes: 10,000 instances that all hang for 2 s take 2,000 at once, and more descriptors than
most machines give; those that wait are asked later, which counts as no failure."""


class HttpProber:
    """Asks each time anew: between two probes no connection is held."""

    def __init__(self, *, max_at_once: int = MAX_AT_ONCE) -> None:
        """Connect at the first question; have no more than that many probes under way."""
        self._opened: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(max_at_once)

    async def ask(self, host: str, port: int, probe: Probe) -> str:
        """Return an empty text where the probe's path answers 200 within its time."""
        async with self._turns:  # its time begins with its turn
            return await self._ask(_url(host, port, probe.path), probe)

    async def _ask(self, url: str, probe: Probe) -> str:
        try:
            timeout = aiohttp.ClientTimeout(total=probe.timeout_s)
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                return "" if response.status == 200 else f"{url} answers {_status(response)}"
        except TimeoutError:
            return f"{url} does not answer within {probe.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if _is_shortage(error):
                raise NotAskedError(f"{url} was not asked: {_words(error)}") from error
            return f"{url} cannot be asked: {_words(error)}"

    async def warm_up(self, host: str, port: int, requests: Sequence[WarmUp]) -> None:
        """Send each request, and read its answer to the end."""
        for request in requests:
            url = _url(host, port, request.path)
            try:
                await self._send(url, request)
            except TimeoutError as error:
                raise TransientError(
                    f"the warm-up {url} is not answered within {request.timeout_s:g} s; raise its "
                    "`timeout`, or see the instance's log"
                ) from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise TransientError(f"the warm-up {url} failed: {_words(error)}") from error

    async def close(self) -> None:
        """Close what is open."""
        if self._opened is not None:
            await self._opened.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            # How many are asked at once is limited above: time-outs would run in its queue.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._opened = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._opened

    async def _send(self, url: str, request: WarmUp) -> None:
        async with self._session.request(
            "POST" if request.body else "GET",
            url,
            data=request.body.encode() or None,
            headers={"Content-Type": "application/json"} if request.body else {},
            timeout=aiohttp.ClientTimeout(total=request.timeout_s),
            allow_redirects=False,
        ) as response:
            said = await _read(response)
            if response.status != 200:
                raise TransientError(
                    f"the warm-up {url} was answered with {_status(response)}: {said}; see the "
                    "instance's log"
                )


def _url(host: str, port: int, path: str) -> str:
    address = f"[{host}]" if ":" in host else host
    return f"http://{address}:{port}{path}"


def _status(response: aiohttp.ClientResponse) -> str:
    return f"{response.status} {response.reason or ''}".strip()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_shortage(error: Exception) -> bool:
    """Say whether this machine lacks something; a failed resolver does not say why it failed."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        try:
            socket.socket().close()
        except OSError as of_ours:
            error = of_ours
    return isinstance(error, OSError) and error.errno in SHORTAGES


async def _read(response: aiohttp.ClientResponse) -> str:
    """Read the body to its end, for it may be a stream of progress; return its beginning."""
    said = b""
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        said += chunk[: SAID_BYTES - len(said)]
    return " ".join(said.decode(errors="replace").split()) or "(nothing)"
