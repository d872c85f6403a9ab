"""The users of a load test, as Locust runs them; importing this makes blocking calls gevent's."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent import ssl
from gevent.event import AsyncResult
from locust import FastHttpUser, task
from locust.env import Environment

from ollama_fleet.files import UnreadableFileError, read_regular
from provisioning.load.answers import (
    BY_INSTANCE,
    Answer,
    FailedError,
    Failure,
    failed_status,
    failure_of,
    judge,
)
from provisioning.load.endpoints import HEALTH, MODELS_PATH, Question, health_path
from provisioning.load.instances import Instance, Pool, read_instances
from provisioning.load.settings import LoadTestError, Settings

log = logging.getLogger("provisioning.load")

MAX_ANSWER_BYTES = 16_000_000
CHUNK_BYTES = 65_536
MAX_KEY_BYTES = 1_000_000
LONGEST_WAIT_S = 60.0
"""However long a gateway asks to wait."""
REREAD_S = 10.0
TOO_MANY_REQUESTS = 429


@dataclass(slots=True)
class Tally:
    """What Locust does not count."""

    counts: Counter[str] = field(default_factory=Counter)
    first_token_ms: Counter[int] = field(default_factory=Counter)

    def add(self, counts: dict[str, int], first_token_ms: dict[int, int]) -> None:
        """Add what another process counted."""
        self.counts.update(counts)
        self.first_token_ms.update(first_token_ms)

    def drain(self) -> tuple[dict[str, int], dict[int, int]]:
        """Return what was counted since the last call."""
        drained = dict(self.counts), dict(self.first_token_ms)
        self.counts.clear()
        self.first_token_ms.clear()
        return drained


class Shared:
    """What the users of one process share."""

    def __init__(self, settings: Settings, *, start_at: float = 0.0) -> None:
        """Read certificates, keys and instances.

        Raises:
            LoadTestError: One of them cannot be used.
        """
        self.settings = settings
        self.tally = Tally()
        self.tls = tls_context(settings.ca_file)
        self.keys = read_keys(settings.key_file)
        self.pool = self._pool(start_at)
        self._n_users = 0
        self._logged: set[tuple[str, Failure]] = set()

    def next_key(self) -> str:
        """Return the key of the next user, in turn; empty: none is needed."""
        self._n_users += 1
        return self.keys[self._n_users % len(self.keys)] if self.keys else ""

    def log_first(self, name: str, failure: Failure, place: str, detail: str) -> None:
        """Log the first failure of each kind: the others are counted."""
        if (name, failure) not in self._logged:
            self._logged.add((name, failure))
            log.warning("request failed kind=%s path=%s at=%s: %s", failure, name, place, detail)

    def _pool(self, start_at: float) -> Pool | None:
        if not self.settings.instances:
            return None
        pool = Pool(self._read(), time.monotonic, start_at)
        gevent.spawn(self._reread, pool)
        return pool

    def _read(self) -> list[Instance]:
        return read_instances(self.settings.instances, self.settings.models, self.tls)

    def _reread(self, pool: Pool) -> None:
        while True:
            gevent.sleep(REREAD_S)
            try:
                found = self._read()
            except LoadTestError as error:
                log.warning("instances not read again: %s", error)
            else:
                pool.replace(found)


def tls_context(path: str) -> ssl.SSLContext:
    """Return what verifies HTTPS servers, by a CA bundle or the system's.

    Raises:
        LoadTestError: The bundle cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=path or None)
    except OSError as error:
        raise LoadTestError(f"--ca-file {path}: {error.strerror or error}") from error


def read_keys(path: str) -> list[str]:
    """Return the API keys of a file, one a line.

    Raises:
        LoadTestError: It cannot be read, or holds none.
    """
    if not path:
        return []
    try:
        text = read_regular(Path(path), MAX_KEY_BYTES)[0].decode("ascii")
    except (UnreadableFileError, UnicodeDecodeError) as error:
        raise LoadTestError(f"--key-file {path}: {error}") from error
    keys = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]
    if not keys:
        raise LoadTestError(f"--key-file {path} holds no key")
    return keys


@dataclass(slots=True)
class Exchange:
    """A request and what came back."""

    status: int = 0
    body: bytes = b""
    error: BaseException | None = None
    retry_after_s: float = 0.0
    first_byte_s: float = 0.0
    duration_s: float = 0.0


