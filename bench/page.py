"""Fetch an exporter's page as a scraper does, and find a sample on it."""

from __future__ import annotations

import contextlib
import http.client
import time
from dataclasses import dataclass

TIMEOUT_S = 30.0
READY_PATH = "/-/ready"


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer's body as it came, and how long it took from the request to the last byte."""

    body: bytes
    duration_s: float


def new_connection(
    port: int, host: str = "127.0.0.1"
) -> contextlib.closing[http.client.HTTPConnection]:
    """Return a connection for a `with` block; it connects with the first request."""
    return contextlib.closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_S))


def fetch(
    port: int, path: str = "/metrics", *, is_gzip: bool = False, host: str = "127.0.0.1"
) -> Fetched:
    """Get a page over a fresh connection.

    Raises:
        OSError: Nobody answers.
        ValueError: The status is not 200.
    """
    with new_connection(port, host) as connection:
        started_s = time.perf_counter()
        headers = {"Accept-Encoding": "gzip"} if is_gzip else {}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        duration_s = time.perf_counter() - started_s
    if response.status != 200:
        raise ValueError(
            f"GET {path} of {host}:{port} gave status {response.status}: {body[:200]!r}"
        )
    return Fetched(body, duration_s)


def value_of(page: bytes, series: str) -> float:
    """Return the value of a sample, named as the page spells it, with its labels.

    Raises:
        ValueError: The page has no such sample.
    """
    start = f"{series} ".encode()
    for line in page.splitlines():
        if line.startswith(start):
            return float(line[len(start) :])
    raise ValueError(f"no sample {series} on a page of {len(page):,} bytes")


def count_samples(page: bytes) -> int:
    """Return how many samples a text page has."""
    return sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
