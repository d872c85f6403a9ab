from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from exporter.errors import ExporterError
from exporter.ui.handlers import INDEX, read
from tests.exporter.ui.building import written


def test_files_are_read_with_what_http_needs(tmp_path: Path) -> None:
    texts = {INDEX: "<p>größe", "style.css": "p{}", "main.js": "1;" * 1000, "a.svg": "<svg/>"}

    files = read(written(tmp_path, texts))

    assert {name: text.encode() for name, text in texts.items()} == {
        name: file.body for name, file in files.items()
    }
    assert {
        INDEX: "text/html; charset=utf-8",
        "style.css": "text/css; charset=utf-8",
        "main.js": "text/javascript; charset=utf-8",
        "a.svg": "image/svg+xml",
    } == {name: file.content_type for name, file in files.items()}
    assert all(file.body == gzip.decompress(file.gzipped) for file in files.values())


def test_a_tag_tells_contents_apart_and_stays(tmp_path: Path) -> None:
    folder = written(tmp_path, {INDEX: "a", "same.js": "a", "other.js": "b"})

    files = read(folder)

    assert files[INDEX].etag == files["same.js"].etag != files["other.js"].etag
    assert files == read(folder)


def test_without_a_page_the_exporter_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ExporterError, match=r"there is no index\.html"):
        read(written(tmp_path, {"main.js": ""}))
    with pytest.raises(ExporterError, match="cannot read the web UI"):
        read(tmp_path / "nowhere")
