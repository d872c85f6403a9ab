"""Ask instances whether they are healthy, warm them up, and see who listens on a port."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus

import aiohttp

from ollama_fleet.bounded_http import BodyTooLargeError, read_body
from ollama_fleet.canary_outcome import CanaryOutcome
from ollama_fleet.descriptors import SHORTAGES
from ollama_fleet.keep_alive import (
    Stay,
    after_canary,
    clock_offset_s,
    is_leaving,
    keep_alive,
    watch,
)
from provisioning.errors import NotAskedError, ResourceExhaustedError, TransientError
from provisioning.model import Canary, Probe, RequestsPage, WarmUp
from provisioning.runtime.base import CanaryResult
from provisioning.runtime.canary import (
    BODY_BY_PATH,
    LOADED_PATH,
    LoadedModel,
    loaded_model,
    ollama_body,
    trained_context,
    whole_name,
)
from provisioning.spec.defaults import ENGINES

CONNECT_LIMIT_S = 1.0
"""A listener accepts sooner; a node that drops packets to closed ports stays silent."""


async def refuse_taken(host: str, port: int) -> None:
    """Return where nobody listens.

    Raises:
        ResourceExhaustedError: Somebody does.
    """
    try:
        async with asyncio.timeout(CONNECT_LIMIT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError among them
        return
    ends = [writer.get_extra_info(name) for name in ("sockname", "peername")]
    writer.close()
    # A connection may get by chance the very port that it goes to: then it has reached itself.
    if ends[0] != ends[1]:
        raise ResourceExhaustedError(
            f"cannot listen on {host}:{port}: somebody does already; see who: `ss -ltnp` there"
        )


PULL_PATH, SHOW_PATH, GENERATE_PATH = "/api/pull", "/api/show", "/api/generate"
"""Paths of Ollama: fetch a model, describe a model, generate."""
SHOW_TIMEOUT_S = 30.0
SAID_BYTES = 200
"""How much of a refusal's body the error quotes."""
CHUNK_BYTES = 65_536
PAGE_TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 1_000_000
"""Maximum size of a page that counts requests or lists models; a longer one counts as none."""
FAILED = ("500", "502", "504")
"""Statuses with which a canary has failed."""
TOO_BUSY = ("429", "503")
BUSY = CanaryResult(CanaryOutcome.SKIPPED_BUSY)
NOT_LOADED = CanaryResult(CanaryOutcome.SKIPPED_NOT_LOADED)
MAX_CONTEXTS = 1000
"""Models whose trained context is remembered."""


