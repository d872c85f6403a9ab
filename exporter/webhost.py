"""Refuse requests to names that are not ours.

In:   the Host header of each request, and the names that the settings allow.
Out:  an aiohttp application that answers 403 to others.
A stranger's web page may give its own name our address (DNS rebinding); the browser of somebody
who can reach us then lets it read our pages. Such a name is one that can be registered: addresses,
names without a dot, and those of the local network are not. Only the Host tells: browsers send no
Origin with such a request, as it is one to the page's own name.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.inventory.checks import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp.typedefs import Handler

log = logging.getLogger("exporter.web")

ANY = "*"
OPEN_PATHS = ("/-/healthy", "/-/ready")
"""Probes ask under any name; there is nothing to be read."""
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
"""Nobody can register names that end so; Ollama takes the same."""
MAX_LOGGED = 10
"""Refused names that are logged, each once."""
HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:/@]*))(?::\d*)?")


class HostCheck:
    """Takes requests to addresses, to local names and to those that are allowed."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = {socket.gethostname().lower(), *allowed}
        self._logged: set[str] = set()

    def protect(
        self,
        app: web.Application,
        *,
        is_needed: Callable[[], bool],
        on_refusal: Callable[[], object],
    ) -> None:
        """Let the application answer requests to our names only, while that is needed."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            hosts = request.headers.getall("Host", [])
            if request.path in OPEN_PATHS or not is_needed() or all(map(self.is_ours, hosts)):
                return await handler(request)
            on_refusal()
            return web.Response(status=403, text=self._refusal(", ".join(hosts)))

        app.middlewares.append(check)

    def is_ours(self, host: str) -> bool:
        """Return whether a Host header names us."""
        match = HOST.fullmatch(host.strip().lower())
        if ANY in self._allowed or match is None:
            return ANY in self._allowed
        name = (match[1] or match[2] or "").rstrip(".")
        return (
            "." not in name
            or name in self._allowed
            or name.endswith(LOCAL_SUFFIXES)
            or _is_address(name)
        )

    def _refusal(self, host: str) -> str:
        helps = "--web.allowed-hosts NAME allows a further name, without its port"
        if host not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(host)
            log.warning("request refused host=%s: %s", shown(host), helps)
        return f"The exporter does not answer as {shown(host)}: {helps}.\n"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
