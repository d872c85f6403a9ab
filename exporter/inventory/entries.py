"""Turn the records of one source into targets.

In:   Records.
Out:  Targets in the order of the document, each with its origin.
Fails with InputError, which carries every problem of the source; one bad entry refuses the list,
because half an inventory looks like a fleet that lost its other half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exporter.errors import InputError, Problem
from exporter.inventory import groups
from exporter.inventory.address import Address, parse_host, parse_url
from exporter.inventory.checks import shown
from exporter.inventory.description import FIELDS, RESERVED, describe, new_target
from exporter.inventory.fields import Fields
from exporter.inventory.record import Record
from exporter.model import Target

KEYS = FIELDS | {"url", "host", "port", "labels"}
SUGGESTED = KEYS | {groups.TARGETS}

Named = tuple[str, str]
"""An instance's id, and where it stands."""


def targets_of(records: Iterable[Record], source: str) -> tuple[Target, ...]:
    """Return the targets of all records.

    Raises:
        InputError: An entry is bad, an id stands twice, or the document cannot be read on.
    """
    problems: list[Problem] = []
    targets: list[Target] = []
    named: list[Named] = []
    for record in records:
        found = _record_targets(record, problems)
        targets += found
        named += [(target.id, target.origin) for target in found] or _unaddressed(record)
    problems += _repeated(named)
    if problems:
        raise InputError(source, problems)
    return tuple(targets)


def repetition(id_: str, place: str, other_place: str) -> Problem:
    """Return the words for an id that stands at two places."""
    message = f"id {shown(id_)} is also at {other_place}; every instance needs an id of its own"
    return Problem(place, message)


def _record_targets(record: Record, problems: list[Problem]) -> list[Target]:
    value = record.value
    if not isinstance(value, dict):
        message = f"an instance must be an object, got {shown(value)}"
        problems.append(Problem(record.place, message))
        return []
    if groups.TARGETS in value:
        return groups.group_targets(record, value, problems)
    return _entry_targets(record, value, problems)


def _entry_targets(
    record: Record, entry: Mapping[str, object], problems: list[Problem]
) -> list[Target]:
    """Return the one target of an entry, or none when its address is refused."""
    fields = Fields(entry, record, problems)
    fields.refuse_unknown(KEYS, SUGGESTED)
    address = _address(fields)
    description = describe(fields)
    labels = fields.labels("labels", RESERVED)
    if address is None:
        return []
    return [new_target(address, description, labels, record.place)]


def _address(fields: Fields) -> Address | None:
    """Return where the entry's instance listens: by `url`, or by `host` and `port`."""
    values = fields.values
    has_host = values.get("host") is not None or values.get("port") is not None
    if values.get("url") is not None:
        if has_host:
            fields.complain("url", "stands beside host or port; give one or the other")
        return fields.parsed("url", parse_url)
    if not has_host:
        fields.complain("url", "is missing; give url, or host and port")
        return None
    host, port = fields.parsed("host", parse_host), fields.port("port")
    return Address(host, port) if host is not None and port is not None else None


def _unaddressed(record: Record) -> list[Named]:
    """Return the id that an entry gives although its address was refused."""
    id_ = record.value.get("id") if isinstance(record.value, dict) else None
    return [(id_, record.place)] if isinstance(id_, str) and id_ else []


def _repeated(named: Iterable[Named]) -> list[Problem]:
    """Return a problem for every id that an earlier instance has."""
    problems: list[Problem] = []
    first_place_by_id: dict[str, str] = {}
    for id_, place in named:
        if id_ in first_place_by_id:
            problems.append(repetition(id_, place, first_place_by_id[id_]))
        else:
            first_place_by_id[id_] = place
    return problems
