"""Turn the records of one source into targets.

In:   Records.
Out:  Targets in the order of the document, each with its origin.
Fails with InputError, which carries every problem of the source; one bad entry refuses the list,
because half an inventory looks like a fleet that lost its other half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from exporter.errors import InputError, Problem
from exporter.inventory import groups
from exporter.inventory.address import Address, parse_host, parse_url
from exporter.inventory.checks import shown
from exporter.inventory.description import FIELDS, RESERVED, describe, new_target
from exporter.inventory.faults import Problems
from exporter.inventory.fields import Fields
from exporter.inventory.record import Record
from exporter.model import Target

KEYS = FIELDS | {"url", "host", "port", "labels"}
SUGGESTED = KEYS | {groups.TARGETS}

MAX_INSTANCES = 500_000
"""In one source. An instance takes about 700 bytes here, and far more once it is polled."""


def targets_of(records: Iterable[Record], source: str) -> tuple[Target, ...]:
    """Return the targets of all records.

    Raises:
        InputError: An entry is bad, an id stands twice, there are too many instances, or the
            document cannot be read on.
    """
    problems = Problems(source)
    targets: list[Target] = []
    place_by_id: dict[str, str] = {}
    for record in records:
        n_before = len(targets)
        for target in _record_targets(record, problems):
            _claim(target.id, target.origin, place_by_id, problems)
            targets.append(target)
            if len(targets) > MAX_INSTANCES:
                raise InputError(source, [_too_many(record.place)])
        if len(targets) == n_before and (id_ := _id_without_address(record)):
            _claim(id_, record.place, place_by_id, problems)
    problems.raise_if_any()
    return tuple(targets)


def repetition(id_: str, place: str, other_place: str) -> Problem:
    """Return the words for an id that stands at two places."""
    message = f"id {shown(id_)} is also at {other_place}; every instance needs an id of its own"
    return Problem(place, message)


def _too_many(place: str) -> Problem:
    helps = "split the list, and give each part as an --inventory of its own"
    return Problem(place, f"is beyond the limit: more than {MAX_INSTANCES:,} instances; {helps}")


def _record_targets(record: Record, problems: Problems) -> Iterator[Target]:
    value = record.value
    if not isinstance(value, dict):
        message = f"an instance must be an object, got {shown(value)}"
        problems.add(Problem(record.place, message))
    elif groups.TARGETS in value:
        yield from groups.group_targets(record, value, problems)
    else:
        yield from _entry_targets(record, value, problems)


def _entry_targets(
    record: Record, entry: Mapping[str, object], problems: Problems
) -> Iterator[Target]:
    """Yield the one target of an entry, or none when its address is refused."""
    fields = Fields(entry, record, problems)
    fields.refuse_unknown(KEYS, SUGGESTED)
    address = _address(fields)
    description = describe(fields)
    labels = fields.labels("labels", RESERVED)
    if address is not None:
        yield new_target(address, description, labels, record.place)


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


def _id_without_address(record: Record) -> str:
    """Return the id that an entry gives although its address was refused; empty for none."""
    id_ = record.value.get("id") if isinstance(record.value, dict) else None
    return id_ if isinstance(id_, str) else ""


def _claim(id_: str, place: str, place_by_id: dict[str, str], problems: Problems) -> None:
    """Note where an id stands; it is a problem if an earlier instance has it."""
    if id_ in place_by_id:
        problems.add(repetition(id_, place, place_by_id[id_]))
    else:
        place_by_id[id_] = place
