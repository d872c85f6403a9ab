"""The provisioner's API as calls, with failover over a list of addresses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import requests

from ollama_fleet.urls import base_url
from provisioning.api.routes import (
    AGE_HEADER,
    NOT_LEADING,
    AssignRequest,
    DeleteOrphansRequest,
    Details,
    EventDocument,
    InstanceDocument,
    NodeDocument,
    OrphanDocument,
    ProblemDocument,
    ScaleRequest,
)
from provisioning.errors import ProvisionerError, SpecError
from provisioning.model import Fleet
from provisioning.plan import Plan
from provisioning.spec.document import decode_fleet, encode_fleet

UNAUTHORIZED, NOT_FOUND, SERVER_FAULT, UNAVAILABLE = 401, 404, 500, 503
NOT_READY = frozenset({502, UNAVAILABLE, 504})
MAX_SHOWN_CHARACTERS = 2_000
STALE_S = 10.0
CHECK_URL = "check that a provisioner runs there and that --provisioner.url is right"
MAYBE_DONE = "the change may have been made: check before you try again"
AnswerT = TypeVar("AnswerT")


class ClientError(ProvisionerError):
    """Root of what goes wrong with a call."""


class UnreachableError(ClientError):
    """No address answered as a provisioner that can do this."""


class RequestRefusedError(ClientError):
    """The provisioner refused; carries the status and all problems."""

    def __init__(self, message: str, *, status: int, problems: Sequence[str] = ()) -> None:
        self.status = status
        self.problems = tuple(problems)
        super().__init__(message)


class ChangeInterruptedError(KeyboardInterrupt):
    """Ctrl-C came after a change was sent and before its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long to wait for what, and how much to read."""

    connect_s: float = 3.0
    failover_s: float = 3.0
    """Without a byte from an address, while another one can be asked."""
    silence_s: float = 30.0
    """Without a byte from the last address."""
    answer_s: float = 120.0
    """For a whole answer."""
    unreachable_s: float = 2.0
    """Until a call fails because no address answers."""
    deadline_s: float = 20.0
    """Until a call fails because no provisioner leads, or none is ready: two leases of a leader."""
    pause_s: float = 0.5
    """Between two rounds over all addresses."""
    body_bytes: int = 256 * 2**20


class ActiveSpec(NamedTuple):
    """The active specification and the ETag of its version."""

    fleet: Fleet
    etag: str


class _Request(NamedTuple):
    doing: str
    """For messages: `list instances`."""
    method: str
    path: str
    body: bytes | None = None
    has_token: bool = False
    is_change: bool = False
    if_match: str = ""


class _Answer(NamedTuple):
    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> ProblemDocument | None:
        """Return the provisioner's problem document; None: the body is something else."""
        try:
            return msgspec.json.decode(self.body, type=ProblemDocument)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    @property
    def age_s(self) -> float:
        try:
            return float(self.headers.get(AGE_HEADER, "0"))
        except ValueError:
            return 0.0

    def __str__(self) -> str:
        problem = self.problem
        if problem is None:
            return f"status {self.status}, not an answer of a provisioner"
        text = "".join(c if c.isprintable() or c == "\n" else " " for c in problem.detail)
        return text[:MAX_SHOWN_CHARACTERS] or f"status {self.status}"

    def is_final(self, *, is_change: bool) -> bool:
        """Say whether no other provisioner should be asked: a standby changes nothing."""
        if is_change:
            problem = self.problem if self.status == UNAVAILABLE else None
            return problem is None or problem.type != NOT_LEADING
        return self.status not in NOT_READY


HEALTHY = _Request("check", "GET", "/-/healthy")


