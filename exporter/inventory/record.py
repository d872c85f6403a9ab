"""One element of an inventory document, and where it stands.

In:   what a format's reader found.
Out:  plain values (dict, list, str, int, float, bool, None) with a place for every message.
Nothing here judges the values; that is done in `entries` and `groups`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

NO_PLACES: Mapping[str, str] = MappingProxyType({})


class Record(msgspec.Struct, frozen=True, gc=False):
    """One element of the document's list."""

    value: object
    place: str
    """`fleet.yml:12`, `fleet.json:14 [3]` or `http://host/instances[3]`."""
    places: Mapping[str, str] = NO_PLACES
    """Place by path in the record (`port`, `labels.rack`, `targets[2]`), where lines are known."""

    def at(self, path: str) -> str:
        """Return the place of one value in the record; the record's own where it is not known."""
        return self.places.get(path, self.place)

    def at_item(self, key: str, index: int) -> str:
        """Return the place of one element of the list `key`."""
        path = f"{key}[{index}]"
        return self.places.get(path) or f"{self.place}.{path}"
