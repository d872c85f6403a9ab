"""How to reach etcd: addresses, TLS, a user; needs nothing that has to be installed.

In:   what a person wrote in options.
Out:  Access, and the files' contents when a connection is made.
Fails with StoreError where a file cannot be read or options contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioning.fleet.errors import StoreError

DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files of TLS and of the user; passwords and keys never leave this module's callers."""

    ca_file: Path | None = None
    """Who signed the members' certificates; None: an authority that the system trusts."""
    certificate_file: Path | None = None
    """Ours, where members ask for one."""
    key_file: Path | None = None
    user: str = ""
    """Empty: etcd asks for none."""
    password_file: Path | None = None
    """Its first line is the password; read anew at each log-in."""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise StoreError("etcd's client certificate and its key go together; name both files")
        if bool(self.user) != (self.password_file is not None):
            raise StoreError("etcd's user and its password file go together; give both")

    def password(self) -> str:
        """Read the password.

        Raises:
            StoreError: The file cannot be read or is empty.
        """
        if self.password_file is None:
            return ""
        lines = read(self.password_file, "etcd's password file").decode().splitlines()
        if not lines or not lines[0]:
            raise StoreError(f"etcd's password file {self.password_file} is empty; write it there")
        return lines[0]


@dataclass(frozen=True, slots=True)
class Access:
    """The members of a cluster, and how to speak to them."""

    members: tuple[str, ...]
    """As `host:port`."""
    is_secure: bool = False
    credentials: Credentials = Credentials()
    deadline_s: float = DEADLINE_S
    """After this time without an answer the next member is asked."""


def read(path: Path, what: str) -> bytes:
    """Return what a file holds; `what` names it in the error.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"cannot read {what} {path}: {error.strerror or error}; see its name and its mode"
        ) from error
