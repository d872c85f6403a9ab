"""Parse where an instance listens: a URL, a `host:port` or a host."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from exporter.inventory.checks import shown

MAX_PORT = 65_535
MAX_HOST_CHARACTERS = 253
MAX_PATH_CHARACTERS = 1_024
HTTP_PORT = 80
HTTPS_PORT = 443

# The path is what may stand in a request line: visible ASCII, but no query and no fragment.
_HOST = r"\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+)"
HOST = re.compile(_HOST)
NETLOC = re.compile(rf"(?:{_HOST})(?::(?P<port>[0-9]+))?")
URL = re.compile(
    rf"(?P<scheme>https?)://(?:{_HOST})(?::(?P<port>[0-9]+))?(?P<path>/[!\"$->@-~]*)?",
    re.IGNORECASE,
)

CREDENTIALS = (
    "must not carry credentials (user:password@): they would show in logs and series; "
    "use a token file for an inventory source, and none for an instance"
)


class Address(NamedTuple):
    """Where an instance listens."""

    host: str
    port: int
    tls: bool = False
    path: str = ""
    """Without a trailing slash; empty for the root."""


def parse_url(text: str) -> Address:
    """Return the parts of `http(s)://host[:port][/path]`.

    Raises:
        ValueError: It is no such URL.
    """
    found = URL.fullmatch(text)
    if found is None:
        raise ValueError(_url_fault(text))
    tls = found["scheme"].lower() == "https"
    path = (found["path"] or "").rstrip("/")
    if len(path) > MAX_PATH_CHARACTERS:
        raise ValueError(f"path must be at most {MAX_PATH_CHARACTERS:,} characters long")
    return Address(_found_host(found), _found_port(found, tls=tls), tls, path)


def parse_netloc(text: str, *, tls: bool) -> Address:
    """Return the parts of `host:port`; without a port, the scheme's own as in Prometheus.

    Raises:
        ValueError: It is no `host:port`.
    """
    found = NETLOC.fullmatch(text)
    if found is None:
        hint = "; put the scheme into the label __scheme__" if "://" in text else ""
        raise ValueError(f"must be host:port, got {shown(text)}{hint}")
    return Address(_found_host(found), _found_port(found, tls=tls), tls)


def parse_host(text: str) -> str:
    """Return a host name or address without brackets.

    Raises:
        ValueError: It is neither a host name nor an address.
    """
    found = HOST.fullmatch(f"[{text}]" if ":" in text and not text.startswith("[") else text)
    if found is None:
        raise ValueError(f"must be a host name or an IP address, got {shown(text)}")
    return _found_host(found)


def parse_port(value: object) -> int:
    """Return a port given as a number or, as YAML and some provisioners write it, as digits.

    Raises:
        ValueError: It is no whole number from 1 to 65535.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        # More digits than any port has; int() itself would refuse thousands of them.
        value = int(value[:6])
    if type(value) is not int or not 1 <= value <= MAX_PORT:
        raise ValueError(f"must be a whole number from 1 to {MAX_PORT}, got {shown(value)}")
    return value


def port_of_url(digits: str) -> int:
    """Return a port that stands in a URL, where messages have no name for it.

    Raises:
        ValueError: It is no port.
    """
    try:
        return parse_port(digits)
    except ValueError:
        message = f"must have a port from 1 to {MAX_PORT}, got {int(digits[:6])}"
        raise ValueError(message) from None


def _found_host(found: re.Match[str]) -> str:
    host = found["name"]
    if host is None:
        return _checked_v6(found["v6"])
    if len(host) > MAX_HOST_CHARACTERS:
        raise ValueError(f"host must be at most {MAX_HOST_CHARACTERS} characters long")
    return host


def _checked_v6(host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise ValueError(f"host is not an IPv6 address: {error}") from error
    return host


def _found_port(found: re.Match[str], *, tls: bool) -> int:
    if found["port"] is not None:
        return port_of_url(found["port"])
    return HTTPS_PORT if tls else HTTP_PORT


def _url_fault(text: str) -> str:
    """Say why a text is no base URL of an instance."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        return f"must begin with http:// or https://, got {shown(text)}"
    if "@" in rest.partition("/")[0]:
        return CREDENTIALS
    if "?" in rest or "#" in rest:
        return f"must be a base URL, without ? and #, got {shown(text)}"
    return f"must be http(s)://host[:port][/path] in visible ASCII, got {shown(text)}"
