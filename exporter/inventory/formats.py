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

UTF8_BOM = b"\xef\xbb\xbf"


class Format(StrEnum):
    """How a source writes its list, which also decides how places in it are told."""

    YAML = "yaml"
    """A file for people; places are lines. JSON is YAML too, but for escaped surrogate pairs."""
    JSON = "json"
    """A file; places are lines and indices."""
    HTTP = "http"
    """A JSON body; places are indices."""


def records(body: bytes, source: str, form: Format) -> Iterator[Record]:
    """Yield the elements of the list in `body`, or of the list under its key `instances`.

    Raises:
        InputError: The body is empty, not UTF-8, not well-formed or no such list.
    """
    text = body.removeprefix(UTF8_BOM)
    _require_text(text, source)
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
