"""Measure how long an inventory takes to read, beside the parsers that everybody has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sized

import yaml

from bench.bench import Bench
from bench.figures import Finding
from exporter.inventory.entries import targets_of
from exporter.inventory.formats import Format, records
from tests.exporter.inventory.fakes import fleet

N_RUNS = 5

PLAIN: Mapping[Format, tuple[str, Callable[[bytes], Sized]]] = {
    Format.JSON: ("json.loads", json.loads),
    Format.HTTP: ("json.loads", json.loads),
    Format.YAML: ("yaml.CSafeLoader", lambda body: yaml.load(body, yaml.CSafeLoader)),
}
"""The same work without checks, defaults and places."""


async def measure_reading(bench: Bench) -> list[Finding]:
    """Read one list as each form; the fastest of some runs counts."""
    bench.say(f"inventory: {bench.n_instances:,} entries, read {N_RUNS} times as each form")
    body = fleet(bench.n_instances)
    return [sentence(form, bench.n_instances, *measured(form, body)) for form in Format]


def measured(form: Format, body: bytes) -> tuple[float, float]:
    """Return seconds of CPU: ours, and the plain parser's."""
    _, parse = PLAIN[form]
    ours_s = least_cpu_s(lambda: targets_of(records(body, "f", form), "f"))
    return ours_s, least_cpu_s(lambda: parse(body))


def least_cpu_s(read: Callable[[], Sized]) -> float:
    """Return the CPU time of the fastest of some runs."""
    return min(_cpu_s(read) for _ in range(N_RUNS))


def _cpu_s(read: Callable[[], Sized]) -> float:
    began_s = time.process_time()
    read()
    return time.process_time() - began_s


def sentence(form: Format, n_entries: int, ours_s: float, plain_s: float) -> str:
    """Return what was seen, in words."""
    parser, _ = PLAIN[form]
    return (
        f"inventory of {n_entries:,} entries, form {form}: read and checked in {ours_s:.3f} CPU-s, "
        f"{ours_s / plain_s:.2f} times what {parser} alone takes"
    )
