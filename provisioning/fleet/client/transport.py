"""Send requests to whichever provisioner can answer them.

In:   the URLs of provisioners, a token for writes and what is private.
Out:  bodies of good answers, bounded in time and size.
Fails with ClientError. Reads are tried again, and at each provisioner in turn; writes follow a
standby's word to the leader, with the token only where it may go. Redirects are not followed.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import requests
from requests.auth import AuthBase
from urllib3.exceptions import NewConnectionError

from provisioning.fleet.api.forms import ProblemDocument
from provisioning.fleet.client.addresses import checked_url, is_trusted
from provisioning.fleet.client.errors import RefusedError, UnreachableError, UntrustedLeaderError

MAX_LEADERS = 3
"""How often a write is sent on: leadership may change meanwhile, but not in circles."""
UNAUTHORIZED = 401
UNAVAILABLE = 503
PASSING = frozenset({502, UNAVAILABLE, 504})
SHOWN_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long to wait, how much to read, how often to try."""

    connect_s: float = 3.0
    silence_s: float = 30.0
    """Between two pieces of an answer."""
    total_s: float = 120.0
    body_bytes: int = 256 * 2**20
    rounds: int = 3
    """Of asking every provisioner for a read."""
    wait_s: float = 0.5
    """Before the second round; it doubles with each."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_good(self) -> bool:
        """Say whether what was asked for was done."""
        return 200 <= self.status < 300

    @property
    def problem(self) -> ProblemDocument | None:
        """Return what the provisioner says went wrong; None: it is not a provisioner's word."""
        try:
            return msgspec.json.decode(self.body, type=ProblemDocument)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class _Order(NamedTuple):
    """A request, wherever it is sent."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    token: str | None = None


class _Bearer(AuthBase):
    """Sets the token, or none; as `auth`, because requests prefers a ~/.netrc to a header."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Asks one fleet's provisioners."""

    def __init__(
        self,
        urls: Sequence[str],
        token: Callable[[], str],
        *,
        bounds: Bounds | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what is needed; nothing is sent yet, and `token` not called before it is needed."""
        self.urls = tuple(map(checked_url, urls))
        self._token = token
        self._bounds = bounds or Bounds()
        self._sleep = sleep
        self._monotonic_s = monotonic_s
        self._session = requests.Session()

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def read(
        self, path: str, *, doing: str, body: bytes | None = None, is_private: bool = False
    ) -> Answer:
        """Ask for something that changes nothing, by GET, or with a body by POST.

        Args:
            path: With its query.
            doing: For messages: `list instances`.
            body: JSON.
            is_private: It needs the token.
        """
        method = "GET" if body is None else "POST"
        order = _Order(method, path, body, token=self._token() if is_private else None)
        seen: dict[str, str] = {}
        for round_ in range(self._bounds.rounds):
            self._wait_before(round_)
            for url in self.urls:
                try:
                    answer = self._send(url, order)
                except requests.RequestException as error:
                    seen[url] = self._words(error)
                    continue
                if answer.status not in PASSING:
                    return _good(answer, doing)
                seen[url] = _seen(answer)
        raise _unreachable(doing, seen)

    def write(
        self, method: str, path: str, *, doing: str, body: bytes | None = None, if_match: str = ""
    ) -> Answer:
        """Ask the leader to change something, once."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if if_match:
            headers["If-Match"] = if_match
        order = _Order(method, path, body, headers, self._token())
        seen: dict[str, str] = {}
        for url in self.urls:
            try:
                return _good(self._send_on(url, order, doing), doing)
            except requests.RequestException as error:
                seen[url] = self._words(error)
                if not _never_arrived(error):
                    seen[url] += ", so it may have been done: look before you try again"
                    break
        raise _unreachable(doing, seen)

    def _wait_before(self, round_: int) -> None:
        """Wait before a further round; not all who failed together come again together."""
        if round_:
            whole_s = self._bounds.wait_s * 2.0 ** (round_ - 1)
            self._sleep(whole_s * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets

    def _send_on(self, url: str, order: _Order, doing: str) -> Answer:
        """Send to a provisioner, and on to the leader that it names."""
        asked = {url}
        answer = self._send(url, order)
        for _ in range(MAX_LEADERS):
            problem = answer.problem if answer.status == UNAVAILABLE else None
            leader = problem.leader.rstrip("/") if problem else ""
            if not leader or leader in asked:
                return answer
            if leader not in self.urls and not is_trusted(leader, self.urls):
                raise UntrustedLeaderError(
                    f"cannot {doing}: {answer.url} says that {leader[:SHOWN_CHARACTERS]!r} leads, "
                    "which the token is not for; give it as another --provisioner.url if it is one"
                    " of yours"
                )
            asked.add(leader)
            answer = self._send(leader, order)
        return answer

    def _send(self, url: str, order: _Order) -> Answer:
        bounds = self._bounds
        give_up_s = self._monotonic_s() + bounds.total_s
        content = {} if order.body is None else {"Content-Type": "application/json"}
        with self._session.request(
            order.method,
            url + order.path,
            data=order.body,
            headers={"Accept": "application/json", **content, **order.headers},
            auth=_Bearer(order.token),
            timeout=(bounds.connect_s, bounds.silence_s),
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

    def _words(self, error: requests.RequestException) -> str:
        """Return what an error means; requests' own words wrap one another."""
        if isinstance(error, requests.exceptions.SSLError):
            return "its TLS certificate is not trusted"
        if isinstance(error, requests.ConnectTimeout):
            return f"no connection within {self._bounds.connect_s:g} s"
        if isinstance(error, requests.Timeout):
            return (
                str(error)
                if "whole" in str(error)
                else (f"no answer within {self._bounds.silence_s:g} s")
            )
        if isinstance(error, requests.ConnectionError):
            return "no connection"
        return str(error)[:SHOWN_CHARACTERS] or type(error).__name__


def _good(answer: Answer, doing: str) -> Answer:
    """Return an answer that is good.

    Raises:
        RefusedError: It is not.
    """
    if answer.is_good:
        return answer
    problem = answer.problem
    helps = ""
    if answer.status == UNAUTHORIZED:
        helps = "; give with --provisioner.token-file the file that the provisioner reads"
    raise RefusedError(
        f"cannot {doing} at {answer.url}: {_seen(answer)}{helps}",
        status=answer.status,
        problems=problem.problems if problem else (),
    )


def _unreachable(doing: str, seen: Mapping[str, str]) -> UnreachableError:
    tried = "; ".join(f"{url}: {words}" for url, words in seen.items())
    return UnreachableError(
        f"cannot {doing}: {tried}; see that a provisioner runs there, and that "
        "--provisioner.url is right"
    )


def _never_arrived(error: requests.RequestException) -> bool:
    """Say whether a request that failed was not even sent."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError)


def _seen(answer: Answer) -> str:
    """Return what an answer says, in words, on one line but for a list of problems."""
    problem = answer.problem
    if problem is None:
        return f"status {answer.status}, and nothing that a provisioner would say"
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in problem.detail)
    return text[:SHOWN_CHARACTERS] or f"status {answer.status}"
