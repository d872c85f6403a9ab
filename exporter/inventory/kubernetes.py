"""List the pods of a namespace, or the endpoints of a service, from Kubernetes' API."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from exporter.errors import InputError, SourceError
from exporter.inventory.address import port_of_url
from exporter.inventory.discovery import Listing, parts_of, require_ok
from exporter.inventory.fields import Problems
from exporter.inventory.http import HttpReader, Reply, too_slow
from exporter.inventory.kubernetes_objects import Page, read_pods, read_slices
from exporter.inventory.source import SourceSettings
from ollama_fleet.problems import Problem

EXAMPLES = "k8s://llm/pods?selector=app=ollama&port=http or k8s://llm/services/ollama"
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
PORT_NAME = re.compile(r"[a-z0-9-]{1,15}")
PAGE_OBJECTS = 200
MAX_PAGES = 500
"""100,000 pods: far more than one exporter polls."""
HELP_BY_STATUS = {
    401: "the API does not accept the token of the service account",
    410: "the list expired between two pages; the next reading begins again",
}
"""For a 403 the API itself says which right is missing."""


class Query(NamedTuple):
    """Which objects to list, and which of their ports is the server's."""

    namespace: str
    service: str
    """Whose endpoints are listed; empty: pods are listed."""
    selector: str
    """Of labels, in Kubernetes' own syntax; empty for all."""
    port: str
    """A name or a number; empty: the only one that is declared."""

    @property
    def path(self) -> str:
        """Return the path of the list."""
        api, kind = "api/v1", "pods"
        if self.service:
            api, kind = "apis/discovery.k8s.io/v1", "endpointslices"
        return f"/{api}/namespaces/{self.namespace}/{kind}"

    def page(self, body: bytes) -> Page:
        """Return the instances of one answer."""
        read = read_slices if self.service else read_pods
        return read(body, self.namespace, self.port)


def parse_query(url: str) -> Query:
    """Return what `k8s://NAMESPACE/pods` or `k8s://NAMESPACE/services/NAME` asks for.

    Raises:
        ValueError: It is no such URL.
    """
    parts = parts_of(url, ("selector", "port"), EXAMPLES)
    kind, _, service = parts.path.partition("/")
    is_kind = (kind == "services" and NAME.fullmatch(service)) or parts.path == "pods"
    if not is_kind or not NAME.fullmatch(parts.place):
        raise ValueError(f"must name one namespace, and pods or a service: {EXAMPLES}")
    selector, port = parts.options.get("selector", ""), parts.options.get("port", "")
    if service and selector:
        raise ValueError("must not have a selector: a service has its own")
    if port.isdecimal():
        port_of_url(port)
    elif port and not PORT_NAME.fullmatch(port):
        raise ValueError("must give the port by its name or number")
    if service:
        selector = f"kubernetes.io/service-name={service}"
    return Query(parts.place, service, selector, port)


class KubernetesDiscovery:
    """The instances that a query finds, asked for with the rights of the pod's service account."""

    def __init__(self, url: str, name: str, settings: SourceSettings) -> None:
        self._query = parse_query(url)
        self._name = name
        self._timeout_s = settings.timeout_s
        account = settings.service_account
        own = replace(settings, token_file=account / "token", ca_file=account / "ca.crt")
        self._reader = HttpReader(name, own)

    async def fill(self, listing: Listing) -> None:
        """Add all instances.

        Raises:
            SourceError: The API cannot be reached, refuses, or takes too long for all pages.
            InputError: This is no pod, or an object does not say which port is the server's.
        """
        problems = Problems(self._name)
        try:
            async with asyncio.timeout(self._timeout_s):
                n_objects = await self._read_pages(listing, problems)
        except TimeoutError as error:
            raise SourceError(too_slow(self._timeout_s)) from error
        problems.raise_if_any()
        if self._query.service and not n_objects:  # a service without pods has an empty one
            service, namespace = self._query.service, self._query.namespace
            raise SourceError(f"finds no service {service!r} in the namespace {namespace!r}")

    async def close(self) -> None:
        """Close the connection."""
        await self._reader.close()

    async def _read_pages(self, listing: Listing, problems: Problems) -> int:
        """Add the instances of all pages; return how many objects there are."""
        n_objects, token = 0, ""
        for _ in range(MAX_PAGES):
            page = await self._page(token)
            for id_, entry in page.found:
                listing.add(id_, entry)
            for fault in page.faults:
                problems.add(Problem(self._name, fault))
            n_objects, token = n_objects + page.n_objects, page.next_token
            if not token:
                return n_objects
        raise SourceError(f"lists more than {n_objects:,} objects; narrow it with a selector")

    async def _page(self, token: str) -> Page:
        options = {
            "limit": str(PAGE_OBJECTS),
            "labelSelector": self._query.selector,
            "continue": token,
        }
        given = urlencode({name: text for name, text in options.items() if text}, quote_via=quote)
        reply = await self._reader.get(f"{self._server()}{self._query.path}?{given}")
        require_ok(reply, _words(reply))
        return await asyncio.to_thread(self._query.page, reply.body)

    def _server(self) -> str:
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        if not host:
            helps = "KUBERNETES_SERVICE_HOST is not set; run the exporter in a pod of the cluster"
            raise InputError(self._name, [Problem(self._name, f"cannot be asked: {helps}")])
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class _Status(msgspec.Struct):
    """What the API answers instead of a list."""

    message: str = ""


def _words(reply: Reply) -> str:
    """Return why the API refuses: what helps, else its own words."""
    if reply.status in HELP_BY_STATUS:
        return HELP_BY_STATUS[reply.status]
    try:
        return msgspec.json.decode(reply.body, type=_Status).message
    except (msgspec.DecodeError, RecursionError):
        return ""
