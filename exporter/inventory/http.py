"""Read inventory documents from HTTP servers, and from the replica that answers."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import aiohttp

from exporter.errors import InputError, SourceError, os_reason
from exporter.inventory.formats import Format
from exporter.inventory.source import SourceSettings, digest, public_names
from ollama_fleet.bounded_http import BodyTooLargeError, read_body
from ollama_fleet.problems import Problem

log = logging.getLogger("exporter.inventory")

KEPT_S = 1.0
MAX_TOKEN_BYTES = 8_192
TOKEN = re.compile(r"[!-~]+")
ETAG = re.compile(r"[!-~]{1,1000}")
"""Anything else could not be sent back, or only at a cost."""
AGE_HEADER = "Inventory-Age-Seconds"
"""By it a provisioner that cannot read its store says how old its list is."""
MAX_ERROR_BYTES = 4_096
MAX_REASON_CHARACTERS = 300
"""An error may quote a good part of what a server sent."""
OK = 200
NOT_MODIFIED = 304


class Reply(NamedTuple):
    """What a server answered; of an error's body only the beginning."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpReader:
    """Reads from one server within the bounds of a source, with its token and certificates."""

    def __init__(self, name: str, settings: SourceSettings) -> None:
        self._name = name
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Return the answer to a GET, whatever its status is.

        Raises:
            SourceError: The server cannot be reached, takes too long or sends too much.
            InputError: The token file or the certificate file cannot be used.
        """
        headers = {**await self._own_headers(), **(headers or {})}
        session = self._session = self._session or await self._new_session(url)
        try:
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                return Reply(response.status, response.headers, await self._body(response))
        except TimeoutError as error:
            raise SourceError(too_slow(self._settings.timeout_s)) from error
        except aiohttp.ClientConnectorError as error:
            await self.close()  # the next session reads the certificates again
            raise SourceError(_connect_message(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SourceError(f"cannot be read: {_reason(error, url)}") from error

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _new_session(self, url: str) -> aiohttp.ClientSession:
        """Return a session that keeps no cookies, and a connection only from page to page."""
        is_tls = url.lower().startswith("https:")
        verified = await asyncio.to_thread(self._tls_context) if is_tls else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=verified, keepalive_timeout=KEPT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            # A small body can unpack to a huge one; see _body.
            auto_decompress=False,
        )

    def _tls_context(self) -> ssl.SSLContext:
        path = self._settings.ca_file
        try:
            return ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise self._unusable(path, f"cannot be used as certificates: {error}") from error

    async def _own_headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._settings.token_file is not None:
            token = await asyncio.to_thread(self._token, self._settings.token_file)
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _token(self, path: Path) -> str:
        """Return the token; errors do not show it."""
        try:
            with path.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            raise self._unusable(path, f"cannot be read: {error.strerror or error}") from error
        if not TOKEN.fullmatch(token):
            raise self._unusable(path, "must hold one token: visible ASCII without spaces")
        return token

    def _unusable(self, path: Path | None, message: str) -> InputError:
        return InputError(self._name, [Problem(str(path), f"{message} (set for {self._name})")])

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != OK:
            return await response.content.read(MAX_ERROR_BYTES)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise SourceError("sent a compressed body, which was not asked for and is not read")
        try:
            return await read_body(response.content, self._settings.max_body_bytes)
        except BodyTooLargeError as error:
            raise SourceError(
                f"sent {error} (the limit for an inventory); "
                "serve it in parts, and give each as an --inventory of its own"
            ) from error


def too_slow(timeout_s: float) -> str:
    """Return the words for a server that does not answer in time."""
    return f"sent no complete answer within {timeout_s:g} s (the timeout)"


def _connect_message(error: aiohttp.ClientConnectorError) -> str:
    """Return why there is no connection, in the system's words instead of aiohttp's."""
    cause = error.__cause__
    why = os_reason(cause) if isinstance(cause, OSError) else str(cause)
    return f"cannot connect to {error.host}:{error.port}: {why[:MAX_REASON_CHARACTERS]}"


def _reason(error: Exception, url: str) -> str:
    """Return the text of an error, unless it may repeat a query, which may be a token."""
    may_repeat = isinstance(error, aiohttp.ClientResponseError | ValueError)
    text = "" if may_repeat and "?" in url else " ".join(str(error).split())
    return text[:MAX_REASON_CHARACTERS] or type(error).__name__


class HttpSource:
    """A URL that answers with the whole list each time it is asked."""

    may_be_absent = True
    form = Format.HTTP

    def __init__(self, url: str, name: str, settings: SourceSettings) -> None:
        self.name = name
        self._url = url
        self._reader = HttpReader(name, settings)
        self._etag: str | None = None
        self.digest = b""
        """Of the last body; empty: there was none, or it is forgotten."""
        self.age_s = 0.0
        """How old the last answer was, as it says; 0: it does not say."""

    async def read(self) -> bytes | None:
        """Return the body, or None when it has not changed since the last time.

        Raises:
            SourceError: The server cannot be reached, answers anything but 200 (or 304 to our
                ETag), takes too long or sends too much.
            InputError: The token file or the certificate file cannot be used.
        """
        known = {} if self._etag is None else {"If-None-Match": self._etag}
        reply = await self._reader.get(self._url, known)
        self.age_s = _age_s(reply.headers.get(AGE_HEADER, ""))
        if known and reply.status == NOT_MODIFIED:
            return None
        if reply.status != OK:
            raise SourceError(status_message(reply.status))
        return await self._unless_known(reply.body, reply.headers.get("ETag"))

    def forget(self) -> None:
        """Have the next reading return a body, known or not."""
        self._etag, self.digest = None, b""

    async def close(self) -> None:
        """Close the connection."""
        await self._reader.close()

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


def status_message(status: int) -> str:
    """Return what is wrong with a status that is not 200."""
    if 300 <= status < 400:
        return f"answered {status}, a redirect, which is not followed; give the final URL"
    if status in {401, 403}:
        return f"answered {status}; does its token file hold a valid token?"
    return f"answered {status}, expected 200"


OLD_AFTER_S = 30.0
"""From then on other servers are asked as well, and one is taken if its list is fresher by as much.
A provisioner that follows its store says 0."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one server answered."""

    index: int
    body: bytes | None
    """None: it is the one that was given last."""
    age_s: float


