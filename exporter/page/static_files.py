"""Hold the page's own files: HTML, style and scripts.

In:   a folder, read once.
Out:  Files by name, with what HTTP needs. What is not in the folder cannot be asked for.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import ExporterError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INDEX = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file in the forms that browsers ask for."""

    content_type: str
    body: bytes
    gzipped: bytes
    etag: str
    """Of the plain form, without quotes."""


def read(folder: Path) -> Mapping[str, File]:
    """Return the files of a folder that a browser can use, by name.

    Raises:
        ExporterError: There is no page among them.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix in CONTENT_TYPES]
        files = {path.name: _file(path) for path in paths}
    except OSError as error:
        raise ExporterError(f"cannot read the page's files in {folder}: {error}") from error
    if INDEX not in files:
        raise ExporterError(f"there is no {INDEX} in {folder}; install ollama-fleet anew")
    return files


def _file(path: Path) -> File:
    body = path.read_bytes()
    etag = hashlib.blake2b(body, digest_size=16).hexdigest()
    # Without a time in its header, so that equal files stay equal.
    return File(CONTENT_TYPES[path.suffix], body, gzip.compress(body, mtime=0), etag)
