"""Read a YAML list, element by element, with the line of every value.

In:   UTF-8 text: a list, or a mapping whose only key `instances` holds the list.
Out:  Records. Scalars stay as they are written: `no`, `1.10` and `0815` are texts, not numbers.
Built on libyaml's events, not on its nodes: six times as fast, and nesting is bounded here, where
the node composer would overflow the stack. Aliases and merge keys (`<<`) work; tags are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import yaml

from exporter.errors import InputError, Problem
from exporter.inventory.checks import MAX_TEXT_CHARACTERS, shown
from exporter.inventory.faults import yaml_problem
from exporter.inventory.json_format import INSTANCES
from exporter.inventory.record import Record
from ollama_fleet.suggestions import did_you_mean

MAX_DEPTH = 8
MAX_KEYS = 1_000
"""In one mapping: without a limit, merge keys would multiply a long mapping."""
MAX_MERGED = 64
MAX_PLACES = 10_000
"""In one record; the values beyond are told at the place of the record."""
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
MERGE = "<<"
EXPECTED = "expected a list of instances, or a list under the key instances"

# Without libyaml the same events come from Python, slower.
EventLoader: type[yaml.BaseLoader | yaml.CBaseLoader] = getattr(
    yaml, "CBaseLoader", yaml.BaseLoader
)

Value = str | list["Value"] | dict[str, "Value"] | None


def yaml_records(text: bytes, source: str) -> Iterator[Record]:
    """Yield the elements of a YAML document.

    Raises:
        InputError: The text is not YAML, or neither a list nor a mapping holding one.
    """
    try:
        yield from _Walker(text, source).records()
    except yaml.YAMLError as error:
        raise InputError(source, [yaml_problem(error, text, source)]) from error


def is_too_deep(text: bytes) -> bool:
    """Return whether a YAML text is nested more deeply than anything that we read.

    Raises:
        yaml.YAMLError: The text is not YAML.
    """
    depth = 0
    next_event = EventLoader(text).get_event
    while not isinstance(event := next_event(), yaml.StreamEndEvent | None):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return False


class _Walker:
    """Follows the events of one document; remembers anchors, and the lines of one record."""

    def __init__(self, text: bytes, source: str) -> None:
        self._next_event = EventLoader(text).get_event
        self._source = source
        self._value_by_anchor: dict[str, Value] = {}
        self._places: dict[str, str] = {}

    def records(self) -> Iterator[Record]:
        """Yield the elements of the one list, then make sure that nothing follows it."""
        self._next(), self._next()  # the starts of stream and document
        root = self._next()
        if isinstance(root, yaml.MappingStartEvent):
            yield from self._envelope(root)
        elif isinstance(root, yaml.SequenceStartEvent):
            yield from self._elements()
        else:
            self._refuse(root, EXPECTED)
        self._next()  # the end of the document
        rest = self._next()
        if not isinstance(rest, yaml.StreamEndEvent):
            self._refuse(rest, "has a second document; one file holds one list")

    def _envelope(self, root: yaml.Event) -> Iterator[Record]:
        is_empty = True
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event)
            if key != INSTANCES:
                guess = did_you_mean(key, [INSTANCES])
                self._refuse(event, f"unknown key {shown(key)} beside the list{guess}; {EXPECTED}")
            if not is_empty:
                self._refuse(event, f"has the key {INSTANCES} twice")
            is_empty = False
            value = self._next()
            if not isinstance(value, yaml.SequenceStartEvent):
                self._refuse(value, EXPECTED)
            yield from self._elements()
        if is_empty:
            self._refuse(root, EXPECTED)

    def _elements(self) -> Iterator[Record]:
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            self._places = {}
            value = self._value(event, "", 1)
            yield Record(value, self._place(event), self._places)

    def _value(self, event: yaml.Event, path: str, depth: int) -> Value:
        """Return the value that begins with `event`; `path` is where it stands in the record."""
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        if depth > MAX_DEPTH:
            self._refuse(event, "is nested too deeply")
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            self._refuse(event, EXPECTED)
        if event.tag is not None:
            self._refuse(event, f"has the tag {shown(event.tag)[1:-1]}; tags are not supported")
        value: Value
        if isinstance(event, yaml.ScalarEvent):
            value = None if event.implicit[0] and event.value in NULLS else event.value
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path, depth)
        else:
            value = self._sequence(path, depth)
        if event.anchor is not None:
            self._value_by_anchor[event.anchor] = value
        return value

    def _mapping(self, path: str, depth: int) -> dict[str, Value]:
        prefix = f"{path}." if path else ""
        values: dict[str, Value] = {}
        inherited: dict[str, Value] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event)
            if key in values:
                self._refuse(
                    event,
                    f"has the key {shown(key)[1:-1]} twice in one mapping; is a '- ' missing?",
                )
            if key == MERGE:
                inherited |= self._merged(self._next(), depth + 1)
                continue
            if len(values) == MAX_KEYS:
                self._refuse(event, f"is in a mapping of more than {MAX_KEYS:,} keys")
            self._remember(prefix + key, event)
            values[key] = self._value(self._next(), prefix + key, depth + 1)
        return inherited | values if inherited else values

    def _sequence(self, path: str, depth: int) -> list[Value]:
        values: list[Value] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            item = f"{path}[{len(values)}]"
            self._remember(item, event)
            values.append(self._value(event, item, depth + 1))
        return values

    def _merged(self, event: yaml.Event, depth: int) -> dict[str, Value]:
        """Return what `<<` brings in: a mapping, or several of which the first wins."""
        value = self._value(event, MERGE, depth)
        mappings = value if isinstance(value, list) else [value]
        if len(mappings) > MAX_MERGED:
            self._refuse(event, f"merges (<<) more than {MAX_MERGED} mappings")
        merged: dict[str, Value] = {}
        for mapping in reversed(mappings):
            if not isinstance(mapping, dict):
                self._refuse(event, "merges (<<) something that is not a mapping")
            merged |= mapping
        return merged

    def _aliased(self, event: yaml.AliasEvent) -> Value:
        name = str(event.anchor)
        if name not in self._value_by_anchor:
            self._refuse(event, f"refers to *{shown(name)[1:-1]}, which is not defined before it")
        return self._value_by_anchor[name]

    def _key(self, event: yaml.Event) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, "has a key that is not a plain text")
        if len(event.value) > MAX_TEXT_CHARACTERS:
            limit = f"at most {MAX_TEXT_CHARACTERS} are allowed"
            self._refuse(event, f"has a key of {len(event.value):,} characters; {limit}")
        return str(event.value)

    def _remember(self, path: str, event: yaml.Event) -> None:
        if len(self._places) < MAX_PLACES:
            self._places[path] = self._place(event)

    def _next(self) -> yaml.Event:
        event = self._next_event()
        if event is None:
            raise InputError(self._source, [Problem(self._source, EXPECTED)])
        return event

    def _place(self, event: yaml.Event) -> str:
        mark = event.start_mark
        return f"{self._source}:{mark.line + 1}" if mark else self._source

    def _refuse(self, event: yaml.Event, message: str) -> NoReturn:
        raise InputError(self._source, [Problem(self._place(event), message)])
