"""Make the sources that the setting `inventory` names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from exporter.errors import InputError
from exporter.inventory.checks import shown
from exporter.inventory.consul import ConsulDiscovery
from exporter.inventory.discovery import Discovery, DiscoverySource
from exporter.inventory.dns import DnsDiscovery
from exporter.inventory.files import FileSource
from exporter.inventory.http import AlternativesSource, HttpSource
from exporter.inventory.kubernetes import KubernetesDiscovery
from exporter.inventory.source import Source, SourceSettings, public_names
from ollama_fleet.clock import Clock, SystemClock
from ollama_fleet.problems import Problem
from ollama_fleet.urls import SCHEMES, http_url

SEPARATOR = "|"
"""Stands between URLs that say the same."""
DEFAULTS = SourceSettings()
EXAMPLE_URL = "http://127.0.0.1:8080/instances"
DISCOVERIES: Mapping[str, Callable[[str, str, SourceSettings], Discovery]] = {
    "k8s": KubernetesDiscovery,
    "consul": ConsulDiscovery,
    "consul+https": ConsulDiscovery,
    "dns+srv": DnsDiscovery,
    "dns+a": DnsDiscovery,
    "dns+aaaa": DnsDiscovery,
}
NEITHER = "must be a path or begin with http:// or https://, or with " + ", ".join(
    f"{scheme}://" for scheme in DISCOVERIES
)


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
    if (scheme := text.partition("://")[0].lower()) in DISCOVERIES:
        return _discovery_source(scheme, text, name, settings)
    fault = _fault(urls) if urls else _path_fault(text)
    if fault:
        raise _refusal(text, fault)
    if len(urls) > 1:
        return AlternativesSource(urls, name, settings)
    if urls:
        return HttpSource(text, name, settings)
    return FileSource(Path(text), settings, clock)


def _discovery_source(
    scheme: str, text: str, name: str, settings: SourceSettings
) -> DiscoverySource:
    try:
        discovery = DISCOVERIES[scheme](text, name, settings)
    except ValueError as error:
        raise _refusal(text, str(error)) from error
    return DiscoverySource(name, discovery, settings.max_body_bytes)


def _refusal(text: str, fault: str) -> InputError:
    return InputError("inventory", [Problem(f"source {shown(text)}", fault)])


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
