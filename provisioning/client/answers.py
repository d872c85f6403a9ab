"""What provisioners answer, or why they do not, in words.

In:   whole answers, and what requests raises.
Out:  facts about them; lines for a person. Fails with ClientError, where an answer is no good one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from provisioning.api.routes import AGE_HEADER, NOT_LEADING, ProblemDocument
from provisioning.client.errors import RefusedError, UnreachableError

UNAUTHORIZED = 401
SERVER_FAULT = 500
UNAVAILABLE = 503
PASSING = frozenset({502, UNAVAILABLE, 504})
SHOWN_CHARACTERS = 2_000
TUNNEL_REFUSED = "Tunnel connection failed: "
"""How http.client begins what it says of a proxy that does not pass on."""
UNSENDABLE = (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)
"""What requests raises before it connects, such as for a proxy that it cannot use."""
MAYBE_DONE = ", so it may have been done: look before you try again"
START_AND_URL = "see that a provisioner runs there, and that --provisioner.url is right"


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

    @property
    def is_unready(self) -> bool:
        """Say whether a provisioner cannot answer yet, or for a while."""
        return self._unreadiness is not None

    @property
    def leader(self) -> str:
        """Return the URL of the provisioner that leads, where this one says that it does not."""
        problem = self._unreadiness
        return problem.leader.rstrip("/") if problem and self.is_standbys else ""

    @property
    def is_standbys(self) -> bool:
        """Say whether it comes from one that does not lead, and so has changed nothing."""
        problem = self._unreadiness
        return problem is not None and problem.type == NOT_LEADING

    @property
    def age_s(self) -> float:
        """Return how long ago what it tells was known to be so; 0.0 where it does not say."""
        try:
            return float(self.headers.get(AGE_HEADER, "0"))
        except ValueError:
            return 0.0

    @property
    def _unreadiness(self) -> ProblemDocument | None:
        return self.problem if self.status == UNAVAILABLE else None

    def __str__(self) -> str:
        """Return what it says, in words, on one line but for a list of problems."""
        problem = self.problem
        if problem is None:
            return f"status {self.status}, and nothing that a provisioner would say"
        text = "".join(c if c.isprintable() or c == "\n" else " " for c in problem.detail)
        return text[:SHOWN_CHARACTERS] or f"status {self.status}"


def good(answer: Answer, doing: str, *, is_write: bool = False) -> Answer:
    """Return an answer that is good.

    Args:
        answer: Whatever was answered.
        doing: For messages.
        is_write: A proxy that fails may have passed it on.

    Raises:
        RefusedError: It is not.
        UnreachableError: It is none that a provisioner would give.
    """
    if answer.is_good:
        return answer
    problem = answer.problem
    if problem is None:
        is_maybe_done = is_write and answer.status >= SERVER_FAULT
        words = f"{answer}{MAYBE_DONE}" if is_maybe_done else str(answer)
        raise unreachable(doing, {answer.url: words}, helps=START_AND_URL)
    helps = ""
    if answer.status == UNAUTHORIZED:
        helps = "; give with --provisioner.token-file the file that the provisioner reads"
    raise RefusedError(
        f"cannot {doing} at {answer.url}: {answer}{helps}",
        status=answer.status,
        problems=problem.problems,
    )


def unreachable(doing: str, seen: Mapping[str, str], *, helps: str) -> UnreachableError:
    """Return the error that none of the provisioners did it.

    Args:
        doing: What was tried, such as `list instances`.
        seen: What became of it, by URL.
        helps: What a person can do.
    """
    tried = "; ".join(f"{url}: {words}" for url, words in seen.items())
    return UnreachableError(f"cannot {doing}: {tried}; {helps}")


def error_text(error: requests.RequestException, *, connect_s: float, silence_s: float) -> str:
    """Return what an error means; requests' own words wrap one another.

    Args:
        error: What requests raised.
        connect_s: How long a connection was waited for.
        silence_s: Likewise a piece of an answer.
    """
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not trusted"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {connect_s:g} s"
    if isinstance(error, requests.Timeout) and "whole" in str(error):
        return str(error)
    if was_silent(error):
        return f"no answer within {silence_s:g} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)[:SHOWN_CHARACTERS] or type(error).__name__


def was_silent(error: requests.RequestException) -> bool:
    """Say whether a server was waited for in vain, for a connection or for an answer."""
    if isinstance(error, requests.Timeout):
        return True
    return bool(error.args) and isinstance(error.args[0], ReadTimeoutError)


def never_arrived(error: requests.RequestException) -> bool:
    """Say whether a request that failed was not even sent, or not beyond a proxy."""
    if isinstance(error, (requests.ConnectTimeout, *UNSENDABLE)):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    # A tunnel that stood and is closed without an answer is a fault of the proxy's to urllib3 too,
    # and the request has arrived by then: only what lies behind tells the one from the other.
    cause = getattr(reason, "original_error", reason)
    if isinstance(cause, NewConnectionError | ConnectTimeoutError):
        return True
    return str(cause).startswith(TUNNEL_REFUSED)
