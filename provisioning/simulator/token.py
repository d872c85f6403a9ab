"""The bearer token that writes to the control API need.

In:   the path of a file. Out: the token in it; a missing file is made, readable by its owner only.
Fails with TokenError. The token itself is never logged or printed, only the file's path.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from provisioning.simulator.errors import TokenError

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and where it came from."""

    secret: str
    path: Path
    is_new: bool

    def __repr__(self) -> str:
        return f"<Token of {self.path}>"

    def admits(self, authorization: str) -> bool:
        """Say whether an Authorization header carries this token."""
        scheme, _, credentials = authorization.partition(" ")
        is_same = secrets.compare_digest(credentials.strip().encode(), self.secret.encode())
        return scheme.lower() == "bearer" and is_same


def default_path() -> Path:
    """Return where the token lives unless told otherwise: the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ollama-fleet" / "simulate.token"


def read_or_make(path: Path) -> Token:
    """Return the token in a file, made now where there is no such file.

    Raises:
        TokenError: The file is empty, or can be neither read nor made.
    """
    try:
        return _read(path) if path.exists() else _make(path)
    except OSError as error:
        raise _error(path, error.strerror) from error
    except UnicodeDecodeError as error:
        raise _error(path, "it is no text") from error


def _make(path: Path) -> Token:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")
    return Token(secret, path, is_new=True)


def _read(path: Path) -> Token:
    secret = path.read_text().strip()
    if not secret:
        raise _error(path, "it is empty")
    return Token(secret, path, is_new=False)


def _error(path: Path, seen: str | None) -> TokenError:
    return TokenError(
        f"cannot use the token file {path}: {seen}; choose another with --control.token-file"
    )
