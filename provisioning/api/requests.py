"""Which requests are looked at: for whom they are, and what their queries and headers say.

In:   a request, and what its operation takes.
Out:  the version that it is for.
Fails with web.HTTPException, BadRequestError or OutdatedError.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from provisioning.api.errors import BadRequestError, OutdatedError
from provisioning.api.operations import Operation
from provisioning.api.ports import ANY
from provisioning.spec.problems import did_you_mean

TAGS = re.compile(r'"[!#-~]*"(?:[ \t]*,[ \t]*"[!#-~]*")*')
"""One or more strong ETags."""
VERSION = re.compile(r'"(0|[1-9][0-9]{0,18})"')


class MisdirectedError(web.HTTPClientError):
    """The request is for another server."""

    status_code = HTTPStatus.MISDIRECTED_REQUEST


def check_host(request: web.Request, own_names: Collection[str]) -> None:
    """Refuse a request for a host that is not ours.

    A page of a stranger's may give its own name our address, and so have a browser ask us for it.
    An address as a host cannot be had that way.
    """
    given = request.headers.get("Host")
    if given is None:
        return  # no browser
    host = _host(given)
    if host != "localhost" and host not in own_names and not _is_address(host):
        raise MisdirectedError(
            text=f"no host of ours is called {given[:255]!a}; ask by address, or give the name as "
            "the provisioner's --web.external-url"
        )


def _host(given: str) -> str:
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_query(operation: Operation, request: web.Request) -> None:
    """Refuse what the operation does not know.

    Raises:
        BadRequestError: A parameter or its value is unknown, or it is there twice.
    """
    known = {one.name: one for one in operation.parameters if one.where == "query"}
    for name in request.query:
        if name not in known:
            near = did_you_mean(name, known)
            raise BadRequestError(f"unknown parameter {name!r} of {operation.path}{near}")
        values = request.query.getall(name)
        if len(values) > 1 and not known[name].is_repeatable:
            raise BadRequestError(f"parameter {name} is given {len(values)} times; give it once")
        choices = known[name].choices
        for value in values:
            if choices and value not in choices:
                seen = f"must be one of {', '.join(choices)}, got {value!r}"
                raise BadRequestError(f"parameter {name} {seen}")


def expected_version(request: web.Request) -> int | None:
    """Return the version that If-Match names, or ANY; None: it is not there.

    Raises:
        BadRequestError: It names none; to take it for absent would be to write unguarded.
        OutdatedError: It names one that was never in force, or several.
    """
    given = ", ".join(request.headers.getall("If-Match", ())).strip()
    if "If-Match" not in request.headers:
        return None
    if given == "*":
        return ANY
    if not TAGS.fullmatch(given):
        raise BadRequestError(
            "If-Match must be the ETag that GET /spec gave, in its quotes and without the W/ that "
            f'a compressing proxy puts before it, such as "7", or *, got {given[:80]!a}'
        )
    version = VERSION.fullmatch(given)
    if version is None:
        raise OutdatedError("If-Match must be the ETag that GET /spec gave")
    return int(version[1])
