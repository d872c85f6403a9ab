"""Requests to Grafana's API, with time-outs and repeats."""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from dashboards.errors import (
    AccessError,
    ForbiddenError,
    NotGrafanaError,
    SettingsError,
    UnreachableError,
)
from ollama_fleet.urls import base_url


def checked_url(url: str) -> str:
    """Return an address that requests can be sent to."""
    instead = "put a service account's token into a file and give --token-file"
    try:
        return base_url(url, example="https://grafana.example.org", instead=instead)
    except ValueError as error:
        raise SettingsError(f"--url {error}") from error


def checked_ca(ca_file: Path | None) -> str | bool:
    """Return the file of the authorities to believe, or True for the usual ones."""
    if ca_file is None:
        return True
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # also what ssl raises for a file without certificates
        raise SettingsError(
            f"cannot use --ca-file {ca_file}: {error.strerror or error}; it must hold PEM "
            "certificates"
        ) from error
    return str(ca_file)


UNKNOWN_TOKEN, FORBIDDEN, TOO_MANY = 401, 403, 429
SHOWN_CHARACTERS = 300


class Clock(Protocol):
    """Time, as far as asking depends on it."""

    def monotonic(self) -> float:
        """Return seconds since some moment."""

    def sleep(self, duration_s: float) -> None:
        """Return after that long."""


class SystemClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        """Return seconds since some moment."""
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        """Return after that long."""
        time.sleep(duration_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long to wait, how much to read, how often to try."""

    connect_s: float = 5.0
    silence_s: float = 30.0
    """Between two pieces of an answer."""
    total_s: float = 60.0
    """From the request to the end of the answer's body. It is looked at as the body comes: a server
    that sends headers bit by bit is bounded by `silence_s` between two of the bits alone."""
    body_bytes: int = 16 * 1024 * 1024
    tries: int = 4
    first_wait_s: float = 0.5
    longest_wait_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; not 401, 403, 429, 3xx or 5xx."""

    status: int
    body: Any

    @property
    def message(self) -> str:
        """Return the reason that Grafana gives with every refusal."""
        return _message_of(self.body) or f"status {self.status}"


class _PassingError(Exception):
    """May be over in a moment."""

    def __init__(self, seen: str, *, wait_s: float = 0.0) -> None:
        super().__init__(seen)
        self.wait_s = wait_s


class _Bearer(AuthBase):
    """Sets the token; as `auth`, because requests prefers a ~/.netrc to a header of its caller."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Asks one server, always with the same token."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        ca_file: Path | None = None,
        bounds: Bounds | None = None,
        clock: Clock | None = None,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self.url = checked_url(url)
        self._token = token
        self._bounds = bounds or Bounds()
        self._clock = clock or SystemClock()
        self._fraction = fraction
        self._verify = checked_ca(ca_file)
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._session.headers["Accept"] = "application/json"

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def ask(self, method: str, path: str, body: Any = None, *, doing: str) -> Answer:
        """Send a request, up to `bounds.tries` times.

        Args:
            method: Of HTTP; every request must be one that may arrive twice.
            path: Below the server's address.
            body: What to send as JSON.
            doing: For messages: `save dashboard x`.
        """
        try_number = 1
        while True:
            try:
                return self._once(method, path, body, doing)
            except _PassingError as error:
                if try_number >= self._bounds.tries:
                    raise self._unreachable(doing, f"{error} ({_tries(try_number)})") from error
                self._clock.sleep(max(error.wait_s, self._wait_s(try_number)))
                try_number += 1

    def _wait_s(self, tries: int) -> float:
        """Return a random part of a wait that doubles: many callers do not return all at once."""
        bounds = self._bounds
        return self._fraction() * min(
            bounds.longest_wait_s, bounds.first_wait_s * 2.0 ** (tries - 1)
        )

    def _once(self, method: str, path: str, body: Any, doing: str) -> Answer:
        give_up_s = self._clock.monotonic() + self._bounds.total_s
        try:
            with self._session.request(
                method,
                self.url + path,
                json=body,
                timeout=(self._bounds.connect_s, self._bounds.silence_s),
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                return self._answer(response, self._read(response, give_up_s), doing)
        except requests.exceptions.SSLError as error:
            helps = "give the server's authority with --ca-file, or mend its certificate"
            raise self._unreachable(doing, f"TLS fails: {_cause(error)}", helps) from error
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            raise _PassingError(self._seen(error)) from error
        except requests.RequestException as error:
            raise self._unreachable(doing, _cause(error)) from error

    def _seen(self, error: Exception) -> str:
        if isinstance(error, requests.ConnectTimeout):
            return f"no connection within {self._bounds.connect_s:g} s"
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            return f"nothing came for {self._bounds.silence_s:g} s"
        return _cause(error)

    def _read(self, response: requests.Response, give_up_s: float) -> bytes:
        body = b""
        while piece := response.raw.read1(65536, decode_content=True):
            body += piece
            if len(body) > self._bounds.body_bytes:
                raise _PassingError(f"an answer of more than {self._bounds.body_bytes:,} bytes")
            if self._clock.monotonic() > give_up_s:
                raise _PassingError(f"no whole answer within {self._bounds.total_s:g} s")
        return body

    def _answer(self, response: requests.Response, content: bytes, doing: str) -> Answer:
        status = response.status_code
        try:
            body: Any = json.loads(content)
        except ValueError:
            body = None
        if status in (UNKNOWN_TOKEN, FORBIDDEN):
            raise self._no_access(status, _message_of(body), doing)
        if status == TOO_MANY or status >= 500:
            seen = f"status {status} {_message_of(body)}".rstrip()
            raise _PassingError(self.shown(seen), wait_s=self._asked_wait_s(response))
        if 300 <= status < 400:
            raise self._redirected(response, doing)
        if not isinstance(body, dict | list):
            raise self._not_grafana(doing, f"status {status} with {_kind(response)}, not JSON")
        return Answer(status, body)

    def _asked_wait_s(self, response: requests.Response) -> float:
        """Return how long the server wants to be left alone, as far as we comply."""
        text = response.headers.get("Retry-After", "")
        return min(float(text), self._bounds.longest_wait_s) if text.isdecimal() else 0.0

    def shown(self, text: str) -> str:
        """Return a text of the server as messages may hold it: one line, short, without token."""
        printable = "".join(c if c.isprintable() else " " for c in text)
        line = " ".join(printable.replace(self._token, "[token]").split())
        return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"

    def _unreachable(self, doing: str, seen: str, helps: str = "") -> UnreachableError:
        helps = helps or "see that Grafana runs there and --url is right, then run this again"
        return UnreachableError(f"cannot {doing} at {self.url}: {self.shown(seen)}; {helps}")

    def _no_access(self, status: int, message: str, doing: str) -> AccessError | ForbiddenError:
        seen = self.shown(f"status {status} {message}".rstrip())
        tried = f"cannot {doing} at {self.url}: {seen}"
        if status == UNKNOWN_TOKEN:
            return AccessError(
                f"{tried}; the token is wrong or has expired: put a valid one into --token-file"
            )
        return ForbiddenError(
            f"{tried}; give the token's service account the role Editor, or rights on that folder"
        )

    def _redirected(self, response: requests.Response, doing: str) -> NotGrafanaError:
        target = urlsplit(response.headers.get("Location", ""))
        # Without the query: login pages get secrets there.
        address = f"{target.scheme}://{target.hostname}" if target.hostname else ""
        seen = f"status {response.status_code}, a redirect to {address}{target.path or '/'}"
        return self._not_grafana(doing, seen)

    def _not_grafana(self, doing: str, seen: str) -> NotGrafanaError:
        return NotGrafanaError(
            f"cannot {doing} at {self.url}: {self.shown(seen)}; give with --url the address that "
            "Grafana's own API has, with its sub-path and past any login page"
        )


def _message_of(body: Any) -> str:
    message = body.get("message") if isinstance(body, dict) else None
    return message if isinstance(message, str) else ""


def _kind(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0] or "something"


def _cause(error: BaseException) -> str:
    """Return the innermost reason; the outer ones of requests and urllib3 only wrap it."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        inner = _wrapped(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _wrapped(error: BaseException) -> BaseException | None:
    reasons = (getattr(error, "reason", None), *reversed(error.args), error.__cause__)
    return next((reason for reason in reasons if isinstance(reason, Exception)), None)


def _tries(n: int) -> str:
    return "1 try" if n == 1 else f"{n} tries"
