"""Split a YAML or JSON inventory into its records, each with its line or index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NoReturn

import msgspec
import yaml

from exporter.errors import InputError
from exporter.inventory.checks import MAX_TEXT_CHARACTERS, shown
from exporter.inventory.fields import Record
from ollama_fleet.problems import Problem
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import invalid_yaml, not_utf8


class Format(StrEnum):
    """How a source writes its list, which also decides how messages name places in it."""

    YAML = "yaml"
    """A file for people; places are lines. JSON is YAML too, but for escaped surrogate pairs."""
    JSON = "json"
    """A file; places are lines and indices."""
    HTTP = "http"
    """A JSON body; places are indices."""


UTF8_BOM = b"\xef\xbb\xbf"
MAX_VALUES = 2_000_000
"""In one document: twenty for each of 100,000 instances. A value of one character takes up to 500
bytes of memory, so the size of the text alone bounds little."""
BEFORE_VALUES = {
    Format.YAML: (b"[", b"{", b",", b"\n"),
    Format.JSON: (b"[", b"{", b","),
    Format.HTTP: (b"[", b"{", b","),
}
"""What stands before each value, or before its key."""


def records(body: bytes, source: str, form: Format) -> Iterator[Record]:
    """Yield the elements of the list in `body`, or of the list under its key `instances`.

    Raises:
        InputError: The body is empty, not UTF-8, not well-formed, no such list or too long a one.
    """
    text = body.removeprefix(UTF8_BOM)
    _require_text(text, source)
    _require_few_values(text, source, form)
    if form is Format.YAML:
        return yaml_records(text, source)
    return json_records(text, source, with_lines=form is Format.JSON)


def _require_text(text: bytes, source: str) -> None:
    """Refuse what can only be a broken write or the wrong file."""
    if not text.strip():
        # A file caught between truncation and writing must not read as "no instances".
        raise InputError(source, [Problem(source, "is empty; write [] for no instances")])
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InputError(source, [not_utf8(error, source).problem]) from error


def _require_few_values(text: bytes, source: str, form: Format) -> None:
    """Refuse what would fill the memory, before it is read. Commas in texts count as well."""
    if sum(map(text.count, BEFORE_VALUES[form])) > MAX_VALUES:
        helps = "split it, and give each part as an --inventory of its own"
        message = f"holds more than {MAX_VALUES:,} values (the limit for an inventory); {helps}"
        raise InputError(source, [Problem(source, message)])


INSTANCES = "instances"
GAP = re.compile(rb"[\s,\[]*")
BYTE_OFFSET = re.compile(r"\(byte (\d+)\)")

EXPECTED_JSON = 'expected a list of instances, or {"instances": [...]}'

Elements = list[msgspec.Raw]
Envelope = dict[str, msgspec.Raw]


def json_records(text: bytes, source: str, *, with_lines: bool) -> Iterator[Record]:
    """Yield the elements of a JSON document.

    Raises:
        InputError: The text is not JSON, or neither a list nor an object holding one.
    """
    try:
        elements, start = _elements(text, source)
        places = _lines(text, elements, start, source) if with_lines else _indices(source)
        for element, place in zip(elements, places, strict=False):
            yield Record(msgspec.json.decode(element), place)
    except msgspec.ValidationError as error:
        raise InputError(source, [Problem(source, f"{EXPECTED_JSON}: {error}")]) from error
    except msgspec.DecodeError as error:
        raise InputError(source, [_malformed(text, source, error)]) from error
    except RecursionError as error:
        raise InputError(source, [Problem(source, "is nested too deeply")]) from error


def _elements(text: bytes, source: str) -> tuple[Elements, int]:
    """Return the list's elements as they are written, and where in the text the list begins."""
    document = msgspec.json.decode(text, type=Elements | Envelope)
    if isinstance(document, list):
        return document, 0
    if document.keys() != {INSTANCES}:
        raise InputError(source, [Problem(source, _envelope_message(document))])
    array = bytes(document[INSTANCES])
    return msgspec.json.decode(array, type=Elements), text.index(array)


def _envelope_message(document: Envelope) -> str:
    strange = [key for key in document if key != INSTANCES]
    if not strange:
        return f"is an object without the key {INSTANCES}; {EXPECTED_JSON}"
    guess = did_you_mean(strange[0], [INSTANCES])
    return f"unknown key {shown(strange[0])} beside the list{guess}; {EXPECTED_JSON}"


def _lines(text: bytes, elements: Elements, start: int, source: str) -> Iterator[str]:
    """Yield line and index of each element: between two there is but a comma and white space."""
    position, line = start, text.count(b"\n", 0, start) + 1
    for index, element in enumerate(elements):
        begin = _after_gap(text, position)
        line += text.count(b"\n", position, begin)
        yield f"{source}:{line} [{index}]"
        position = begin + memoryview(element).nbytes
        line += text.count(b"\n", begin, position)


def _after_gap(text: bytes, position: int) -> int:
    gap = GAP.match(text, position)
    return gap.end() if gap else position


def _indices(source: str) -> Iterator[str]:
    index = 0
    while True:
        yield f"{source}[{index}]"
        index += 1


def _malformed(text: bytes, source: str, error: msgspec.DecodeError) -> Problem:
    """Tell the line, where msgspec tells the byte; a truncated text ends on its last line."""
    offset = BYTE_OFFSET.search(str(error))
    end = int(offset[1]) if offset else len(text)
    line = text.count(b"\n", 0, end) + 1
    return Problem(f"{source}:{line}", f"is not valid JSON: {error}")


MAX_DEPTH = 8
MAX_KEYS = 1_000
"""In one mapping: without a limit, merge keys would multiply a long mapping."""
MAX_MERGED = 64
MAX_PLACES = 10_000
"""In one record; a problem of a value beyond this has the place of its record."""
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
        raise InputError(source, [invalid_yaml(error, text, source).problem]) from error


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
        """Return what `<<` merges: a mapping, or several; the first one wins."""
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