class HttpProber:
    """Asks over HTTP; holds no connection between two probes."""

    def __init__(self) -> None:
        """Connect at the first question."""
        self._opened: aiohttp.ClientSession | None = None
        self._pulls = weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock]()
        """By folder of models and model."""
        self._contexts: dict[str, int] = {}
        """By digest of a model: the context that it was trained with."""
        self._stays: dict[tuple[str, int], Stay | None] = {}
        """The stay of the model by host and port of each Ollama that gets canaries."""

    async def probe(self, host: str, port: int, probe: Probe) -> str:
        """Return an empty text where the probe's path answers 200 within its time."""
        url = _url(host, port, probe.path)
        try:
            timeout = aiohttp.ClientTimeout(total=probe.timeout_s)
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                return "" if response.status == 200 else f"{url} answers {_status(response)}"
        except TimeoutError:
            return f"{url} does not answer within {probe.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if _is_shortage(error):
                raise NotAskedError(f"{url} was not asked: {_words(error)}") from error
            return f"{url} cannot be asked: {_words(error)}"

    async def is_idle(self, host: str, port: int, page: RequestsPage) -> bool:
        """Say whether all counts on the page are there, and 0."""
        body, _ = await self._page(_url(host, port, page.path))
        return are_all_zero(body, page.names)

    async def generate(
        self, host: str, port: int, canary: Canary, *, engine: str, model: str
    ) -> CanaryResult:
        """Send a canary, unless it could disturb somebody.

        503 means busy, 4xx that the model does not generate: both say nothing of its health. 502
        and 504 are a proxy's words for a dead or frozen server.
        """
        kind = ENGINES[engine]
        if kind.requests is None:
            return await self._generate_by_ollama(host, port, canary, model)
        page, _ = await self._page(_url(host, port, kind.requests.path))
        if is_any_above_zero(page, kind.requests.names):
            return BUSY
        body = BODY_BY_PATH[kind.canary_path]
        request = WarmUp(path=kind.canary_path, body=body, timeout_s=canary.timeout_s)
        return await self._canary_result(host, port, request)

    async def _generate_by_ollama(
        self, host: str, port: int, canary: Canary, model: str
    ) -> CanaryResult:
        """Send a canary that neither loads a model nor changes when one is unloaded."""
        page, date = await self._page(_url(host, port, LOADED_PATH))
        offset_s = clock_offset_s(date, time.time())
        loaded = loaded_model(page, model)
        stay = watch(self._stays.get((host, port)), loaded, time.time() + offset_s)
        self._stays[host, port] = stay
        if loaded is None or (stay is not None and is_leaving(stay, time.time() + offset_s)):
            return NOT_LOADED
        n_trained = await self._trained_context(host, port, loaded)
        if n_trained is None:
            return NOT_LOADED  # it could be loaded again
        sent_s = time.time() + offset_s
        kept = keep_alive(loaded, stay, sent_s)
        if kept is None:
            return BUSY  # it serves a request, or does not say when it unloads the model
        body = ollama_body(loaded, kept, n_trained=n_trained)
        request = WarmUp(path=GENERATE_PATH, body=body, timeout_s=canary.timeout_s)
        try:
            return await self._canary_result(host, port, request)
        finally:
            self._stays[host, port] = after_canary(stay, sent_s, time.time() + offset_s)

    async def _canary_result(self, host: str, port: int, request: WarmUp) -> CanaryResult:
        url = _url(host, port, request.path)
        try:
            status, said = await self._answer(url, request)
        except TimeoutError:
            fault = f"canary stalled: {url} does not answer within {request.timeout_s:g} s"
            return CanaryResult(CanaryOutcome.STALLED, fault)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if _is_shortage(error):
                raise NotAskedError(f"{url} was not asked: {_words(error)}") from error
            fault = f"canary failed: {url} cannot be asked: {_words(error)}"
            return CanaryResult(CanaryOutcome.ERROR, fault)
        if status.startswith(FAILED):
            fault = f"canary failed: {url} answers {status}: {said}"
            return CanaryResult(CanaryOutcome.ERROR, fault)
        if status.startswith(TOO_BUSY):
            return BUSY
        return CanaryResult(CanaryOutcome.OK) if _is_good(status) else NOT_LOADED

    async def warm_up(
        self, host: str, port: int, requests: Sequence[WarmUp], *, store: str = ""
    ) -> None:
        """Send each request, and read its answer to the end; a pull only where it is needed."""
        for request in requests:
            if model := pulled_model(request):
                await self._pull(host, port, request, model, store)
            else:
                await self._demand(_url(host, port, request.path), request)

    async def close(self) -> None:
        """Close what is open."""
        if self._opened is not None:
            await self._opened.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            # Who limits how many are asked at once is the caller: time-outs would run in its queue.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._opened = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._opened

    async def _page(self, url: str, body: str = "") -> tuple[bytes, str]:
        """Return what a page answers, and the server's time; empty texts where it does not."""
        method, data = ("POST", body.encode()) if body else ("GET", None)
        timeout = aiohttp.ClientTimeout(total=PAGE_TIMEOUT_S)
        try:
            async with self._session.request(
                method, url, data=data, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != HTTPStatus.OK:
                    return b"", ""
                page = await read_body(response.content, MAX_PAGE_BYTES)
                return page, response.headers.get("Date", "")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, BodyTooLargeError):
            return b"", ""

    async def _trained_context(self, host: str, port: int, loaded: LoadedModel) -> int | None:
        """Return the context that a model was trained with; 0: not needed; None: unknown."""
        known = self._contexts.get(loaded.digest) if loaded.context_length else 0
        if known is None:
            show = json.dumps({"model": loaded.name})
            page, _ = await self._page(_url(host, port, SHOW_PATH), show)
            known = trained_context(page)
            if known and len(self._contexts) < MAX_CONTEXTS:
                self._contexts[loaded.digest] = known
        return known

    async def _pull(self, host: str, port: int, request: WarmUp, model: str, store: str) -> None:
        show = WarmUp(path=SHOW_PATH, body=json.dumps({"model": model}), timeout_s=SHOW_TIMEOUT_S)
        turn = self._pulls.setdefault((store, whole_name(model)), asyncio.Lock())
        with _noted(f"it waits for {model}, which another instance pulls"):
            await turn.acquire()
        try:
            status, _ = await self._send(_url(host, port, SHOW_PATH), show)
            if not _is_good(status):
                await self._demand(_url(host, port, PULL_PATH), request)
        finally:
            turn.release()

    async def _demand(self, url: str, request: WarmUp) -> None:
        """Send a request that has to be answered with 200."""
        status, said = await self._send(url, request)
        if not _is_good(status):
            raise TransientError(
                f"the warm-up {url} was answered with {status}: {said}; see the instance's log"
            )

    async def _send(self, url: str, request: WarmUp) -> tuple[str, str]:
        """Return the status and the beginning of the body, once all of it has come."""
        try:
            with _noted(f"the warm-up {url} is not answered"):
                return await self._answer(url, request)
        except TimeoutError as error:
            raise TransientError(
                f"the warm-up {url} is not answered within {request.timeout_s:g} s; raise its "
                "`timeout`, or see the instance's log"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TransientError(f"the warm-up {url} failed: {_words(error)}") from error

    async def _answer(self, url: str, request: WarmUp) -> tuple[str, str]:
        async with self._session.request(
            "POST" if request.body else "GET",
            url,
            data=request.body.encode() or None,
            headers={"Content-Type": "application/json"} if request.body else {},
            timeout=aiohttp.ClientTimeout(total=request.timeout_s or None),
            allow_redirects=False,
        ) as response:
            return _status(response), await _read(response)


def are_all_zero(body: bytes, names: Collection[str]) -> bool:
    """Say whether a page has all of these figures, and each is 0."""
    figures = _figures(body, names)
    return all(figures.get(name) == 0 and figures[name] is not False for name in names)


def is_any_above_zero(body: bytes, names: Collection[str]) -> bool:
    """Say whether a page has any of these figures, and it is not 0."""
    figures = _figures(body, names)
    return any(figures.get(name, 0) != 0 for name in names)


def _figures(body: bytes, names: Collection[str]) -> Mapping[str, object]:
    """Return the figures of a JSON object, or the sums of Prometheus' series, by their names."""
    if body.lstrip().startswith(b"{"):
        with suppress(ValueError, RecursionError):
            return json.loads(body)  # type: ignore[no-any-return]
        return {}
    sums: dict[str, float] = {}
    for line in body.decode(errors="replace").splitlines():
        labelled, brace, value = line.rpartition("}")
        name, _, rest = (labelled if brace else line).partition("{" if brace else " ")
        if name in names:
            sums[name] = sums.get(name, 0.0) + _number(value if brace else rest)
    return sums


def _number(text: str) -> float:
    """Return the value of a sample, which a time may follow; not a number where it has none."""
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return math.nan


def pulled_model(request: WarmUp) -> str:
    """Return the model that a request has Ollama pull; empty: it is no pull."""
    if request.path != PULL_PATH:
        return ""
    try:
        asked = json.loads(request.body)
    except ValueError:
        return ""  # Ollama refuses it, in words of its own
    model = asked.get("model") if isinstance(asked, dict) else None
    return model if isinstance(model, str) else ""


@contextmanager
def _noted(words: str) -> Iterator[None]:
    """Say what was waited for where that is cancelled, as by a time-out."""
    try:
        yield
    except asyncio.CancelledError as error:
        error.add_note(words)
        raise


def _url(host: str, port: int, path: str) -> str:
    address = f"[{host}]" if ":" in host else host
    return f"http://{address}:{port}{path}"


def _status(response: aiohttp.ClientResponse) -> str:
    return f"{response.status} {response.reason or ''}".strip()


def _is_good(status: str) -> bool:
    return status.startswith("200")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_shortage(error: Exception) -> bool:
    """Say whether this machine lacks something; a failed resolver does not say why it failed."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        try:
            socket.socket().close()
        except OSError as of_ours:
            error = of_ours
    return isinstance(error, OSError) and error.errno in SHORTAGES


async def _read(response: aiohttp.ClientResponse) -> str:
    """Read the body to its end, for it may be a stream of progress; return its beginning."""
    said = b""
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        said += chunk[: SAID_BYTES - len(said)]
    return " ".join(said.decode(errors="replace").split()) or "(nothing)"
