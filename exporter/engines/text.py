"""Read Prometheus' text format 0.0.4, keeping only what is wanted.

In:   a page and the names of the samples to keep.
Out:  their values. Fails with PollError(BAD_BODY).
A page may be large and most of it of no use here, so wanted lines are searched for from the end,
where the last one of a name is the one that counts: no line is read but one a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.engines.base import MAX_AMOUNT, excerpt
from exporter.errors import PollError
from exporter.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SHOWN_BYTES = 50


def samples_without_labels(page: bytes, wanted: Iterable[str]) -> dict[str, float]:
    """Return the value of each wanted sample that stands on the page without labels.

    Values are 0 to MAX_AMOUNT. Of a sample that stands there repeatedly, the last one counts.

    Raises:
        PollError: BAD_BODY. A wanted sample has no such value, or the page is no text at all.
    """
    rest_by_name = {name: _last(page, name.encode()) for name in wanted}
    return {name: _value(name, rest) for name, rest in rest_by_name.items() if rest is not None}


def _last(page: bytes, name: bytes) -> bytes | None:
    """Return what follows the name on the last line that begins with it; None without one."""
    head = name + b" "
    before = page.rfind(b"\n" + head)
    if before < 0 and not page.startswith(head):
        return None
    start = before + 1 + len(head)
    end = page.find(b"\n", start)
    return page[start:] if end < 0 else page[start:end]


def _value(name: str, rest: bytes) -> float:
    fields = rest.split(maxsplit=1)  # value, and maybe a timestamp
    try:
        value = float(fields[0])
    except (IndexError, ValueError) as error:
        raise _bad(name, rest) from error
    if not 0 <= value <= MAX_AMOUNT:  # nor is NaN
        raise _bad(name, rest)
    return value


def _bad(name: str, rest: bytes) -> PollError:
    shown = excerpt(rest[:MAX_SHOWN_BYTES])
    return PollError(Outcome.BAD_BODY, f"{name} has no usable value: {shown}")
