"""Read one group of Prometheus service discovery: `{"targets": [...], "labels": {...}}`.

In:   a Record with the key `targets`, as file_sd and HTTP SD write it.
Out:  one Target per element; faults are added to `problems`.
Labels that name a field of an entry, plain or behind `__meta_ollama_`, are that field; other
labels with `__` in front belong to Prometheus and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from exporter.errors import Problem
from exporter.inventory.address import Address, parse_netloc
from exporter.inventory.checks import shown
from exporter.inventory.description import FIELDS, describe, new_target
from exporter.inventory.faults import Problems
from exporter.inventory.fields import Fields
from exporter.inventory.record import Record
from exporter.model import Target

TARGETS = "targets"
LABELS = "labels"
KEYS = frozenset({TARGETS, LABELS})
SCHEME = "__scheme__"
META_PREFIX = "__meta_ollama_"

FIELD_BY_LABEL: Mapping[str, str] = {
    prefix + label: field
    for prefix in ("", META_PREFIX)
    for label, field in [("instance_id", "id"), *((name, name) for name in sorted(FIELDS))]
}


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
    fields.refuse_unknown(KEYS)
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
            yield index, _address(text, tls=tls)
        except ValueError as error:
            place = record.at_item(TARGETS, index)
            problems.add(Problem(place, f"{TARGETS}[{index}] {error}"))


def _address(text: object, *, tls: bool) -> Address:
    if not isinstance(text, str):
        raise ValueError(f"must be host:port, got {shown(text)}")
    return parse_netloc(text, tls=tls)
