"""How to reach etcd: addresses, TLS, a user; needs nothing that has to be installed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from provisioning.errors import StoreError

DEADLINE_S = 2.0


class Tls(NamedTuple):
    """What the files of TLS hold, in the order of gRPC's; None: none is named."""

    ca: bytes | None
    key: bytes | None
    certificate: bytes | None


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
    """Its first line is the password; read again at each log-in."""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise StoreError("etcd's client certificate and its key go together; name both files")
        if bool(self.user) != (self.password_file is not None):
            raise StoreError("etcd's user and its password file go together; give both")

    def password(self) -> str:
        """Read the password.

        Raises:
            StoreError: The file cannot be read, is empty or no text.
        """
        if self.password_file is None:
            return ""
        what = f"etcd's password file {self.password_file}"
        try:
            lines = read(self.password_file, "etcd's password file").decode().splitlines()
        except UnicodeDecodeError:
            # Its cause would carry what the file holds.
            raise StoreError(f"{what} is no UTF-8; write it in UTF-8") from None
        if not lines or not lines[0]:
            raise StoreError(f"{what} is empty; write it there")
        return lines[0]

    def tls(self) -> Tls:
        """Read the files of TLS, and see that they are what they are to be.

        gRPC would take any bytes, and then reach no member, for ever.

        Raises:
            StoreError: One cannot be read, or is something else.
        """
        found = Tls(
            _content(self.ca_file, "etcd's CA certificate"),
            _content(self.key_file, "the key of etcd's client"),
            _content(self.certificate_file, "the certificate of etcd's client"),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # How strong a key has to be is not for this context to say.
        context.set_ciphers("ALL:@SECLEVEL=0")
        if self.ca_file:
            _check_authority(context, self.ca_file)
        if self.certificate_file and self.key_file:
            _check_pair(context, self.certificate_file, self.key_file)
        return found


@dataclass(frozen=True, slots=True)
class Access:
    """The members of a cluster, and how to speak to them."""

    members: tuple[str, ...]
    """As `host:port`."""
    is_secure: bool = False
    credentials: Credentials = Credentials()
    deadline_s: float = DEADLINE_S
    """After this time without an answer the next member is asked."""

    def __post_init__(self) -> None:
        if not self.is_secure and (self.credentials.ca_file or self.credentials.certificate_file):
            raise StoreError(
                f"cannot use etcd://{','.join(self.members)} with the files of TLS, as it is "
                f"without TLS; write etcds://, or leave the files of TLS out"
            )


def _check_authority(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise StoreError(
            f"etcd's CA certificate {path} holds no certificate ({error.reason}); write the "
            f"authority's there, as PEM"
        ) from error


def _check_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # With a password, if an empty one, nobody is asked for it at a terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise StoreError(
            f"etcd's client certificate {certificate} and its key {key} do not go together "
            f"({error.reason}); name two that were issued together, as PEM, the key without a "
            f"password"
        ) from error


def _content(path: Path | None, what: str) -> bytes | None:
    return None if path is None else read(path, what)


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
