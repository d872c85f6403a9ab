"""Turn inventory records, single entries or Prometheus service-discovery groups, into targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from sys import intern
from typing import NamedTuple

from exporter.engines import ENGINE_NAMES
from exporter.errors import InputError
from exporter.inventory.address import Address, parse_host, parse_netloc, parse_url
from exporter.inventory.checks import shown
from exporter.inventory.fields import Fields, Problems, Record
from exporter.model import AUTO, HealthCheck, State, Target, model_name
from ollama_fleet.problems import Problem

FIELDS = frozenset({"id", "node", "model", "engine", "state", "developer", "started", "health"})
"""Keys of an entry that describe; in service discovery they arrive as labels."""

RESERVED = FIELDS | {"instance_id"}
"""Names that no label may have: the exporter's own labels carry these values."""

TARGETS = "targets"
LABELS = "labels"
GROUP_KEYS = frozenset({TARGETS, LABELS})
SCHEME = "__scheme__"
META_PREFIX = "__meta_ollama_"

FIELD_BY_LABEL: Mapping[str, str] = {
    prefix + label: field
    for prefix in ("", META_PREFIX)
    for label, field in [("instance_id", "id"), *((name, name) for name in sorted(FIELDS))]
}

KEYS = FIELDS | {"url", "host", "port", "labels"}
SUGGESTED = KEYS | {TARGETS}

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
    elif TARGETS in value:
        yield from group_targets(record, value, problems)
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


class _Split(NamedTuple):
    """A group's labels, sorted by what they are."""

    value_by_field: dict[str, object]
    path_by_field: dict[str, str]
    labels: dict[str, object]
    tls: bool


def group_targets(
    record: Record, group: Mapping[str, object], problems: Problems
) -> Iterator[Target]:
    """Yield the group's targets, all with the same description and the same labels object."""
    fields = Fields(group, record, problems)
    fields.refuse_unknown(GROUP_KEYS)
    split = _split(fields)
    description = describe(Fields(split.value_by_field, record, problems, split.path_by_field))
    labels = fields.checked_labels(LABELS, split.labels)
    for index, address in _addresses(fields, record, problems, tls=split.tls):
        yield new_target(address, description, labels, record.at_item(TARGETS, index))


def _split(fields: Fields) -> _Split:
    raw = fields.values.get(LABELS)
    if raw is not None and not isinstance(raw, dict):
        fields.complain(LABELS, f"must be an object of texts, got {shown(raw)}")
        raw = None
    split = _Split({}, {}, {}, tls=_is_tls(fields, raw or {}))
    for label, value in (raw or {}).items():
        if field := FIELD_BY_LABEL.get(label):
            _take(field, label, value, split, fields)
        elif not label.startswith("__"):
            split.labels[label] = value
    return split


def _take(field: str, label: str, value: object, split: _Split, fields: Fields) -> None:
    """Note a label's value as a field's; two labels for one field must agree."""
    path = f"{LABELS}.{label}"
    if not value:
        return
    known = split.value_by_field.setdefault(field, value)
    first = split.path_by_field.setdefault(field, path)
    if known != value:
        seen = f"is {shown(value)}, but {first} is {shown(known)}"
        fields.complain(path, f"{seen}; both mean {field}")


def _is_tls(fields: Fields, labels: Mapping[str, object]) -> bool:
    scheme = labels.get(SCHEME, "http")
    if scheme not in ("http", "https"):
        fields.complain(f"{LABELS}.{SCHEME}", f"must be http or https, got {shown(scheme)}")
    return scheme == "https"


def _addresses(
    fields: Fields, record: Record, problems: Problems, *, tls: bool
) -> Iterator[tuple[int, Address]]:
    """Yield index and address of every element of `targets` that is one."""
    texts = fields.values.get(TARGETS)
    if not isinstance(texts, list):
        fields.complain(TARGETS, f"must be a list of host:port, got {shown(texts)}")
        return
    for index, text in enumerate(texts):
        try:
            yield index, _group_address(text, tls=tls)
        except ValueError as error:
            place = record.at_item(TARGETS, index)
            problems.add(Problem(place, f"{TARGETS}[{index}] {error}"))


def _group_address(text: object, *, tls: bool) -> Address:
    if not isinstance(text, str):
        raise ValueError(f"must be host:port, got {shown(text)}")
    return parse_netloc(text, tls=tls)


class Description(NamedTuple):
    """Checked values of the describing fields; empty texts where nothing is given."""

    id: str
    node: str
    model: str
    engine: str
    state: State
    developer: str
    started_s: float | None
    health: HealthCheck


def describe(fields: Fields) -> Description:
    """Read the describing fields; faults go to the fields' problems."""
    return Description(
        id=fields.text("id"),
        # A fleet has many instances but few nodes, models and developers: one copy of each.
        node=intern(fields.text("node")),
        model=intern(model_name(fields.text("model"))),
        engine=fields.one_of("engine", ENGINE_NAMES, AUTO),
        state=fields.choice("state", State.RUNNING),
        developer=intern(fields.text("developer")),
        started_s=fields.moment_s("started"),
        health=fields.choice("health", HealthCheck.POLL),
    )


def new_target(
    address: Address, description: Description, labels: Mapping[str, str], origin: str
) -> Target:
    """Return the target; its node defaults to its host and its id to `host:port`."""
    target = Target(
        id=description.id,
        host=address.host,
        port=address.port,
        tls=address.tls,
        path=address.path,
        node=description.node or address.host,
        model=description.model,
        engine=description.engine,
        state=description.state,
        developer=description.developer,
        started_s=description.started_s,
        health=description.health,
        labels=labels,
        origin=origin,
    )
    return target if target.id else replace(target, id=target.netloc)
