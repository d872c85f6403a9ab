"""Split an inventory document into its records.

In:   bytes as a file or an HTTP server gave them.
Out:  Records, one after the other: the whole document is never held as objects.
Fails with InputError, which carries the one place where the document cannot be read on.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from exporter.errors import InputError, Problem
from exporter.inventory.faults import encoding_problem
from exporter.inventory.json_format import json_records
from exporter.inventory.record import Record
from exporter.inventory.yaml_format import yaml_records


class Format(StrEnum):
    """How a source writes its list, which also decides how places in it are told."""

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
        raise InputError(source, [Problem(source, "is empty; an inventory of none is written []")])
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InputError(source, [encoding_problem(error, source)]) from error


def _require_few_values(text: bytes, source: str, form: Format) -> None:
    """Refuse what would fill the memory, before it is read. Commas in texts count as well."""
    if sum(map(text.count, BEFORE_VALUES[form])) > MAX_VALUES:
        helps = "split it, and give each part as an --inventory of its own"
        message = f"holds more than {MAX_VALUES:,} values (the limit for an inventory); {helps}"
        raise InputError(source, [Problem(source, message)])
