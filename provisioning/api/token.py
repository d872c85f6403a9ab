"""The bearer tokens that writes need.

In:   the path of a file with a token a line, each after the name of whoever holds it if it has
      one: `ann TOKEN`. Lines that begin with `#` are comments. A missing file is made, with one
      token, readable by its owner only.
Out:  the name behind an Authorization header. A changed file is read again.
Fails with TokenFileError. Tokens are never logged or printed, only the file's path.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from provisioning.api.errors import DeniedError, TokenFileError

log = logging.getLogger("provisioning.api")

TOKEN_BYTES = 32
MAX_FILE_BYTES = 100_000
LINE = re.compile(r"(?:(?P<name>\S+)\s+)?(?P<token>[!-~]{16,512})", re.ASCII)
NAMELESS = "token"
NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What file systems without hard links say, as vfat and some network shares."""
SERVER_OPTION = "--web.token-file"


def first_token(path: Path, *, option: str) -> str:
    """Return the first token of a file; messages name the option that chose the file.

    Raises:
        TokenFileError: It cannot be read, or holds none.
    """
    return next(iter(_read(path, option)))


class Tokens:
    """Who may write."""

    def __init__(self, path: Path) -> None:
        """Read the file, or make it.

        Raises:
            TokenFileError: It can be neither read nor made, or holds no token.
        """
        self.path = path
        self.is_new = not path.exists()
        if self.is_new:
            _make(path)
        if path.stat().st_mode & stat.S_IROTH:
            log.warning("everybody here can read the tokens in %s: chmod o= %s", path, path)
        self._stamp = _stamp(path)
        self._name_by_token = _read(path)

    def __repr__(self) -> str:
        return f"<Tokens of {self.path}>"

    def required_holder(self, headers: Mapping[str, str]) -> str:
        """Return whose token a request carries.

        Raises:
            DeniedError: Nobody's.
            TokenFileError: The file has changed and cannot be read.
        """
        given = headers.get("Authorization", "")
        who = self.holder(given)
        if who is None:
            raise DeniedError(
                "this needs 'Authorization: Bearer TOKEN', got "
                f"{'another token' if given else 'none'}; tokens are in the file that the "
                f"provisioner's {SERVER_OPTION} names; if several provisioners stand in for each "
                "other, they need the same file"
            )
        return who

    def holder(self, authorization: str) -> str | None:
        """Return whose token an Authorization header carries; None: nobody's.

        Raises:
            TokenFileError: The file has changed and cannot be read.
        """
        self._refresh()
        scheme, _, credentials = authorization.partition(" ")
        # Bytes that are no UTF-8 come as lone surrogates.
        given = credentials.strip().encode(errors="surrogatepass")
        found = None
        # Every token is compared, each in constant time: how long it takes tells nothing.
        for token, name in self._name_by_token.items():
            if secrets.compare_digest(given, token.encode()):
                found = name
        return found if scheme.lower() == "bearer" else None

    def _refresh(self) -> None:
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            self._name_by_token = _read(self.path)
            self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes with the file."""
    try:
        state = path.stat()
    except OSError as error:
        raise _error(path, error.strerror) from error
    return state.st_mtime_ns, state.st_size, state.st_ino


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n")
            # A standby that begins at the same moment makes one as well: the first one counts.
            with contextlib.suppress(FileExistsError):
                _put(draft, path)
        finally:
            os.unlink(draft)
    except OSError as error:
        raise _error(path, error.strerror) from error


def _put(draft: str, path: Path) -> None:
    """Have the draft's content at the path, unless something is there: at once where that goes."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        content = Path(draft).read_bytes()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _read(path: Path, option: str = SERVER_OPTION) -> Mapping[str, str]:
    """Return the name behind each token."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _error(path, f"it is larger than {MAX_FILE_BYTES:,} bytes", option)
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise _error(path, error.strerror, option) from error
    name_by_token: dict[str, str] = {}
    for number, line in enumerate(map(bytes.strip, lines), 1):
        if line and not line.startswith(b"#"):  # which may be in any encoding
            if not line.isascii():
                raise _error(path, f"line {number} holds something other than ASCII", option)
            found = LINE.fullmatch(line.decode())
            if found is None:
                raise _error(path, f"line {number} is no token of 16 characters or more", option)
            name_by_token[found["token"]] = found["name"] or NAMELESS
    if not name_by_token:
        raise _error(path, "it holds no token", option)
    return name_by_token


def _error(path: Path, seen: str | None, option: str = SERVER_OPTION) -> TokenFileError:
    return TokenFileError(
        f"cannot use the token file {path}: {seen}; mend it, or choose another with {option}"
    )
