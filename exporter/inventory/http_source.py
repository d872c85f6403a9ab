"""Read inventory over HTTP, from the provisioner or any HTTP service discovery.

In:   a URL without user and password, and the name that stands for it where people read.
Out:  the JSON body, only when it has changed (ETag, and the bytes themselves), and how old it is by
the server's own account.
Fails with SourceError, never with an aiohttp error; with InputError when the token or the
certificate file is at fault. Redirects are not followed: the token is for one server.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from pathlib import Path

import aiohttp

from exporter.errors import InputError, Problem, SourceError
from exporter.inventory.formats import Format
from exporter.inventory.sources import SourceSettings, digest

CHUNK_BYTES = 2**16
MAX_TOKEN_BYTES = 8_192
TOKEN = re.compile(r"[!-~]+")
ETAG = re.compile(r"[!-~]{1,1000}")
"""Anything else could not be sent back, or only at a cost."""
AGE_HEADER = "Inventory-Age-Seconds"
"""By it a provisioner that cannot read its store says how old its list is."""
MAX_REASON_CHARACTERS = 300
"""An error may quote a good part of what a server sent."""
OK = 200
NOT_MODIFIED = 304


class HttpSource:
    """A URL that answers with the whole list each time it is asked."""

    may_be_absent = True
    form = Format.HTTP

    def __init__(self, url: str, name: str, settings: SourceSettings) -> None:
        self.name = name
        self._url = url
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._etag: str | None = None
        self.digest = b""
        """Of the last body; empty: there was none, or it is forgotten."""
        self.age_s = 0.0
        """How old the last answer was, as it says; 0: it does not say."""

    def __repr__(self) -> str:
        return f"<HttpSource: {self.name}>"

    async def read(self) -> bytes | None:
        """Return the body, or None when it has not changed since the last time.

        Raises:
            SourceError: The server cannot be reached, answers anything but 200 (or 304 to our
                ETag), takes too long or sends too much.
            InputError: The token file or the certificate file cannot be used.
        """
        headers = await self._request_headers()
        session = self._session = self._session or await self._new_session()
        try:
            async with session.get(self._url, headers=headers, allow_redirects=False) as response:
                body = await self._new_body(response)
        except TimeoutError as error:
            limit_s = self._settings.timeout_s
            raise SourceError(
                f"gave no whole answer within {limit_s:g} s (its time-out)"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SourceError(f"cannot be read: {self._reason(error)}") from error
        self.age_s = _age_s(response.headers.get(AGE_HEADER, ""))
        return (
            None if body is None else await self._unless_known(body, response.headers.get("ETag"))
        )

    def _reason(self, error: Exception) -> str:
        """Return the text of an error, unless it may repeat a query, which may be a token."""
        may_repeat = isinstance(error, aiohttp.ClientResponseError | ValueError)
        text = "" if may_repeat and "?" in self._url else " ".join(str(error).split())
        return text[:MAX_REASON_CHARACTERS] or type(error).__name__

    def forget(self) -> None:
        """Have the next reading return a body, known or not."""
        self._etag, self.digest = None, b""

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _new_session(self) -> aiohttp.ClientSession:
        """Return a session that keeps no cookies and, between two reads, no connection."""
        is_tls = self._url.lower().startswith("https:")
        verified = await asyncio.to_thread(self._tls_context) if is_tls else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=verified, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            # A small body can unpack to a huge one; see _new_body.
            auto_decompress=False,
        )

    def _tls_context(self) -> ssl.SSLContext:
        path = self._settings.ca_file
        try:
            return ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise self._unusable(path, f"cannot be used as certificates: {error}") from error

    async def _request_headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._etag is not None:
            headers["If-None-Match"] = self._etag
        if self._settings.token_file is not None:
            token = await asyncio.to_thread(self._token, self._settings.token_file)
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _token(self, path: Path) -> str:
        """Return the token; what is wrong with it is told without showing it."""
        try:
            with path.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            raise self._unusable(path, f"cannot be read: {error.strerror or error}") from error
        if not TOKEN.fullmatch(token):
            raise self._unusable(path, "must hold one token: visible ASCII without spaces")
        return token

    def _unusable(self, path: Path | None, message: str) -> InputError:
        return InputError(self.name, [Problem(str(path), f"{message} (set for {self.name})")])

    async def _new_body(self, response: aiohttp.ClientResponse) -> bytes | None:
        """Return the body of a good answer; None when the server says that we have it."""
        if response.status == NOT_MODIFIED and self._etag is not None:
            return None
        if response.status != OK:
            raise SourceError(_status_message(response.status))
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise SourceError("sent a compressed body, which was not asked for and is not read")
        return await self._bounded(response)

    async def _bounded(self, response: aiohttp.ClientResponse) -> bytes:
        limit_bytes = self._settings.max_body_bytes
        body = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > limit_bytes:
                raise SourceError(
                    f"sent more than {limit_bytes:,} bytes (the limit for an inventory); "
                    "serve it in parts, and give each as an --inventory of its own"
                )
        return bytes(body)

    async def _unless_known(self, body: bytes, etag: str | None) -> bytes | None:
        """Return the body unless it is the last one again; remember it, with its ETag."""
        found = await asyncio.to_thread(digest, body)
        is_known = found == self.digest
        self._etag, self.digest = etag if etag and ETAG.fullmatch(etag) else None, found
        return None if is_known else body


def _age_s(text: str) -> float:
    try:
        age_s = float(text)
    except ValueError:
        return 0.0
    return age_s if math.isfinite(age_s) else 0.0


def _status_message(status: int) -> str:
    if 300 <= status < 400:
        return f"answered {status}, a redirect, which is not followed; give the final URL"
    if status in {401, 403}:
        return f"answered {status}; does its token file hold a valid token?"
    return f"answered {status}, expected 200"
