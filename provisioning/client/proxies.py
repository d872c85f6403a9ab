"""Which proxy of the environment a request may go through, and what one that fails says.

In:   URLs, what requests raises, and the variables HTTPS_PROXY, ALL_PROXY and NO_PROXY.
Out:  a proxy's URL, or none; words without its password.

Only what is encrypted to its end goes through a proxy, which then learns the provisioner's name and
no more. What goes in clear is a token and a specification with its secrets: it goes straight to the
provisioner, and so does everything on this machine, where a proxy would look for itself.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import requests
from requests.exceptions import InvalidProxyURL, InvalidSchema, ProxyError
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from provisioning.client.addresses import is_loopback
from provisioning.client.answers import SHOWN_CHARACTERS, TUNNEL_REFUSED, never_arrived

SCHEMES = frozenset({None, "http", "https", "socks4", "socks4a", "socks5", "socks5h"})
"""Those of proxies; None: it is not given, and http."""


def proxy_of(url: str) -> str | None:
    """Return the URL of the proxy that a request for a URL goes through; None: through none."""
    return _proxy_named_for(url) if urlsplit(url).scheme == "https" else None


def proxies_for(url: str) -> dict[str, str]:
    """Return what requests is to be told of the proxy for a URL; nothing where there is none.

    Raises:
        InvalidProxyURL: It is no address. What requests itself would say has the password in it.
    """
    proxy = proxy_of(url)
    if proxy is None:
        return {}
    if not _is_address(proxy):
        raise InvalidProxyURL(_shown(proxy))
    return {"https": proxy}


def with_proxy(words: str, url: str, error: requests.RequestException) -> str:
    """Return words on an error with the proxy that has to do with it, where one has.

    Args:
        words: What is said of the error itself.
        url: What was asked for.
        error: What requests raised.
    """
    proxy = proxy_of(url)
    if proxy is None:
        is_missed = _proxy_named_for(url) is not None
        return f"{words} (plain http goes through no proxy)" if is_missed else words
    refusal = _refusal(error)
    if refusal is not None:
        return f"the proxy {_shown(proxy)} does not pass on: {refusal}"
    if isinstance(error, InvalidProxyURL):
        return f"the proxy {_shown(proxy)} cannot be used: it is no address of a proxy"
    if isinstance(error, InvalidSchema):
        return f"the proxy {_shown(proxy)} cannot be used: it needs PySocks, which is not installed"
    if isinstance(error, ProxyError) and never_arrived(error):
        return f"no connection to the proxy {_shown(proxy)}"
    return f"{words}, through the proxy {_shown(proxy)}"


def _proxy_named_for(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; None on this machine."""
    if is_loopback(urlsplit(url).hostname or ""):
        return None
    return select_proxy(url, get_environ_proxies(url))


def _is_address(proxy: str) -> bool:
    try:
        parts = parse_url(proxy)
    except LocationParseError:
        return False
    return bool(parts.host) and parts.scheme in SCHEMES


def _refusal(error: requests.RequestException) -> str | None:
    """Return what a proxy answered that did not pass on: `403 Forbidden`; None: nothing such."""
    _, found, words = str(error).partition(TUNNEL_REFUSED)
    return words.rstrip("')").strip()[:SHOWN_CHARACTERS] if found else None


def _shown(proxy: str) -> str:
    """Return a proxy's URL without user and password."""
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
