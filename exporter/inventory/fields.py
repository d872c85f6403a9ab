"""Read the named values of one inventory record and collect every problem with its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from enum import StrEnum
from sys import intern
from types import MappingProxyType
from typing import TypeVar

import msgspec

from exporter.errors import InputError
from exporter.inventory.address import parse_port
from exporter.inventory.checks import label_name_fault, shown, text_fault
from exporter.model import NO_LABELS
from ollama_fleet.problems import MAX_PROBLEMS, Problem
from ollama_fleet.suggestions import did_you_mean

MAX_LABELS = 64
MAX_UNIX_S = 253_402_300_799.0
"""The end of the year 9999."""

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)
ParsedT = TypeVar("ParsedT")


class Fields:
    """The values of one mapping inside a record."""

    __slots__ = ("_path_by_key", "_problems", "_record", "values")

    def __init__(
        self,
        values: Mapping[str, object],
        record: Record,
        problems: Problems,
        path_by_key: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.values = values
        self._record = record
        self._problems = problems
        self._path_by_key = path_by_key
        """Path inside the record where it is not the key itself, as for fields given as labels."""

    def complain(self, key: str, message: str) -> None:
        """Note that the value under `key` is wrong; `message` follows its name."""
        path = self._path_by_key.get(key, key)
        self._problems.add(Problem(self._record.at(path), f"{path} {message}{self._whose()}"))

    def _whose(self) -> str:
        """Return a hint at the instance, for lists where a place is but an index."""
        identity = self.values.get("id")
        return f" (instance {shown(identity)})" if isinstance(identity, str) else ""

    def refuse_unknown(self, known: Collection[str], suggested: Collection[str] = ()) -> None:
        """Note every key that is not among the known ones; suggest one, or one of `suggested`."""
        for key in self.values:
            if key not in known:
                guess = did_you_mean(key, suggested or known)
                message = f"unknown key {shown(key)}{guess}{self._whose()}"
                self._problems.add(Problem(self._record.at(key), message))

    def text(self, key: str) -> str:
        """Return a text; empty when it is absent, null or refused."""
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.complain(key, f"must be a text, got {shown(value)}; put it in quotes")
            return ""
        fault = text_fault(value)
        if fault:
            self.complain(key, fault)
            return ""
        return value

    def choice(self, key: str, default: ChoiceT) -> ChoiceT:
        """Return one of the members of the default's enumeration."""
        members = type(default)
        return members(self.one_of(key, [member.value for member in members], default.value))

    def one_of(self, key: str, known: Collection[str], default: str) -> str:
        """Return one of the known words; the default when it is absent, null, empty or refused."""
        value = self.values.get(key)
        if value is None or value == "":
            return default
        if isinstance(value, str) and value in known:
            return intern(value)
        guess = did_you_mean(value if isinstance(value, str) else shown(value), known)
        self.complain(key, f"must be one of {', '.join(known)}, got {shown(value)}{guess}")
        return default

    def moment_s(self, key: str) -> float | None:
        """Return a time in seconds since 1970; None when it is absent, null, empty or refused."""
        value = self.values.get(key)
        if value is None or value == "":
            return None
        moment_s = _unix_s(value)
        if moment_s is None:
            helps = "such as 2026-01-31T08:00:00Z, or in seconds since 1970"
            self.complain(key, f"must be a time {helps}, got {shown(value)}")
        return moment_s

    def parsed(self, key: str, parse: Callable[[str], ParsedT]) -> ParsedT | None:
        """Return what `parse` makes of a text that must be there; None when it is refused."""
        value = self.values.get(key)
        if not isinstance(value, str):
            self._complain_of_kind(key, f"must be a text, got {shown(value)}")
            return None
        try:
            return parse(value)
        except ValueError as error:
            self.complain(key, str(error))
            return None

    def port(self, key: str) -> int | None:
        """Return a port that must be there; None when it is refused."""
        try:
            return parse_port(self.values.get(key))
        except ValueError as error:
            self._complain_of_kind(key, str(error))
            return None

    def _complain_of_kind(self, key: str, message: str) -> None:
        """Note that a value that must be there is of the wrong kind, or is missing."""
        self.complain(key, "is missing" if self.values.get(key) is None else message)

    def labels(self, key: str, fields: Collection[str]) -> Mapping[str, str]:
        """Return the labels under `key`, read-only; none of them may be named as a field is."""
        value = self.values.get(key)
        if not value and (value is None or isinstance(value, dict)):
            return NO_LABELS
        if not isinstance(value, dict):
            self.complain(key, f"must be an object of texts, got {shown(value)}")
            return NO_LABELS
        for name in value.keys() & fields:
            self.complain(f"{key}.{name}", "is a key of the instance itself; move it out of labels")
        return self.checked_labels(key, value)

    def checked_labels(self, key: str, labels: Mapping[str, object]) -> Mapping[str, str]:
        """Return labels with fit names and texts as values, read-only; note the others."""
        if len(labels) > MAX_LABELS:
            self.complain(key, f"must hold at most {MAX_LABELS} labels, got {len(labels):,}")
            return NO_LABELS
        fit: dict[str, str] = {}
        for name, value in labels.items():
            if fault := label_fault(name, value):
                self.complain(f"{key}.{shown(name)[1:-1]}", fault)
            else:
                fit[name] = str(value)
        return MappingProxyType(fit)


def _unix_s(value: object) -> float | None:
    """Return a time that is a number, or a text of one or of RFC 3339; None where it is neither."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        seconds = _rfc3339_s(str(value))
    return seconds if 0 < seconds <= MAX_UNIX_S else None


def _rfc3339_s(text: str) -> float:
    """Return a time with its offset from UTC in seconds since 1970; 0 where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return moment.timestamp() if moment.tzinfo else 0.0


def label_fault(name: str, value: object) -> str:
    """Return what is wrong with a label; empty when nothing is."""
    if fault := label_name_fault(name) or text_fault(name):
        return fault
    if not isinstance(value, str):
        return f"must be a text, got {shown(value)}; put it in quotes"
    return text_fault(value)


NO_PLACES: Mapping[str, str] = MappingProxyType({})


class Record(msgspec.Struct, frozen=True, gc=False):
    """One element of the document's list."""

    value: object
    place: str
    """`fleet.yml:12`, `fleet.json:14 [3]` or `http://host/instances[3]`."""
    places: Mapping[str, str] = NO_PLACES
    """Place by path in the record (`port`, `labels.rack`, `targets[2]`), where lines are known."""

    def at(self, path: str) -> str:
        """Return the place of one value in the record; the record's own where it is not known."""
        return self.places.get(path, self.place)

    def at_item(self, key: str, index: int) -> str:
        """Return the place of one element of the list `key`."""
        path = f"{key}[{index}]"
        return self.places.get(path) or f"{self.place}.{path}"


class Problems:
    """Gathers the problems of one source, and ends the reading when there are too many."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Note a problem.

        Raises:
            InputError: It is one too many; the last one says that reading stopped there.
        """
        if len(self._found) < MAX_PROBLEMS - 1:
            self._found.append(problem)
            return
        self._found.append(Problem(problem.place, "reading stops here: too many problems"))
        self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raise an InputError with all problems, if there are any."""
        if self._found:
            raise InputError(self._source, self._found)
