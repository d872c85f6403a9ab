"""Inventory files on a real disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from exporter.errors import InputError, SourceError
from exporter.inventory import SourceSettings, sources_for
from exporter.inventory.formats import Format
from exporter.inventory.sources import FileSource
from ollama_fleet.clock import Clock, SystemClock
from tests.exporter.inventory.fakes import HeldClock


def source(path: Path, *, max_body_bytes: int = 1_000, clock: Clock | None = None) -> FileSource:
    settings = SourceSettings(max_body_bytes=max_body_bytes)
    return FileSource(path, settings, clock or SystemClock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.json"
    path.write_bytes(b"[1]")
    return path


def write(path: Path, body: bytes) -> None:
    path.write_bytes(body)


def write_behind_the_stamp(path: Path, body: bytes, *, over: Path | None = None) -> None:
    """Write as many bytes as there are, and give the file the time of change that it had."""
    status = (over or path).stat()
    path.write_bytes(body)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def age(path: Path, by_s: float = 60.0) -> None:
    """Make a file look as if it had been written a while ago."""
    os.utime(path, (time.time() - by_s,) * 2)


async def test_a_file_is_given_once_and_again_when_it_changes(path: Path) -> None:
    file = source(path)

    assert b"[1]" == await file.read()
    assert await file.read() is None
    write(path, b"[1, 2]")
    assert b"[1, 2]" == await file.read()


async def test_a_second_write_within_the_same_tick_is_seen(path: Path) -> None:
    """Same size, same inode, same time of change: as two quick writes in place leave it."""
    file = source(path, clock=HeldClock(path.stat().st_mtime))
    await file.read()

    write_behind_the_stamp(path, b"[2]")

    assert b"[2]" == await file.read()


async def test_a_settled_file_with_the_same_stamp_is_not_even_opened(path: Path) -> None:
    """Its content is exchanged behind the stamp, which no honest writer can do."""
    age(path)
    file = source(path)
    await file.read()
    write_behind_the_stamp(path, b"[2]")

    assert await file.read() is None


async def test_a_file_replaced_by_renaming_is_seen(path: Path) -> None:
    age(path)
    file = source(path)
    await file.read()
    new = path.with_suffix(".new")
    write_behind_the_stamp(new, b"[2]", over=path)

    os.replace(new, path)

    assert b"[2]" == await file.read()


async def test_a_deleted_file_fails_and_is_unchanged_when_it_comes_back(path: Path) -> None:
    file = source(path)
    await file.read()
    os.unlink(path)

    with pytest.raises(SourceError, match="cannot be read: No such file or directory"):
        await file.read()
    write(path, b"[1]")

    assert await file.read() is None


async def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A directory stands for all that cannot be read; a FIFO would keep a reader for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    for path in (tmp_path, fifo):
        with pytest.raises(SourceError, match="not a regular file"):
            await source(path).read()


async def test_a_file_may_be_as_large_as_the_limit_but_no_larger(path: Path) -> None:
    assert b"[1]" == await source(path, max_body_bytes=3).read()
    with pytest.raises(SourceError, match=r"is larger than 2 bytes .*; split it"):
        await source(path, max_body_bytes=2).read()


@pytest.mark.parametrize(
    ("name", "form"),
    [("f.json", Format.JSON), ("F.JSON", Format.JSON), ("f.yml", Format.YAML), ("f", Format.YAML)],
)
def test_the_name_tells_json_from_yaml(name: str, form: Format) -> None:
    assert [form] == [source.form for source in sources_for([name])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("ftp://h/x", "must be a path or begin with http:// or https://"),
        ("file:///x", "must be a path or begin with http:// or https://"),
        ("http://ada:s3cret@h/x", "must not hold a user or password"),
        ("http:/ada:s3cret@h/", "must be a path or begin with http:// or https://"),
        ("http:/h/x?token=s3cret", "must be a path or begin with http:// or https://"),
        ("h:1/x?token=s3cret", "must be a path or begin with http:// or https://"),
        ("http://h:0/", "must name a host, and a port from 1"),
        ("http://h/#x", "must not have a fragment"),
        ("http://h/a|/b", "must have URLs, http:// or https://, on both sides of each |; within"),
        ("http://h/a||http://h/b", "on both sides of each |"),
        ("|http://h/a", "on both sides of each |"),
        ("fleet.yml|http://h/a", "on both sides of each |"),
        ("http://h/a|http://h:0/", "must name a host"),
        ("http://h/a|http://ada:s3cret@h/x", "must not hold a user or password"),
    ],
)
def test_a_source_that_cannot_be_is_refused_without_repeating_secrets(
    text: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        sources_for([text])

    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
