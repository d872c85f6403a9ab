"""Read inventory documents from files and HTTP servers, only when they have changed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import re
import ssl
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import aiohttp

from exporter.errors import InputError, SourceError
from exporter.inventory.checks import shown
from exporter.inventory.formats import Format
from ollama_fleet.bounded_http import BodyTooLargeError, read_body
from ollama_fleet.clock import Clock, SystemClock
from ollama_fleet.files import TooLargeError, UnreadableFileError, read_regular
from ollama_fleet.problems import Problem
from ollama_fleet.urls import SCHEMES, http_url

SEPARATOR = "|"
"""Stands between URLs that say the same."""
QUERY = re.compile(r"\?[^|]*")


class Source(Protocol):
    """One place that lists instances."""

    @property
    def name(self) -> str:
        """Return what messages and series call the source: its path or URL, without a query."""
        ...

    @property
    def form(self) -> Format:
        """Return how the source writes its list."""
        ...

    @property
    def may_be_absent(self) -> bool:
        """Return whether the exporter starts without it: true for what another program serves."""
        ...

    async def read(self) -> bytes | None:
        """Return the whole document, or None when it is the one that was returned last.

        Raises:
            SourceError: It cannot be read now. The text says what was seen, without the name.
            InputError: It can never be read as it is set up.
        """
        ...

    async def close(self) -> None:
        """Give back what the source holds open."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """The bounds of one source, and for a URL how to speak to it."""

    timeout_s: float = 10.0
    """For one whole HTTP exchange, from resolving the name to the last byte."""
    max_body_bytes: int = 64 * 2**20
    token_file: Path | None = None
    """Holds a bearer token, sent to this source only; read each time, so it may be rotated."""
    ca_file: Path | None = None
    """Certificates (PEM) to verify the server by, in place of the system's."""


def public_names(texts: Iterable[str]) -> list[str]:
    """Return what messages and series call sources.

    A query may be a token and is hidden. Sources that differ only there get a number.
    """
    n_by_name: Counter[str] = Counter()
    names: list[str] = []
    for text in texts:
        name = QUERY.sub("?***", text) if "://" in text else text
        n_by_name[name] += 1
        names.append(name if n_by_name[name] == 1 else f"{name} ({n_by_name[name]})")
    return names


def digest(body: bytes) -> bytes:
    """Return a fingerprint by which a body is known again without keeping it."""
    return hashlib.blake2b(body, digest_size=32).digest()


SETTLED_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What the file system says about a file; an equal stamp means that nobody wrote to it."""

    mtime_ns: int
    size_bytes: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Version:
    """A file's content as it was last read."""

    stamp: _Stamp | None
    """None while the file is so fresh that a second write could leave the same stamp."""
    digest: bytes


class FileSource:
    """A file on disk. It may be rewritten, or better replaced by renaming another over it."""

    may_be_absent = False

    def __init__(self, path: Path, settings: SourceSettings, clock: Clock) -> None:
        self.name = str(path)
        self.form = Format.JSON if path.suffix.lower() == ".json" else Format.YAML
        self._path = path
        self._max_bytes = settings.max_body_bytes
        self._clock = clock
        self._known: _Version | None = None

    def __repr__(self) -> str:
        return f"<FileSource: {self.name}>"

    async def read(self) -> bytes | None:
        """Return the file's bytes, or None when they have not changed since the last time.

        Raises:
            SourceError: The file is missing, unreadable, no regular file or too large.
        """
        known = self._known
        found = await asyncio.to_thread(self._read_if_changed, known)
        if found is None:
            return None
        body, self._known = found
        return None if known and known.digest == self._known.digest else body

    async def close(self) -> None:
        """Do nothing: no file stays open between two reads."""

    def _read_if_changed(self, known: _Version | None) -> tuple[bytes, _Version] | None:
        try:
            status = os.stat(self._path)
            if known and known.stamp == _stamp(status):
                return None
            return self._read_all()
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror or error}") from error

    def _read_all(self) -> tuple[bytes, _Version]:
        try:
            body, status = read_regular(self._path, self._max_bytes)
        except TooLargeError as error:
            helps = "split it, and give each part as an --inventory of its own"
            raise SourceError(f"{error} (the limit for an inventory); {helps}") from error
        except UnreadableFileError as error:
            raise SourceError(str(error)) from error
        return body, _Version(self._settled_stamp(status), digest(body))

    def _settled_stamp(self, status: os.stat_result) -> _Stamp | None:
        """Return the stamp once it can be trusted: file systems' clocks tick in milliseconds."""
        age_s = self._clock.unix_s() - status.st_mtime
        return _stamp(status) if age_s > SETTLED_AFTER_S else None


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


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
                f"sent no complete answer within {limit_s:g} s (the timeout)"
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
        try:
            return await read_body(response.content, self._settings.max_body_bytes)
        except BodyTooLargeError as error:
            raise SourceError(
                f"sent {error} (the limit for an inventory); "
                "serve it in parts, and give each as an --inventory of its own"
            ) from error

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


log = logging.getLogger("exporter.inventory")

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


DEFAULTS = SourceSettings()
EXAMPLE_URL = "http://127.0.0.1:8080/instances"
NEITHER = "must be a path or begin with http:// or https://"


def sources_for(
    texts: Iterable[str], settings: SourceSettings = DEFAULTS, clock: Clock | None = None
) -> list[Source]:
    """Return the sources that texts name: a path, an http(s) URL or several alternative URLs each.

    Raises:
        InputError: A text is empty, or holds a URL that cannot be used.
    """
    texts = list(texts)
    named = zip(texts, public_names(texts), strict=True)
    return [_source(text, name, settings, clock or SystemClock()) for text, name in named]


def _source(text: str, name: str, settings: SourceSettings, clock: Clock) -> Source:
    urls = urls_of(text)
    fault = _fault(urls) if urls else _path_fault(text)
    if fault:
        raise InputError("inventory", [Problem(f"source {shown(text)}", fault)])
    if len(urls) > 1:
        return AlternativesSource(urls, name, settings)
    if urls:
        return HttpSource(text, name, settings)
    return FileSource(Path(text), settings, clock)


def urls_of(text: str) -> tuple[str, ...]:
    """Return the URLs that a source's text holds; none where it is a path.

    No URL holds the separator itself: RFC 3986 has it percent-encoded. A path may.
    """
    # With one slash it is a slip of the pen, and may hold a password all the same.
    is_url = "://" in text or text.lower().startswith(("http:/", "https:/"))
    return tuple(text.split(SEPARATOR)) if is_url else ()


def _path_fault(text: str) -> str:
    if "?" in text and not Path(text).exists():  # a URL without its scheme: a path shows in logs
        return NEITHER
    return "" if text else "is empty"


def _fault(urls: tuple[str, ...]) -> str:
    """Return what is wrong with a source's URLs; empty when nothing is."""
    if len(urls) == 1:
        return _url_fault(urls[0])
    if not all(url.lower().startswith(SCHEMES) for url in urls):
        helps = f"within a URL, {SEPARATOR} is written %7C"
        return f"must have URLs, http:// or https://, on both sides of each {SEPARATOR}; {helps}"
    return next(filter(None, map(_url_fault, urls)), "")


def _url_fault(text: str) -> str:
    """Return what is wrong with the URL of a source; empty when nothing is."""
    if not text.lower().startswith(SCHEMES):
        return NEITHER
    try:
        http_url(text, example=EXAMPLE_URL, instead="use inventory.token-file")
    except ValueError as error:
        return str(error)
    return "must not have a fragment (#)" if "#" in text else ""
