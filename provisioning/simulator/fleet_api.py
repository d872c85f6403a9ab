"""The endpoints of a fleet server: /health, /api/metrics and what every instance answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Protocol

from provisioning.simulator.completion import OLLAMA, AnswerWriter
from provisioning.simulator.endpoints import Operation
from provisioning.simulator.fleet import InstanceState
from provisioning.simulator.instance import BOUNDARIES_S, n_running
from provisioning.simulator.spec import FleetSpec
from provisioning.simulator.wire import JSON, TEXT, Request, Response

Body = Callable[[InstanceState, float], bytes]


class Page:
    """A page that every instance has: status 200, one content type, a body of the moment."""

    __slots__ = ("_head", "_head_until_s", "body", "content_type")

    def __init__(self, content_type: str, body: Body) -> None:
        self.content_type = content_type
        self.body = body
        self._head = b""
        self._head_until_s = 0.0

    def render(self, state: InstanceState, now_s: float) -> bytes:
        """Return head and body; the head is made once a second, for its date."""
        if now_s >= self._head_until_s:
            self._renew_head(now_s)
        body = self.body(state, now_s)
        return self._head % len(body) + body

    def response(self, state: InstanceState, now_s: float) -> Response:
        """Return the answer for requests that need another head than `render` gives."""
        return Response(HTTPStatus.OK, self.content_type, self.body(state, now_s))

    def _renew_head(self, now_s: float) -> None:
        date = formatdate(now_s, usegmt=True)
        self._head_until_s = int(now_s) + 1.0
        self._head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {self.content_type}\r\n"
            f"Date: {date}\r\nContent-Length: %d\r\n\r\n"
        ).encode()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an instance's models are asked for, and in which API's words it answers."""

    deed: Operation
    answers: AnswerWriter


Answer = Page | Response | Endpoint
"""How a request is answered: by a page, by what is known already, or by the models."""


class Router(Protocol):
    """What the instances serve: either mode's pages and endpoints."""

    metrics_path: str
    """Of the page that carries figures, as opposed to health."""

    def admit(self, request: Request, state: InstanceState) -> Request | Response:
        """Return the request as it is to be answered, or the refusal of one from outside."""
        ...

    def find(self, request: Request, state: InstanceState) -> Answer:
        """Return what a request that was admitted is answered by."""
        ...

    def loading(self, request: Request, state: InstanceState) -> Answer:
        """As `find`, for an instance whose model is being loaded."""
        ...


class FleetRouter:
    """Fleet mode: `/health`, `/api/metrics`, and text generated on demand."""

    metrics_path = "/api/metrics"

    def __init__(self, spec: FleetSpec) -> None:
        self._page_by_path: Mapping[str, Page] = {
            "/health": Page(JSON, _health),
            "/api/metrics": Page(JSON, metrics_body(spec)),
        }

    def admit(self, request: Request, state: InstanceState) -> Request | Response:
        """Let every request pass."""
        return request

    def find(self, request: Request, state: InstanceState) -> Answer:
        """Return the page for a GET or HEAD, 404 or 405 for anything else."""
        if request.method == "POST" and request.path in FLEET_ENDPOINTS:
            return FLEET_ENDPOINTS[request.path]
        page = self._page_by_path.get(request.path)
        if page is None:
            return not_found()
        return page if request.method in {"GET", "HEAD"} else not_allowed("HEAD, GET")

    def loading(self, request: Request, state: InstanceState) -> Answer:
        """Answer 503 on every page there is."""
        found = self.find(request, state)
        if isinstance(found, Response):
            return found
        body = b'{"status":"loading"}'
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, JSON, body)


FLEET_ENDPOINTS: Mapping[str, Endpoint] = MappingProxyType(
    {
        "/api/generate": Endpoint(Operation.GENERATE, OLLAMA),
        "/api/chat": Endpoint(Operation.CHAT, OLLAMA),
    }
)


def not_found() -> Response:
    """Answer what Ollama answers to a path that it does not have."""
    return Response(HTTPStatus.NOT_FOUND, TEXT, b"404 page not found")


def not_allowed(allowed: str) -> Response:
    """Answer what Ollama answers to a path that it has for other methods."""
    return Response(
        HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"405 method not allowed", (("Allow", allowed),)
    )


def metrics_body(spec: FleetSpec) -> Body:
    """Return the function that writes /api/metrics, with as much in it as the spec says."""
    if spec.article_metrics:
        return _article_metrics
    return _metrics_with_histogram if spec.request_histogram else _metrics


def _health(state: InstanceState, now_s: float) -> bytes:
    return b'{"status":"ok"}'


def _article_metrics(state: InstanceState, now_s: float) -> bytes:
    life = state.life
    *_, timeouts, out_of_memory, overloaded = life.counters(now_s)
    return b'{"tokens_per_second":%.2f,"latency_p99":%.4f,"error_count":%d}' % (
        life.tokens_per_second,
        life.latency_p99_s,
        int(timeouts) + int(out_of_memory) + int(overloaded),
    )


ROUNDING = 1e-6
"""Keeps a range that has a whole number of requests from falling below it as a float."""

_METRICS = (
    b'{"tokens_per_second":%.2f,"latency_p99":%.4f,"error_count":%d,'
    b'"errors":{"timeout":%d,"out_of_memory":%d,"overloaded":%d},'
    b'%b,"requests_running":%d,"requests_queued":%d,'
    b'"generated_tokens_total":%d,"prompt_tokens_total":%d,"generating_seconds_total":%.3f,'
    b'"start_time_seconds":%.3f}'
)


def _metrics(state: InstanceState, now_s: float) -> bytes:
    # Unrolled: each poll comes here, and Lifetime.counters takes twice the time.
    life = state.life
    dt_s = now_s - life.since_s
    _, _, gen_s, gen, prompt, timeouts, memory, overloaded = life.at_since
    _, _, gen_s_rate, gen_rate, prompt_rate, timeout_rate, memory_rate, overloaded_rate = (
        life.per_second
    )
    n_timeouts = int(timeouts + timeout_rate * dt_s)
    n_memory = int(memory + memory_rate * dt_s)
    n_overloaded = int(overloaded + overloaded_rate * dt_s)
    return _METRICS % (
        life.tokens_per_second,
        life.latency_p99_s,
        n_timeouts + n_memory + n_overloaded,
        n_timeouts,
        n_memory,
        n_overloaded,
        state.identity,
        state.n_generating + n_running(state.instance, life, now_s),
        state.n_waiting,
        gen + gen_rate * dt_s,
        prompt + prompt_rate * dt_s,
        gen_s + gen_s_rate * dt_s,
        life.start_s,
    )


def _metrics_with_histogram(state: InstanceState, now_s: float) -> bytes:
    life = state.life
    reached = life.requests_by_boundary(now_s)
    # Whole requests between two boundaries: rounded where they are cumulative, a range could lose
    # one between two polls, and that is what a restart looks like.
    ranges = [upper - lower for lower, upper in pairwise((0.0, *reached))]
    counts = accumulate(int(n + ROUNDING) for n in ranges)
    names = (*(f"{boundary:g}" for boundary in BOUNDARIES_S), "+Inf")
    buckets = ",".join(f'"{name}":{int(n)}' for name, n in zip(names, counts, strict=True))
    sum_s = life.counters(now_s).duration_s
    histogram = f',"request_duration_seconds":{{"buckets":{{{buckets}}},"sum":{sum_s:.3f}}}}}'
    return _metrics(state, now_s)[:-1] + histogram.encode()
