"""Write an instance as the JSON that stores keep, and read it again.

In:   an Instance, or the bytes of one.
Out:  UTF-8 JSON without what has its default; an Instance.
Fails with StoreError where the bytes are no instance.
"""

from __future__ import annotations

import msgspec

from provisioning.errors import StoreError
from provisioning.model import Instance

Place = tuple[str, int]
"""A node's name and a port on it: what no two instances share."""


def place_of(instance: Instance) -> Place:
    """Return where the instance listens."""
    return instance.node, instance.port


def encode(instance: Instance) -> bytes:
    """Return the instance as JSON, about 400 bytes and 60 for each line of its history."""
    return msgspec.json.encode(instance)


def decode(body: bytes, *, source: str) -> Instance:
    """Read an instance; `source` names the record in the error.

    Raises:
        StoreError: It is no instance, or one of a later release with another shape.
    """
    try:
        return msgspec.json.decode(body, type=Instance)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"cannot read the record {source}: {error}; it was written by something else or by "
            f"another release: run the release that wrote it, or delete the record"
        ) from error
