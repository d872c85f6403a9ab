"""Read a JSON list, element by element.

In:   UTF-8 text: a list, or an object whose only key `instances` holds the list.
Out:  Records; `fleet.json:14 [3]` with lines, `http://host/instances[3]` without.
Elements are decoded one at a time, so that 100,000 of them never keep other threads waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from exporter.errors import InputError, Problem
from exporter.inventory.checks import shown
from exporter.inventory.record import Record
from ollama_fleet.suggestions import did_you_mean

INSTANCES = "instances"
GAP = re.compile(rb"[\s,\[]*")
BYTE_OFFSET = re.compile(r"\(byte (\d+)\)")

EXPECTED = 'expected a list of instances, or {"instances": [...]}'

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
        raise InputError(source, [Problem(source, f"{EXPECTED}: {error}")]) from error
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
        return f"is an object without the key {INSTANCES}; {EXPECTED}"
    guess = did_you_mean(strange[0], [INSTANCES])
    return f"unknown key {shown(strange[0])} beside the list{guess}; {EXPECTED}"


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
