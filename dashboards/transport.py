"""Requests to Grafana's API, with time-outs and repeats."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
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
from ollama_fleet.tables import count_text
from ollama_fleet.urls import base_url


def checked_url(url: str) -> str:
    """Return an address that requests can be sent to."""
    instead = "put a service account's token into a file and give --grafana.token-file"
    try:
        return base_url(url, example="https://grafana.example.org", instead=instead)
    except ValueError as error:
        raise SettingsError(f"--grafana.url {error}") from error


def checked_ca(ca_file: Path | None) -> str | bool:
    """Return the file of the authorities to believe, or True for the usual ones."""
    if ca_file is None:
        return True
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # also what ssl raises for a file without certificates
        raise SettingsError(
            f"cannot use --grafana.ca-file {ca_file}: {error.strerror or error}; it must hold PEM "
            "certificates"
        ) from error
    return str(ca_file)


UNKNOWN_TOKEN, FORBIDDEN, TOO_MANY = 401, 403, 429
SHOWN_CHARACTERS = 300
CONNECT_S = 5.0
SILENCE_S = 30.0
"""Longest time between two pieces of an answer."""
MAX_BODY_BYTES = 16 * 1024 * 1024
WAITS_S = (0.5, 1.0, 2.0)
"""Before each further try."""


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
        silence_s: float = SILENCE_S,
        waits_s: Sequence[float] = WAITS_S,
    ) -> None:
        self.url = checked_url(url)
        self._token = token
        self._silence_s = silence_s
        self._waits_s = waits_s
        self._verify = checked_ca(ca_file)
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._session.headers["Accept"] = "application/json"

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def ask(self, method: str, path: str, body: Any = None, *, doing: str) -> Answer:
        """Send a request, again after each of the waits if it fails for the moment.

        Args:
            method: Of HTTP; every request must be one that may arrive twice.
            path: Below the server's address.
            body: What to send as JSON.
            doing: For messages: `save dashboard x`.
        """
        for wait_s in self._waits_s:
            try:
                return self._once(method, path, body, doing)
            except _PassingError:
                time.sleep(wait_s)
        try:
            return self._once(method, path, body, doing)
        except _PassingError as error:
            n_tries = len(self._waits_s) + 1
            raise self._unreachable(doing, f"{error} ({count_text(n_tries, 'attempt')})") from error

    def _once(self, method: str, path: str, body: Any, doing: str) -> Answer:
        try:
            with self._session.request(
                method,
                self.url + path,
                json=body,
                timeout=(CONNECT_S, self._silence_s),
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as response:
                return self._answer(response, _read(response), doing)
        except requests.exceptions.SSLError as error:
            helps = "give the server's authority with --grafana.ca-file, or renew its certificate"
            raise self._unreachable(doing, f"TLS fails: {_cause(error)}", helps) from error
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            raise _PassingError(self._seen(error)) from error
        except requests.RequestException as error:
            raise self._unreachable(doing, _cause(error)) from error

    def _seen(self, error: Exception) -> str:
        if isinstance(error, requests.ConnectTimeout):
            return f"no connection within {CONNECT_S:g} s"
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            return f"no answer within {self._silence_s:g} s"
        return _cause(error)

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
            raise _PassingError(self.shown(seen))
        if 300 <= status < 400:
            raise self._redirected(response, doing)
        if not isinstance(body, dict | list):
            raise self._not_grafana(doing, f"status {status} with {_kind(response)}, not JSON")
        return Answer(status, body)

    def shown(self, text: str) -> str:
        """Return a text of the server as messages may hold it: one line, short, without token."""
        printable = "".join(c if c.isprintable() else " " for c in text)
        line = " ".join(printable.replace(self._token, "[token]").split())
        return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"

    def _unreachable(self, doing: str, seen: str, helps: str = "") -> UnreachableError:
        helps = (
            helps or "see that Grafana runs there and --grafana.url is right, then run this again"
        )
        return UnreachableError(f"cannot {doing} at {self.url}: {self.shown(seen)}; {helps}")

    def _no_access(self, status: int, message: str, doing: str) -> AccessError | ForbiddenError:
        seen = self.shown(f"status {status} {message}".rstrip())
        tried = f"cannot {doing} at {self.url}: {seen}"
        if status == UNKNOWN_TOKEN:
            return AccessError(
                f"{tried}; the token is wrong or has expired: put a valid one into "
                f"--grafana.token-file"
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
            f"cannot {doing} at {self.url}: {self.shown(seen)}; give with --grafana.url the "
            "address that Grafana's own API has, with its sub-path and past any login page"
        )


def _read(response: requests.Response) -> bytes:
    body = b""
    while piece := response.raw.read1(65536, decode_content=True):
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise _PassingError(f"an answer of more than {MAX_BODY_BYTES:,} bytes")
    return body


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
