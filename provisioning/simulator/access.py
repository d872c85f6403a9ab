"""Who may ask a stock Ollama: its checks of path, host and origin, before any endpoint.

In:   a Request. Out: the Request with what its answers echo, or the refusal.
Only local names and addresses are served, and only pages of local origins: 403 with an empty body
to all others. Rules as in Ollama's server/routes.go and gin-contrib/cors.
"""

from __future__ import annotations

import html
import ipaddress
import posixpath
import re
import socket
from dataclasses import replace
from http import HTTPStatus

from provisioning.simulator.release import Release
from provisioning.simulator.wire import HTML_UTF8, TEXT_UTF8, Request, Response

LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:.*)?|(app|file|tauri|vscode-webview)://.*"
)
FORBIDDEN = Response(HTTPStatus.FORBIDDEN, None, b"")
NO_HOST = Response(
    HTTPStatus.BAD_REQUEST, TEXT_UTF8, b"400 Bad Request: missing required Host header"
)
ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


class Access:
    """The checks, for the machine that this is."""

    def __init__(self) -> None:
        self._hostname = socket.gethostname()

    def admit(self, request: Request, release: Release) -> Request | Response:
        """Let a request pass, or return what it is refused with."""
        if request.host is None and request.version == "1.1":
            return NO_HOST
        if (path := _clean(request.path)) != request.path:
            return _moved(request, path)
        if (origin := _foreign_origin(request)) is not None:
            return self._admit_page(request, release, origin)
        return self._admit_host(request, release)

    def _admit_page(self, request: Request, release: Release, origin: str) -> Request | Response:
        """Ask for the origin of a script's page first, then for the host that it called."""
        if not LOCAL_ORIGIN.fullmatch(origin):
            return FORBIDDEN
        allowed = ("Access-Control-Allow-Origin", origin)
        if request.method == "OPTIONS":
            return Response(HTTPStatus.NO_CONTENT, None, b"", (*PREFLIGHT, allowed))
        return self._admit_host(replace(request, echoes=(("Vary", "Origin"), allowed)), release)

    def _admit_host(self, request: Request, release: Release) -> Request | Response:
        name = _name_of(request.host or "")
        if _is_address(name):
            return request
        if not self._is_local(name, release):
            return FORBIDDEN
        is_asked_for_methods = request.method == "OPTIONS"
        return Response(HTTPStatus.NO_CONTENT, None, b"") if is_asked_for_methods else request

    def _is_local(self, name: str, release: Release) -> bool:
        hostname = self._hostname
        if release.ignores_case_of_host:
            name, hostname = name.lower(), hostname.lower()
        return name in {"", "localhost", hostname} or name.endswith(LOCAL_SUFFIXES)


def _foreign_origin(request: Request) -> str | None:
    """Return the origin that is asked from, unless it is the server's own."""
    own = {f"http://{request.host}", f"https://{request.host}", ""}
    return None if request.origin in own else request.origin


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _clean(path: str) -> str:
    """Return a path without empty and dotted steps; a slash at its end stays."""
    if "//" not in path and "/." not in path:
        return path
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return f"{cleaned}/" if path.endswith("/") and cleaned != "/" else cleaned


def _moved(request: Request, path: str) -> Response:
    link = f'<a href="{html.escape(path)}">Moved Permanently</a>.\n\n'
    has_body = request.method in {"GET", "HEAD"}
    return Response(
        HTTPStatus.MOVED_PERMANENTLY,
        HTML_UTF8 if has_body else None,
        link.encode("latin-1") if has_body else b"",
        (("Location", path),),
    )
