"""API keys of developers: made here, kept as hashes in a file that the gateway reads again."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from ollama_fleet.files import UnreadableFileError, read_regular, write_whole
from provisioning.gateway.errors import KeysError

PREFIX = "olf_"
KEY_BYTES = 32
ID_CHARACTERS = 8
"""Of the hash: what names a key without being one."""
MAX_DEVELOPER_BYTES = 200
MAX_FILE_BYTES = 8 * 2**20


class Key(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the file knows of a key: not the key itself."""

    developer: str
    sha256: str
    """In hexadecimal digits. A fast hash is enough: a random key of 256 bits cannot be guessed."""
    created: str
    tokens_per_day: int | None = None
    requests_per_day: int | None = None

    @property
    def id(self) -> str:
        """Return what names it in lists and commands."""
        return self.sha256[:ID_CHARACTERS]


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of keys."""

    format: Literal[1] = 1
    keys: tuple[Key, ...] = ()


def read(path: Path) -> Keys:
    """Return the keys of a file; there are none where there is no file.

    Raises:
        KeysError: It cannot be read, or is no file of keys.
    """
    if not path.exists():
        return Keys()
    try:
        body, _ = read_regular(path, MAX_FILE_BYTES)
        found = msgspec.json.decode(body, type=Keys)
    except (UnreadableFileError, msgspec.DecodeError, RecursionError) as error:
        raise KeysError(
            f"cannot use the keys file {path}: {error}; repair it, or move it away to begin again"
        ) from error
    return found


def write(path: Path, keys: Keys) -> None:
    """Put the file into place, for its owner only; what root writes is for the folder's owner.

    Raises:
        KeysError: It cannot be written, or grows too large; the file that was there stays.
    """
    body = msgspec.json.format(msgspec.json.encode(keys), indent=1) + b"\n"
    if len(body) > MAX_FILE_BYTES:
        raise KeysError(f"cannot write {path}: more than {MAX_FILE_BYTES:,} bytes of keys")
    try:
        write_whole(path, body, mode=0o600)
        if os.geteuid() == 0:
            folder = path.absolute().parent.stat()
            os.chown(path, folder.st_uid, folder.st_gid)
    except OSError as error:
        raise KeysError(f"cannot write {path}: {error.strerror or error}") from error


def make(
    developer: str, *, tokens_per_day: int | None = None, requests_per_day: int | None = None
) -> tuple[str, Key]:
    """Return a new key, which nobody can learn later, and what the file keeps of it.

    Raises:
        KeysError: The name cannot be used.
    """
    if not developer.strip() or not developer.isprintable():
        raise KeysError("the developer's name must be printable text")
    if len(developer.encode()) > MAX_DEVELOPER_BYTES:
        raise KeysError(f"the developer's name must be at most {MAX_DEVELOPER_BYTES} bytes long")
    secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    created = datetime.now(UTC).strftime("%Y-%m-%d")
    return secret, Key(developer, digest, created, tokens_per_day, requests_per_day)


def without(keys: Keys, name: str) -> tuple[Keys, tuple[Key, ...]]:
    """Return the other keys, and those of a developer or with an id.

    Raises:
        KeysError: There is none.
    """
    removed = tuple(key for key in keys.keys if name in (key.developer, key.id))
    if not removed:
        raise KeysError(f"no key belongs to {name!r}, nor has this id")
    return Keys(keys=tuple(key for key in keys.keys if key not in removed)), removed
