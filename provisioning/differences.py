"""Which settings differ between two of a kind: nodes, pools, limits.

In:   the two, and how a specification writes one of them.
Out:  FieldChanges, sorted by name, as the file has them. Pure; never fails.
Of what may hold secrets it is told only that it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from provisioning.spec.document import Document
from provisioning.spec_model import Limits, Node, Pool

HIDDEN = "…"
UNSHOWN = ("command", "environment.", "warm_up")
"""How settings begin that may hold secrets."""

DescribedT = TypeVar("DescribedT", bound=Node | Pool | Limits)


class FieldChange(msgspec.Struct, frozen=True):
    """A setting with another value; an empty text where there is none."""

    name: str
    before: str
    after: str


def differences(
    before: DescribedT, after: DescribedT, document_of: Callable[[DescribedT], Document]
) -> tuple[FieldChange, ...]:
    """Return the settings that differ, sorted by name, as the specification has them."""
    if before == after:
        return ()
    old = dict(_flat("", document_of(before)))
    new = dict(_flat("", document_of(after)))
    return tuple(
        _shown(name, old.get(name, ""), new.get(name, ""))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def _shown(name: str, before: str, after: str) -> FieldChange:
    if name.startswith(UNSHOWN):
        return FieldChange(name, before and HIDDEN, after and HIDDEN)
    return FieldChange(name, before, after)


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield each setting with its dotted name and its value as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, inner)
    elif value is not None:
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        yield prefix, text or '""'
