"""Read Prometheus' text format 0.0.4, keeping only what is wanted.

In:   a page and the names of the samples to keep.
Out:  their values, and what is wrong with those that have no usable one.
A page may be large and most of it of no use here, so wanted lines are searched for from the end,
where the last one of a name is the one that counts: no line is read but one a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.engines.base import MAX_AMOUNT, excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SHOWN_BYTES = 50


def samples_without_labels(
    page: bytes, wanted: Iterable[str]
) -> tuple[dict[str, float], list[str]]:
    """Return the value of each wanted sample that stands on the page without labels, and faults.

    Values are 0 to MAX_AMOUNT. Of a sample that stands there repeatedly, the last one counts. One
    without such a value is left out, and a fault says so.
    """
    samples: dict[str, float] = {}
    faults: list[str] = []
    for name in wanted:
        rest = _last(page, name.encode())
        if rest is None:
            continue
        value = _value(rest)
        if value is None:
            faults.append(f"{name} has no usable value: {excerpt(rest[:MAX_SHOWN_BYTES])}")
        else:
            samples[name] = value
    return samples, faults


def _last(page: bytes, name: bytes) -> bytes | None:
    """Return what follows the name on the last line that begins with it; None without one."""
    head = name + b" "
    before = page.rfind(b"\n" + head)
    if before < 0 and not page.startswith(head):
        return None
    start = before + 1 + len(head)
    end = page.find(b"\n", start)
    return page[start:] if end < 0 else page[start:end]


def _value(rest: bytes) -> float | None:
    fields = rest.split(maxsplit=1)  # value, and maybe a timestamp
    try:
        value = float(fields[0])
    except (IndexError, ValueError):
        return None
    return value if 0 <= value <= MAX_AMOUNT else None  # nor is NaN
