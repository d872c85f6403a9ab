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


def targets_of(records: Iterable[Record], source: str) -> tuple[Target, ...]:
    """Return the targets of all records.

    Raises:
        InputError: An entry is bad, an id stands twice, or the document cannot be read on.
    """
    problems: list[Problem] = []
    targets: list[Target] = []
    for record in records:
        targets += _record_targets(record, problems)
    problems += _repeated(targets)
    if problems:
        raise InputError(source, problems)
    return tuple(targets)


def repetition(second: Target, first: Target) -> Problem:
    """Return the words for an id that stands at two places."""
    where = first.origin
    message = f"id {shown(second.id)} is also at {where}; every instance needs an id of its own"
    return Problem(second.origin, message)


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


def _repeated(targets: Iterable[Target]) -> list[Problem]:
    """Return a problem for every target whose id an earlier one has."""
    problems: list[Problem] = []
    first_by_id: dict[str, Target] = {}
    for target in targets:
        first = first_by_id.setdefault(target.id, target)
        if first is not target:
            problems.append(repetition(target, first))
    return problems
