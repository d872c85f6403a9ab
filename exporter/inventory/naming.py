"""Build a source from what the operator wrote.

In:   a path, an http(s) URL, or several URLs between which a | stands.
Out:  the Source for it; nothing is read yet.
Fails with InputError, whose text does not repeat credentials.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from exporter.errors import InputError, Problem
from exporter.inventory.alternatives import AlternativesSource
from exporter.inventory.checks import shown
from exporter.inventory.file_source import FileSource
from exporter.inventory.http_source import HttpSource
from exporter.inventory.sources import SEPARATOR, Source, SourceSettings, public_names
from ollama_fleet.clock import Clock, SystemClock

DEFAULTS = SourceSettings()
SCHEMES = ("http://", "https://")
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
    if not (text.isascii() and text.isprintable()) or " " in text:
        return "must be visible ASCII; other characters are written percent-encoded"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # whose text may repeat a password
        return "is not a URL: its host or port cannot be read"
    if "@" in parts.netloc:
        return "must not carry credentials, which would show in logs and series; use a token file"
    if not parts.hostname or port == 0:
        return "must name a host, and a port from 1 to 65535 if any"
    try:
        parts.hostname.encode("idna")  # as the resolver will do, whose error would be less clear
    except UnicodeError:
        host = shown(parts.hostname)
        return f"must name a host; {host} has an empty part or one longer than 63 characters"
    return "must not have a fragment (#)" if parts.fragment else ""
