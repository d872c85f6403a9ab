"""Keep bearer tokens in a file, and say whose token a request carries."""

from __future__ import annotations

import codecs
import logging
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

TOKEN_BYTES = 32
MAX_FILE_BYTES = 100_000
LINE = re.compile(r"(?:(?P<name>\S+)\s+)?(?P<token>[!-~]{16,512})", re.ASCII)
NAMELESS = "token"


class TokenFileError(Exception):
    """A token file can be neither read nor made, or holds no token."""


def first_token(path: Path, *, option: str) -> str:
    """Return the first token of a file; messages name the option that chose the file.

    Raises:
        TokenFileError: It cannot be read, or holds none.
    """
    return next(iter(_read(path, option)))


class Tokens:
    """Who may change things: the tokens of a file, which is read again when it changes."""

    def __init__(self, path: Path, *, option: str) -> None:
        """Read the file, or make it; messages name the option that chose it.

        Raises:
            TokenFileError: It can be neither read nor made, or holds no token.
        """
        self.path = path
        self.option = option
        self.is_new = not path.exists()
        if self.is_new:
            _make(path, option)
        if path.stat().st_mode & stat.S_IROTH:
            log.warning("token file is world-readable file=%s: run chmod o= %s", path, path)
        self._stamp = self._present_stamp()
        self._name_by_token = _read(path, option)

    def __repr__(self) -> str:
        return f"<Tokens of {self.path}>"

    def holder(self, authorization: str) -> str | None:
        """Return whose token an Authorization header carries, or None: nobody's.

        Raises:
            TokenFileError: The file has changed and cannot be read.
        """
        self.refresh()
        scheme, _, credentials = authorization.partition(" ")
        # Bytes that are not UTF-8 come as lone surrogates.
        given = credentials.strip().encode(errors="surrogatepass")
        found = None
        # Every token is compared, each in constant time: how long it takes tells nothing.
        for token, name in self._name_by_token.items():
            if secrets.compare_digest(given, token.encode()):
                found = name
        return found if scheme.lower() == "bearer" else None

    def refresh(self) -> None:
        """Read the file again if it has changed.

        Raises:
            TokenFileError: It cannot be read, or holds no token; the tokens stay.
        """
        stamp = self._present_stamp()
        if stamp != self._stamp:
            self._name_by_token = _read(self.path, self.option)
            self._stamp = stamp

    def _present_stamp(self) -> tuple[int, int, int]:
        """Return what changes with the file."""
        try:
            state = self.path.stat()
        except OSError as error:
            raise _error(self.path, error.strerror, self.option) from error
        return state.st_mtime_ns, state.st_size, state.st_ino


def _make(path: Path, option: str) -> None:
    """Write a new token, for the file's owner only; a standby that was faster keeps its own."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        if not path.is_file():
            raise _error(path, error.strerror, option) from error
        return
    except OSError as error:
        raise _error(path, error.strerror, option) from error
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n")
    except OSError as error:
        path.unlink()
        raise _error(path, error.strerror, option) from error


def _read(path: Path, option: str) -> Mapping[str, str]:
    """Return the name beside each token."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _error(path, f"it is larger than {MAX_FILE_BYTES:,} bytes", option)
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise _error(path, error.strerror, option) from error
    name_by_token: dict[str, str] = {}
    for number, line in enumerate(map(bytes.strip, lines), 1):
        if line and not line.startswith(b"#"):  # a comment may be in any encoding
            if not line.isascii():
                raise _error(path, f"line {number} holds something other than ASCII", option)
            found = LINE.fullmatch(line.decode())
            if found is None:
                raise _error(path, f"line {number} is no token of 16 characters or more", option)
            name_by_token[found["token"]] = found["name"] or NAMELESS
    if not name_by_token:
        raise _error(path, "it holds no token", option)
    return name_by_token


def _error(path: Path, seen: str | None, option: str) -> TokenFileError:
    return TokenFileError(
        f"cannot use the token file {path}: {seen}; repair it, or choose another with {option}"
    )
