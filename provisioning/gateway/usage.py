"""Ask a gateway what each developer used today."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

import msgspec

from provisioning.gateway.errors import GatewayError

TIMEOUT_S = 10.0
MAX_BYTES = 8 * 2**20


class Used(msgspec.Struct, frozen=True):
    """What one developer used."""

    tokens: int = 0
    requests: int = 0


class Today(msgspec.Struct, frozen=True):
    """What all developers used on one day."""

    day: str
    developers: dict[str, Used] = {}


def fetch(url: str) -> Today:
    """Return today's usage from a gateway's address for operators.

    Raises:
        GatewayError: It cannot be reached, or answers something else.
    """
    if not url.startswith(("http://", "https://")):
        raise GatewayError(f"--gateway.url must begin with http:// or https://, got {url}")
    target = f"{url.rstrip('/')}/usage"
    try:
        with urllib.request.urlopen(target, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return msgspec.json.decode(answer.read(MAX_BYTES), type=Today)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an answer, too
        reason = getattr(error, "reason", None) or error
        raise GatewayError(
            f"cannot read {target}: {reason}; does --gateway.url name the gateway's ops_address?"
        ) from error
