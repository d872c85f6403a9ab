"""The command `ollama-fleet instances logs`: what an instance writes, where its log is here."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import click

from provisioning.api.routes import InstanceDocument
from provisioning.cli.common import shown

CHUNK_BYTES = 2**16
MAX_TAIL_BYTES = 16 * 2**20
"""The runtimes rotate at this size."""
FOLLOW_S = 0.3


def log_file(instance: InstanceDocument) -> Path:
    """Return the file of an instance's log.

    Raises:
        click.ClickException: It has none, or it is on another machine; the message says where.
    """
    if not instance.log:
        raise click.ClickException(
            f"{instance.id} has no log: it is simulated, or the specification does not list its "
            f"node {instance.node} any more"
        )
    host = urlsplit(instance.url).hostname or ""
    if not is_here(host):
        raise click.ClickException(
            f"the log of {instance.id} is on node {instance.node}, not on this machine; read it "
            f"there: ssh {host or instance.node} sudo tail -F {shown(instance.log)}"
        )
    return Path(instance.log)


def is_here(host: str) -> bool:
    """Say whether an address is one of this machine's: only those can be listened on."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as listening:
            listening.bind(address)
    except (OSError, UnicodeError):
        return False
    return True


def print_log(path: Path, *, n_lines: int, is_following: bool) -> None:
    """Print the last lines of a log, then what is added until Ctrl-C.

    Raises:
        click.ClickException: It cannot be read.
    """
    try:
        for piece in _pieces(path, n_lines=n_lines, is_following=is_following):
            _write(piece)
    except FileNotFoundError as error:
        raise click.ClickException(f"there is no log yet: {path}") from error
    except PermissionError as error:
        raise click.ClickException(
            f"only another user may read the log; type: sudo tail -F {path}"
        ) from error
    except OSError as error:
        raise click.ClickException(f"cannot read the log {path}: {error.strerror}") from error


def _pieces(path: Path, *, n_lines: int, is_following: bool) -> Iterator[bytes]:
    file: BinaryIO = path.open("rb")
    try:
        yield _last_lines(file, n_lines)
        while is_following:
            while piece := file.read(CHUNK_BYTES):
                yield piece
            time.sleep(FOLLOW_S)
            file = _current(path, file)
    finally:
        file.close()


def _last_lines(file: BinaryIO, n_lines: int) -> bytes:
    """Return the last lines of a file, up to a limit, and stay at its end."""
    size = file.seek(0, os.SEEK_END)
    read = b""
    while n_lines and len(read) < min(size, MAX_TAIL_BYTES) and read.count(b"\n") <= n_lines:
        begins = max(0, size - len(read) - CHUNK_BYTES)
        file.seek(begins)
        read = file.read(size - len(read) - begins) + read
    file.seek(size)
    return b"".join(read.splitlines(keepends=True)[-n_lines:]) if n_lines else b""


def _current(path: Path, file: BinaryIO) -> BinaryIO:
    """Return the file that is read on: that of the next generation, or from a cut one the start."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return file
    if status.st_ino != os.fstat(file.fileno()).st_ino:
        file.close()
        return path.open("rb")
    if status.st_size < file.tell():
        file.seek(0)
    return file


def _write(piece: bytes) -> None:
    """Write as it is, or to a terminal without what would move its cursor."""
    if not sys.stdout.isatty():
        click.echo(piece, nl=False)
        return
    text = click.unstyle(piece.decode(errors="replace"))
    plain = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)
    click.echo(plain, nl=False)
