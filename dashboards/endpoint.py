"""Check what options say of the server, before anything is sent there.

In:   --url and --ca-file.
Out:  the address without a slash at its end; what requests verifies certificates with.
Fails with SettingsError; no message repeats a password.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from dashboards.errors import SettingsError


def checked_url(url: str) -> str:
    """Return an address that requests can be sent to."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"--url is no address: {error}") from error
    if "@" in parts.netloc:
        raise SettingsError(
            f"--url {parts.hostname} holds a user or password, which other users of this machine "
            "could read; put a service account's token into a file and give --token-file"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SettingsError(f"--url {url} is no address such as https://grafana.example.org")
    if parts.query or parts.fragment:
        raise SettingsError(f"--url {url} must end before the `?` or `#`")
    return url.rstrip("/")


def checked_ca(ca_file: Path | None) -> str | bool:
    """Return the file of the authorities to believe, or True for the usual ones."""
    if ca_file is None:
        return True
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # also what ssl raises for a file without certificates
        raise SettingsError(
            f"cannot use --ca-file {ca_file}: {error.strerror or error}; it must hold PEM "
            "certificates"
        ) from error
    return str(ca_file)