class AlternativesSource:
    """Several URLs that answer with one list."""

    may_be_absent = True
    form = Format.HTTP

    def __init__(self, urls: Sequence[str], name: str, settings: SourceSettings) -> None:
        self.name = name
        # All of them together may take as long as one: a server that hangs holds up nobody.
        share = replace(settings, timeout_s=settings.timeout_s / len(urls))
        names = public_names(urls)
        self._sources = [HttpSource(*pair, share) for pair in zip(urls, names, strict=True)]
        self._current = 0
        self._digest = b""
        """Of the body that was given last."""

    def __repr__(self) -> str:
        return f"<AlternativesSource: {self.name}, now {self._sources[self._current].name}>"

    async def read(self) -> bytes | None:
        """Return the body, or None when it has not changed since the last time.

        Raises:
            SourceError: None of the servers can be read.
            InputError: The token file or the certificate file, which they share, cannot be used.
        """
        faults: dict[int, str] = {}
        answers: list[_Answer] = []
        for index in self._order():
            try:
                answers.append(await self._answer(index))
            except SourceError as error:
                faults[index] = str(error)
            else:
                if answers[-1].age_s <= OLD_AFTER_S:
                    break
        if not answers:
            seen = (f"{self._sources[index].name}: {fault}" for index, fault in faults.items())
            raise SourceError(f"none of its servers can be read: {'; '.join(seen)}")
        return self._taken(_best(answers), faults)

    async def close(self) -> None:
        """Close the connections."""
        for source in self._sources:
            await source.close()

    def _order(self) -> Iterator[int]:
        """Yield the server that was taken last, then those after it, round to those before it."""
        n = len(self._sources)
        return ((self._current + step) % n for step in range(n))

    async def _answer(self, index: int) -> _Answer:
        source = self._sources[index]
        if source.digest != self._digest:
            # "Unchanged" from it would be about another list than the one that was given last.
            source.forget()
        body = await source.read()
        return _Answer(index, None if source.digest == self._digest else body, source.age_s)

    def _taken(self, answer: _Answer, faults: dict[int, str]) -> bytes | None:
        if answer.index != self._current:
            old = self._sources[self._current]
            reason = faults.get(self._current, f"its list is {old.age_s:.0f} s old")
            new = self._sources[answer.index].name
            log.warning("inventory server changed from=%s to=%s: %s", old.name, new, reason)
        self._current = answer.index
        self._digest = self._sources[answer.index].digest
        return answer.body


def _best(answers: Sequence[_Answer]) -> _Answer:
    """Return the first answer unless another is fresher by far.

    While the store is away from all servers their lists age alike; then nobody takes over.
    """
    freshest = min(answers, key=lambda answer: answer.age_s)
    is_behind = answers[0].age_s - freshest.age_s > OLD_AFTER_S
    return freshest if is_behind else answers[0]
