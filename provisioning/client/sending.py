"""Send one request to one server, within bounds.

In:   where to, what, and whose token.
Out:  whole answers. Redirects are not followed.
Fails with requests' errors, which `words` tells, and ClientError.
Of the environment only the authorities in REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE count, and proxies
as `proxies` says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from provisioning.client.answers import Answer, error_text
from provisioning.client.errors import ChangeInterruptedError, ClientError
from provisioning.client.proxies import proxies_for, with_proxy

IDEMPOTENCY_KEY = "Idempotency-Key"
AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name a file or folder of them; the first that is set counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long to wait, how much to read, how often to try."""

    connect_s: float = 3.0
    silence_s: float = 30.0
    """Between two pieces of an answer."""
    hasty_s: float = 3.0
    """Likewise, where another provisioner can be asked instead."""
    total_s: float = 120.0
    body_bytes: int = 256 * 2**20
    rounds: int = 3
    """Of asking every provisioner for a read."""
    wait_s: float = 0.5
    """Before the second round; it doubles with each."""
    patience_s: float = 20.0
    """For a provisioner that answers but does not lead, or know the fleet, yet: within twice its
    lease, 10 s unless told otherwise, a leader that is gone has a successor."""


class Order(NamedTuple):
    """A request, wherever it is sent."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    token: str | None = None

    @property
    def is_change(self) -> bool:
        """Say whether it changes something; all that does has a key, to be done once."""
        return IDEMPOTENCY_KEY in self.headers

    @property
    def is_telling(self) -> bool:
        """Say whether it holds what not everybody may know: a token, or a specification."""
        return self.token is not None or self.body is not None


class _Bearer(AuthBase):
    """Sets the token, or none; as `auth`, because requests prefers a ~/.netrc to a header."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Sender:
    """Keeps connections open."""

    def __init__(
        self, bounds: Bounds, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._bounds = bounds
        self._monotonic_s = monotonic_s
        self._session = requests.Session()
        # By itself it would hand all to any proxy that the environment names, on loopback too.
        self._session.trust_env = False

    def close(self) -> None:
        """Close them."""
        self._session.close()

    def send(self, url: str, order: Order, *, is_hasty: bool = False) -> Answer:
        """Send a request to the server at a URL; return its answer, whatever it says.

        Args:
            url: Of the server.
            order: The request.
            is_hasty: It is waited for no longer than while others can be asked.

        Raises:
            requests.RequestException: There is no whole answer within the bounds.
            ClientError: The authorities that the environment names are not there.
            ChangeInterruptedError: Ctrl-C came before there was one to a change.
        """
        try:
            return self._answer(url, order, is_hasty=is_hasty)
        except KeyboardInterrupt as error:
            if order.is_change:
                raise ChangeInterruptedError from error
            raise

    def _answer(self, url: str, order: Order, *, is_hasty: bool) -> Answer:
        bounds = self._bounds
        give_up_s = self._monotonic_s() + bounds.total_s
        content = {} if order.body is None else {"Content-Type": "application/json"}
        with self._session.request(
            order.method,
            url + order.path,
            data=order.body,
            headers={"Accept": "application/json", **content, **order.headers},
            auth=_Bearer(order.token),
            proxies=proxies_for(url),
            verify=_authorities_for(url) or True,
            timeout=(bounds.connect_s, self._silence_s(is_hasty=is_hasty)),
            allow_redirects=False,
            stream=True,
        ) as response:
            whole = self._whole(response, give_up_s)
            return Answer(url, response.status_code, response.headers, whole)

    def _whole(self, response: requests.Response, give_up_s: float) -> bytes:
        body = bytearray()
        for piece in response.iter_content(2**16):
            body += piece
            if len(body) > self._bounds.body_bytes:
                limit = f"{self._bounds.body_bytes:,} bytes"
                raise requests.exceptions.ContentDecodingError(f"an answer of more than {limit}")
            if self._monotonic_s() > give_up_s:
                raise requests.Timeout(f"no whole answer within {self._bounds.total_s:g} s")
        return bytes(body)

    def words(self, url: str, error: requests.RequestException, *, is_hasty: bool = False) -> str:
        """Return what an error of `send` to a URL means."""
        silence_s = self._silence_s(is_hasty=is_hasty)
        words = error_text(error, connect_s=self._bounds.connect_s, silence_s=silence_s)
        return with_proxy(words, url, error)

    def _silence_s(self, *, is_hasty: bool) -> float:
        return self._bounds.hasty_s if is_hasty else self._bounds.silence_s


def _authorities_for(url: str) -> str | None:
    """Return where the authorities are that vouch for a URL; None: where they usually are."""
    name = next(filter(os.environ.get, AUTHORITIES), None)
    if name is None or urlsplit(url).scheme != "https":
        return None
    path = os.environ[name]
    if not os.path.exists(path):
        raise ClientError(f"cannot find the authorities in {path}; mend or unset {name}")
    return path
