"""A fleet as JSON: what the store keeps and the API speaks.

In:   a Fleet, or a text.
Out:  a text that is the same for equal fleets, every default written out; or the Fleet.
Fails with SpecError. Defaults are written so that a later release with other ones changes nothing
of a fleet that runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from provisioning.errors import SpecError
from provisioning.model import Fleet
from provisioning.spec.checks import problems_of
from provisioning.spec.problems import Path, Unknown, clipped, refuse

SOURCE = "the specification"


def encode_fleet(fleet: Fleet) -> str:
    """Return the fleet as JSON."""
    return msgspec.json.encode(fleet, order="deterministic").decode()


def decode_fleet(text: str | bytes) -> Fleet:
    """Return the fleet of a JSON text, as it was written: whether it can be is not looked at.

    Raises:
        SpecError: The text is no specification, or holds keys that are not known.
    """
    try:
        fleet = msgspec.json.decode(text, type=Fleet)
        refuse(SOURCE, _unknown((), msgspec.json.decode(text), msgspec.to_builtins(fleet)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(SOURCE, [clipped(f"is none: {error}")]) from error
    return fleet


def checked_fleet(text: str | bytes) -> Fleet:
    """Return the fleet of a JSON text that a stranger wrote.

    Raises:
        SpecError: As `decode_fleet`, and where there can be no such fleet.
    """
    fleet = decode_fleet(text)
    refuse(SOURCE, problems_of(fleet))
    return fleet


def _unknown(path: Path, given: object, known: object) -> Iterator[Unknown]:
    """Yield the keys that decoding has passed over."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key in known:
                yield from _unknown((*path, key), value, known[key])
            else:
                yield Unknown((*path, key), "unknown key", str(key), known)
    elif isinstance(given, list) and isinstance(known, list | tuple):
        for index, (value, inner) in enumerate(zip(given, known, strict=True)):
            yield from _unknown((*path, index), value, inner)
