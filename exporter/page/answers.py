"""Write what the page's scripts are told, as JSON.

In:   revisions, changes and summaries.
Out:  bytes, compressed where that pays. Pure; for a large fleet it takes a while, so it is done
beside the event loop.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from exporter.model import Status
from exporter.page.changes import told
from exporter.page.summary import Summary

if TYPE_CHECKING:
    from exporter.page.cells import Value
    from exporter.page.changes import Changes
    from exporter.page.layout import Layout
    from exporter.page.revisions import Revision

GZIP_LEVEL = 1
GZIP_WINDOW_BITS = 31
"""zlib's way of saying: with gzip's header and trailer."""
MIN_GZIPPED_BYTES = 1000
"""What is smaller fits into a packet or two as it is."""


class Cells(msgspec.Struct, frozen=True):
    """The cells, one item for each."""

    id: tuple[str, ...]
    node: list[int]
    model: list[int]
    developer: list[int]


class Drawn(msgspec.Struct, frozen=True):
    """What of the map stays as long as the layout does."""

    nodes: msgspec.Raw
    models: msgspec.Raw
    developers: msgspec.Raw
    cells: msgspec.Raw


class WholeValue(msgspec.Struct, frozen=True):
    """A value of all cells."""

    name: Value
    values: list[int | None]


class ChangedValue(msgspec.Struct, frozen=True):
    """A value of the cells that changed."""

    name: Value
    cells: list[int] | None
    to: list[int | None]


class MapAnswer(msgspec.Struct, frozen=True):
    """The whole fleet."""

    layout: str
    revision: int
    poll_interval_seconds: float
    refresh_seconds: float
    inventory_refresh_seconds: float
    statuses: tuple[Status, ...]
    nodes: msgspec.Raw
    models: msgspec.Raw
    developers: msgspec.Raw
    cells: msgspec.Raw
    status: list[int | None]
    value: WholeValue | None
    summary: Summary


class ChangesAnswer(msgspec.Struct, frozen=True):
    """What changed."""

    layout: str
    revision: int
    status: Changes
    value: ChangedValue | None
    summary: Summary


class OtherLayout(msgspec.Struct, frozen=True):
    """What is said instead of changes where the browser's cells are no longer the fleet's."""

    layout: str


def drawn(layout: Layout) -> Drawn:
    """Return a layout, written already."""
    cells = Cells(
        layout.ids, layout.node.tolist(), layout.model.tolist(), layout.developer.tolist()
    )
    parts = (layout.nodes, layout.models, layout.developers, cells)
    return Drawn(*[msgspec.Raw(msgspec.json.encode(part)) for part in parts])


def whole_value(revision: Revision, value: Value) -> WholeValue:
    """Return a value of all cells."""
    return WholeValue(value, told(revision.sight.columns[value]))


def encode(answer: object, *, is_gzip_taken: bool) -> tuple[bytes, bool]:
    """Return an answer's body, and whether it is compressed."""
    body = msgspec.json.encode(answer)
    if not is_gzip_taken or len(body) < MIN_GZIPPED_BYTES:
        return body, False
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)
    return compressor.compress(body) + compressor.flush(), True
