"""Check what options say of the server, before anything is sent there.

In:   --url and --ca-file.
Out:  the address without a slash at its end; what requests verifies certificates with.
Fails with SettingsError; no message repeats a password.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from dashboards.errors import SettingsError
from ollama_fleet.urls import base_url


def checked_url(url: str) -> str:
    """Return an address that requests can be sent to."""
    instead = "put a service account's token into a file and give --token-file"
    try:
        return base_url(url, example="https://grafana.example.org", instead=instead)
    except ValueError as error:
        raise SettingsError(f"--url {error}") from error


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
