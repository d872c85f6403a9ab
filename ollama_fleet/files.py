"""Read files within bounds, as a pipe or device might never end; write them whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path


class UnreadableFileError(Exception):
    """A file is missing, no regular file, too large, or may not be read."""


class TooLargeError(UnreadableFileError):
    """A file holds more than its reader takes."""


def read_regular(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return what a regular file holds, and what the file system says of it.

    Raises:
        UnreadableFileError: There is no such file, or none that can be read within bounds.
    """
    try:
        # Opening a pipe waits for whoever writes to it, unless told not to.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFileError("cannot be read: it is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                body = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise UnreadableFileError("does not exist") from error
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror or error}") from error
    if len(body) > max_bytes:
        raise TooLargeError(f"is larger than {max_bytes:,} bytes")
    return body, status


def write_whole(path: Path, body: bytes, *, mode: int = 0o644, is_durable: bool = False) -> None:
    """Put a file into place, whole or not at all; all may read it unless `mode` says otherwise.

    A durable one is whole after a loss of power, too; that takes a disk some milliseconds.

    Raises:
        OSError: It cannot be written; the file that was there stays.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            if is_durable:
                file.flush()
                os.fsync(descriptor)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