class Client:
    """Calls whichever of a fleet's provisioners can answer.

    A call goes to the next address when one refuses the connection, is silent, or does not lead,
    and starts over until its deadline. A change is sent only to a provisioner that has just
    answered, and is never sent again once it may have been made. The environment's proxies and
    credentials are ignored, so the token goes to the given addresses alone.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: Callable[[], str],
        *,
        ca_file: Path | None = None,
        limits: Limits | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Check the addresses; send nothing yet.

        Args:
            urls: Of the provisioners, in order of preference.
            token: Returns the token; called when a call needs it.
            ca_file: CA bundle that verifies https addresses; None: the usual one.
            limits: Other than the usual ones.
            notify: Gets a line when a call waits, and when an answer is stale.
        """
        self._urls = [checked_url(url) for url in urls]
        self._token = token
        self._limits = limits or Limits()
        self._notify = notify
        self._notified: set[str] = set()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = True if ca_file is None else str(ca_file)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def instances(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Details]:
        """Return the instances that have for each filter one of its values."""
        pairs = [(name, value) for name, values in (filters or {}).items() for value in values]
        path = f"/instances?{urlencode([('details', '1'), *pairs])}"
        return self._call(_Request("list instances", "GET", path), list[Details])

    def instance(self, id_: str) -> InstanceDocument:
        """Return one instance with its history."""
        request = _Request(f"show instance {id_}", "GET", f"/instances/{_quoted(id_)}")
        return self._call(request, InstanceDocument)

    def events(
        self, filters: Mapping[str, Sequence[str]] | None = None, *, since_s: float = 0.0
    ) -> list[EventDocument]:
        """Return the latest events of instances, oldest first."""
        pairs = [(name, value) for name, values in (filters or {}).items() for value in values]
        path = f"/events?{urlencode([('since', f'{since_s:.6f}'), *pairs])}"
        return self._call(_Request("list events", "GET", path), list[EventDocument])

    def assign(self, id_: str, developer: str) -> InstanceDocument:
        """Give an instance to a developer."""
        return self._change_instance("assign", id_, msgspec.json.encode(AssignRequest(developer)))

    def release(self, id_: str) -> InstanceDocument:
        """Take an instance from its developer."""
        return self._change_instance("release", id_)

    def drain(self, id_: str) -> InstanceDocument:
        """Drain an instance now; a fresh one takes its place."""
        return self._change_instance("drain", id_)

    def replace(self, id_: str) -> InstanceDocument:
        """Replace an instance when the fleet's limits allow it."""
        return self._change_instance("replace", id_)

    def nodes(self) -> list[NodeDocument]:
        """Return the state of each node, as the leader knows it."""
        return self._call(_Request("list nodes", "GET", "/nodes"), list[NodeDocument])

    def orphans(self) -> list[OrphanDocument]:
        """Return what runs without a record, as the leader knows it."""
        return self._call(_Request("list orphans", "GET", "/orphans"), list[OrphanDocument])

    def delete_orphans(self, count: int) -> list[OrphanDocument]:
        """Delete all orphans, if there are that many."""
        body = msgspec.json.encode(DeleteOrphansRequest(count))
        request = _change(f"delete {count:,} orphans", "/orphans/delete", body)
        return self._call(request, list[OrphanDocument])

    def scale(self, pool: str, count: int, *, etag: str) -> Plan:
        """Change a pool's count, if the specification with this ETag is still active."""
        body = msgspec.json.encode(ScaleRequest(count))
        request = _change(f"scale pool {pool}", f"/pools/{_quoted(pool)}/scale", body)
        return self._call(request._replace(if_match=etag), Plan)

    def spec(self) -> ActiveSpec | None:
        """Return the active specification; None: there is none yet."""
        request = _Request("read the specification", "GET", "/spec", has_token=True)
        try:
            answer = self._answer(request)
        except RequestRefusedError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        # A reverse proxy that compresses answers weakens the ETag; no change may name a weak one.
        etag = answer.headers.get("ETag", "").removeprefix("W/")
        try:
            return ActiveSpec(decode_fleet(answer.body), etag)
        except SpecError as error:
            raise _other_release(answer, request.doing, error) from error

    def plan(self, fleet: Fleet) -> Plan:
        """Return what a specification would change."""
        body = encode_fleet(fleet).encode()
        return self._call(_Request("plan", "POST", "/plan", body, has_token=True), Plan)

    def apply(self, fleet: Fleet, *, plan: Plan) -> Plan:
        """Apply a specification, if the one that it was planned against is still active."""
        request = _change("apply the specification", "/spec", encode_fleet(fleet).encode())
        return self._call(request._replace(method="PUT", if_match=etag_of(plan)), Plan)

    def _change_instance(self, name: str, id_: str, body: bytes | None = None) -> InstanceDocument:
        request = _change(f"{name} {id_}", f"/instances/{_quoted(id_)}/{name}", body)
        return self._call(request, InstanceDocument)

    def _call(self, request: _Request, kind: type[AnswerT]) -> AnswerT:
        return _decoded(self._answer(request), kind, request.doing)

    def _answer(self, request: _Request) -> _Answer:
        """Return a good answer; ask all addresses again and again until the deadline."""
        token = self._token() if request.has_token else ""
        began_s = time.monotonic()
        while True:
            failures: dict[str, str] = {}
            answer, is_alive = self._round(request, token, failures)
            if answer is not None:
                self._notify_if_stale(answer)
                return _checked(answer, request)
            limit_s = self._limits.deadline_s if is_alive else self._limits.unreachable_s
            if time.monotonic() - began_s + self._limits.pause_s > limit_s:
                helps = f"waited {limit_s:g} s" if is_alive else CHECK_URL
                raise _unreachable(request.doing, failures, helps)
            if is_alive:
                self._notify_once("waiting", "waiting for a provisioner that leads and is ready")
            time.sleep(self._limits.pause_s)

    def _round(
        self, request: _Request, token: str, failures: dict[str, str]
    ) -> tuple[_Answer | None, bool]:
        """Ask each address once; return the first final answer, and whether any answered."""
        is_alive = False
        urls = tuple(self._urls)
        for url in urls:
            is_last_hope = url == urls[-1] and not is_alive
            silence_s = self._limits.silence_s if is_last_hope else self._limits.failover_s
            try:
                answer = self._attempt(url, request, token, silence_s)
            except requests.RequestException as error:
                failures[url] = _error_text(error, silence_s)
                self._urls.remove(url)
                self._urls.append(url)  # from now on it is asked last
                continue
            if answer.is_final(is_change=request.is_change):
                return answer, True
            failures[url] = str(answer)
            is_alive = is_alive or answer.problem is not None
        return None, is_alive

    def _attempt(self, url: str, request: _Request, token: str, silence_s: float) -> _Answer:
        """Send a request to one address.

        Raises:
            requests.RequestException: There is no answer, and nothing was changed.
            UnreachableError: There is no answer, and the change may have been made.
            ChangeInterruptedError: Ctrl-C came instead of it.
        """
        if not request.is_change:
            return self._send(url, request, token, silence_s)
        self._send(url, HEALTHY, "", silence_s)
        try:
            return self._send(url, request, token, self._limits.silence_s)
        except KeyboardInterrupt as error:
            raise ChangeInterruptedError from error
        except requests.RequestException as error:
            seen = {url: _error_text(error, self._limits.silence_s)}
            raise _unreachable(request.doing, seen, MAYBE_DONE) from error

    def _send(self, url: str, request: _Request, token: str, silence_s: float) -> _Answer:
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json" if request.body is not None else "",
            "Authorization": f"Bearer {token}" if token else "",
            "If-Match": request.if_match,
        }
        deadline_s = time.monotonic() + self._limits.answer_s
        with self._session.request(
            request.method,
            url + request.path,
            data=request.body,
            headers={name: value for name, value in headers.items() if value},
            timeout=(self._limits.connect_s, silence_s),
            allow_redirects=False,
            stream=True,
        ) as response:
            body = self._body(response, deadline_s)
            return _Answer(url, response.status_code, response.headers, body)

    def _body(self, response: requests.Response, deadline_s: float) -> bytes:
        body = bytearray()
        for piece in response.iter_content(2**16):
            body += piece
            if len(body) > self._limits.body_bytes:
                raise requests.RequestException(
                    f"the answer has more than {self._limits.body_bytes:,} bytes"
                )
            if time.monotonic() > deadline_s:
                raise requests.RequestException(f"no whole answer in {self._limits.answer_s:g} s")
        return bytes(body)

    def _notify_if_stale(self, answer: _Answer) -> None:
        if answer.age_s >= STALE_S:
            words = f"{answer.age_s:,.0f} s old: the provisioner at {answer.url} has lost its store"
            self._notify_once("stale", f"this answer is {words}")

    def _notify_once(self, subject: str, line: str) -> None:
        if subject not in self._notified:
            self._notified.add(subject)
            self._notify(line)


