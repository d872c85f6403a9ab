"""Check the URLs and addresses of servers that settings name."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

SCHEMES = ("http://", "https://")
HOST_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/\s]*)):([0-9]{1,5})")


def http_url(text: str, *, example: str, instead: str = "") -> str:
    """Return the URL of a server; no message repeats it, as it may hold a secret.

    Args:
        text: What somebody wrote.
        example: What the message shows where the text is not a URL.
        instead: Where a user and password belong, as the message says.

    Raises:
        ValueError: It is not an http or https URL of a host, or holds a user or password.
    """
    if not text.lower().startswith(SCHEMES):
        raise ValueError(f"must be a URL such as {example}")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("must be visible ASCII; write other characters percent-encoded")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # whose text may repeat a password
        raise ValueError("is not a URL: its host or port cannot be read") from None
    if "@" in parts.netloc:
        helps = f"; {instead}" if instead else ""
        raise ValueError(f"must not hold a user or password, which others could read{helps}")
    if port == 0 or not _is_host(parts.hostname or ""):
        raise ValueError("must name a host, and a port from 1 to 65535 if any")
    return text


def base_url(text: str, *, example: str, instead: str = "") -> str:
    """Return a server's URL to which paths can be added, without a slash at its end.

    Raises:
        ValueError: As for `http_url`, or it has a query or fragment.
    """
    url = http_url(text, example=example, instead=instead)
    if "?" in url or "#" in url:
        raise ValueError("must end before the ? or #")
    return url.rstrip("/")


def without_password(url: str) -> str:
    """Return a URL as messages may repeat it."""
    return re.sub(r"//[^/@]*@", "//", url)


def host_port(text: str, *, example: str) -> tuple[str, int]:
    """Return host and port of `127.0.0.1:80`, `[::1]:80` or `:80`, whose host is empty.

    Raises:
        ValueError: It is not written so.
    """
    match = HOST_PORT.fullmatch(text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError(f"must be HOST:PORT such as {example}, got {text!r}")
    return match[1] or match[2], int(match[3])


def host_port_text(host: str, port: int) -> str:
    """Return `127.0.0.1:80`, `[::1]:80` or `:80`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_address(host: str) -> bool:
    """Say whether a host is an IPv4 or IPv6 address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_host(name: str) -> bool:
    """Say whether a resolver takes a name: its error would be less clear."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:  # an empty part, or one longer than 63 characters
        return False
