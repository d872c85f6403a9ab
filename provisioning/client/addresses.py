"""Where provisioners are, and where a token may be sent.

In:   URLs that a person configured, and URLs that a provisioner names as the leader's.
Out:  base URLs; whether one may be trusted, with or without the token. Fails with ClientError.
Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from provisioning.client.errors import ClientError


def checked_url(url: str) -> str:
    """Return a configured URL without a slash at its end.

    Raises:
        ClientError: It is no address of a server.
    """
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError(f"--provisioner.url {url!r} is no address such as http://127.0.0.1:8080")
    if "@" in parts.netloc:
        raise ClientError(
            f"--provisioner.url of {parts.hostname} must not hold a user or password; "
            "put the token into a file and give --provisioner.token-file"
        )
    if parts.query or parts.fragment:
        raise ClientError(f"--provisioner.url {url!r} must end before the `?` or `#`")
    return url.rstrip("/")


def is_trusted(url: str, configured: Sequence[str]) -> bool:
    """Say whether a token may be sent to a URL that nobody configured.

    It may to this machine itself, and to a host that is configured, as long as it does not go in
    clear where the configured URL is encrypted.
    """
    parts = _server(url)
    if parts is None:
        return False
    if is_loopback(parts.hostname or ""):
        return True
    known = [urlsplit(one) for one in configured]
    return any(
        parts.hostname == one.hostname and (parts.scheme == "https" or one.scheme == "http")
        for one in known
    )


def is_alike(url: str, named_by: str) -> bool:
    """Say whether what a URL answers is worth as much as what the one that names it would say.

    It is not where that one's answers are encrypted and these would not be.
    """
    parts = _server(url)
    return parts is not None and (parts.scheme == "https" or urlsplit(named_by).scheme == "http")


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _server(url: str) -> SplitResult | None:
    """Return the parts of a server's URL without user and password; None where it is none."""
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return None if "@" in parts.netloc else parts


def _parts(url: str) -> SplitResult | None:
    """Return the parts of a URL; None where it is none."""
    try:
        parts = urlsplit(url)
        is_port = parts.port != 0
    except ValueError:
        return None
    return parts if is_port and url.isprintable() and " " not in url else None