class Developer(FastHttpUser):
    """Asks for text, and now and then whether the server lives, as the article's users do."""

    prepared: AsyncResult[Shared] = AsyncResult()
    """Set once in each process; a worker waits for its master's settings."""

    def __init__(self, environment: Environment) -> None:
        self.shared = self.prepared.get()
        settings = self.settings = self.shared.settings
        self.host = settings.gateway_url or "http://instances.invalid"
        self.network_timeout = self.connection_timeout = settings.timeout_s
        self.insecure = False
        self.ssl_context_factory = lambda: self.shared.tls
        key = self.shared.next_key()
        self.default_headers = {"Authorization": f"Bearer {key}"} if key else {}
        super().__init__(environment)
        self.instance = self.shared.pool.take() if self.shared.pool else None
        self.pause_s = 0.0

    def wait_time(self) -> float:
        """Return how long to wait before the next request: longer, where a gateway asked to."""
        pause_s, self.pause_s = self.pause_s, 0.0
        return pause_s or random.uniform(*self.settings.wait_s)  # noqa: S311 - no secret

    @task(3)
    def generate(self) -> None:
        """Ask for the continuation of a prompt."""
        self._ask(is_chat=False)

    @task(1)
    def chat(self) -> None:
        """Ask for an answer in a conversation."""
        self._ask(is_chat=True)

    @task(1)
    def health(self) -> None:
        """Ask whether the server lives."""
        path = health_path(self.instance.engine) if self.instance else MODELS_PATH
        exchange = self._exchange("GET", path)
        if self._is_rejected(exchange):
            return
        failure = failed_status(exchange.status)
        self._finish("GET", HEALTH, exchange, Answer(failure, f"status {exchange.status}"))

    def _ask(self, *, is_chat: bool) -> None:
        settings = self.settings
        model = random.choice(settings.models) if settings.models else self._own_model()  # noqa: S311
        prompt = random.choice(settings.prompts)  # noqa: S311
        question = Question(
            settings.api, is_chat, model, prompt, settings.n_tokens, settings.is_stream
        )
        exchange = self._exchange("POST", question.path, question.body)
        if self._is_rejected(exchange):
            return
        answer = judge(question, exchange.status, exchange.body)
        if settings.is_stream and exchange.first_byte_s and not answer.failure:
            self.shared.tally.first_token_ms[round(1000 * exchange.first_byte_s)] += 1
        self.shared.tally.counts["generated_tokens"] += answer.n_tokens
        self._finish("POST", question.path, exchange, answer)

    def _own_model(self) -> str:
        return self.instance.model if self.instance else ""

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None = None) -> Exchange:
        """Send a request and read the whole answer, within the time limit."""
        url = f"{self.instance.url.rstrip('/')}{path}" if self.instance else path
        data = None if body is None else msgspec.json.encode(body)
        exchange, started_s = Exchange(), time.perf_counter()
        try:
            with gevent.Timeout(self.settings.timeout_s, TimeoutError("no whole answer in time")):
                self._converse(exchange, method, url, data, started_s)
        except (OSError, ValueError) as error:
            exchange.error = error
        exchange.duration_s = time.perf_counter() - started_s
        return exchange

    def _converse(
        self, exchange: Exchange, method: str, url: str, data: bytes | None, started_s: float
    ) -> None:
        # Reported by _finish: Locust itself would take the first byte for the end of a stream.
        reply = self.client.request(
            method,
            url,
            data=data,  # type: ignore[arg-type] # it takes bytes
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            stream=True,
            catch_response=True,
        )
        exchange.status = reply.status_code
        if not exchange.status:
            error = reply.request_meta["exception"]
            exchange.error = getattr(error, "original", error)  # what was tried, as the client says
            return
        exchange.retry_after_s = _seconds(reply.headers)
        first = next(reply.iter_content(1, decode_content=False), b"")
        exchange.first_byte_s = time.perf_counter() - started_s
        exchange.body = first + _rest(reply)

    def _is_rejected(self, exchange: Exchange) -> bool:
        """Count a gateway's 429, which is no failure, and wait as long as it says."""
        if exchange.status != TOO_MANY_REQUESTS:
            return False
        self.shared.tally.counts["rejected"] += 1
        self.pause_s = min(exchange.retry_after_s, LONGEST_WAIT_S)
        return True

    def _finish(self, method: str, name: str, exchange: Exchange, answer: Answer) -> None:
        """Report to Locust; after a failure of the instance, take another one."""
        failure, detail = answer.failure, answer.detail
        if exchange.error is not None:
            failure, detail = failure_of(exchange.error), str(exchange.error)
        self.environment.events.request.fire(
            request_type=method,
            name=name,
            response_time=1000 * exchange.duration_s,
            response_length=len(exchange.body),
            exception=FailedError(failure) if failure else None,
            context={},
        )
        if failure:
            place = self.instance.id if self.instance else self.settings.gateway_url
            self.shared.log_first(name, failure, place, detail)
            self._swap(failure)

    def _swap(self, failure: Failure) -> None:
        if self.instance and self.shared.pool and failure in BY_INSTANCE:
            self.client.client.clientpool.close()
            self.instance = self.shared.pool.swap(self.instance)
            self.shared.tally.counts["swapped"] += 1


def _rest(reply: Any) -> bytes:
    body = bytearray()
    for chunk in reply.iter_content(CHUNK_BYTES, decode_content=False):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is larger than {MAX_ANSWER_BYTES:,} bytes")
    return bytes(body)


def _seconds(headers: Any) -> float:
    """Return the seconds of a Retry-After; a date, or nothing, is one second."""
    text = headers.get("retry-after") if headers else None
    return float(text) if isinstance(text, str) and text.isdecimal() else 1.0
