"""What is known of an image that a node has.

In:   digests of its layers. Out: an Image; the snapshot that it starts from. Pure.
"""

from __future__ import annotations

import hashlib

import msgspec


class ImageConfig(msgspec.Struct, frozen=True):
    """What an image says about running it; names as in the OCI image specification."""

    Env: tuple[str, ...] | None = None
    Entrypoint: tuple[str, ...] | None = None
    Cmd: tuple[str, ...] | None = None
    WorkingDir: str = ""
    User: str = ""


class Image(msgspec.Struct, frozen=True):
    """An image that a node has, unpacked."""

    digest: str
    snapshot: str
    """The chain id of its topmost layer."""
    config: ImageConfig
    size_bytes: int = 0
    """Of its layers, as they are carried."""


def chain_ids(diff_ids: tuple[str, ...]) -> list[str]:
    """Return the names of the snapshots of layers, each upon those before it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if not chain:
            chain.append(diff_id)
            continue
        both = f"{chain[-1]} {diff_id}".encode()
        chain.append(f"sha256:{hashlib.sha256(both).hexdigest()}")
    return chain