def checked_url(url: str) -> str:
    """Return a configured address without a slash at its end.

    Raises:
        ClientError: It is not the URL of a server; the message does not repeat it.
    """
    try:
        return base_url(url, example="http://127.0.0.1:8080", instead="give the token as a file")
    except ValueError as error:
        raise ClientError(f"--provisioner.url {error}") from error


def etag_of(plan: Plan) -> str:
    """Return the ETag of the specification that was planned against."""
    return f'"{plan.base_version}"'


def _change(doing: str, path: str, body: bytes | None) -> _Request:
    return _Request(doing, "POST", path, body, has_token=True, is_change=True)


def _quoted(text: str) -> str:
    """Return a text as one segment of a path, whatever is in it."""
    return quote(text, safe="") or "%20"


def _checked(answer: _Answer, request: _Request) -> _Answer:
    """Return a good answer, or raise what another one means."""
    if 200 <= answer.status < 300:
        return answer
    problem = answer.problem
    if problem is None:
        is_maybe_done = request.is_change and answer.status >= SERVER_FAULT
        helps = MAYBE_DONE if is_maybe_done else CHECK_URL
        raise _unreachable(request.doing, {answer.url: str(answer)}, helps)
    helps = ""
    if answer.status == UNAUTHORIZED:
        helps = "; give the provisioner's token file with --provisioner.token-file"
    raise RequestRefusedError(
        f"cannot {request.doing} at {answer.url}: {answer}{helps}",
        status=answer.status,
        problems=problem.problems,
    )


def _unreachable(doing: str, failures: Mapping[str, str], helps: str) -> UnreachableError:
    seen = "; ".join(f"{url}: {words}" for url, words in failures.items())
    return UnreachableError(f"cannot {doing}: {seen}; {helps}")


def _error_text(error: requests.RequestException, silence_s: float) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not trusted; give its CA with --provisioner.ca-file"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.Timeout):
        return f"no answer within {silence_s:g} s"
    return str(error)[:MAX_SHOWN_CHARACTERS]


def _decoded(answer: _Answer, kind: type[AnswerT], doing: str) -> AnswerT:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _other_release(answer, doing, error) from error


def _other_release(answer: _Answer, doing: str, error: Exception) -> UnreachableError:
    return UnreachableError(
        f"cannot {doing}: {answer.url} does not answer as a provisioner of this release: "
        f"{error}; check --provisioner.url, and that both are of one release"
    )
