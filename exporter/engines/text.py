"""Read Prometheus' text format 0.0.4, keeping only what is wanted.

In:   a page and the names of the samples to keep.
Out:  their values. Fails with PollError(BAD_BODY).
A page may be large and most of it of no use here, so lines are passed over by their first bytes.
"""

from __future__ import annotations

import math

from exporter.errors import PollError
from exporter.model import Outcome


def samples_without_labels(page: bytes, wanted: frozenset[bytes]) -> dict[str, float]:
    """Return the value of each wanted sample that stands on the page without labels.

    Values are finite and not negative.

    Raises:
        PollError: BAD_BODY. A wanted sample has no such value, or the page is no text at all.
    """
    found: dict[str, float] = {}
    for line in page.splitlines():
        name, _, rest = line.partition(b" ")
        if name in wanted:
            found[name.decode()] = _value(name, rest)
    return found


def _value(name: bytes, rest: bytes) -> float:
    fields = rest.split()  # value, and maybe a timestamp
    try:
        value = float(fields[0])
    except (IndexError, ValueError) as error:
        raise _bad(name, rest) from error
    if not math.isfinite(value) or value < 0:
        raise _bad(name, rest)
    return value


def _bad(name: bytes, rest: bytes) -> PollError:
    shown = rest[:50].decode(errors="replace")
    return PollError(Outcome.BAD_BODY, f"{name.decode()} has no usable value: {shown!r}")
