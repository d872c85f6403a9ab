"""Say who was turned away without letting whoever asks again and again fill the disk.

In:   each refusal, with the address it came from.
Out:  whether it may be told by itself; once a minute, how many of each address were not.
Pure; holds a bounded number of addresses, and takes the rest for one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

PERIOD_S = 60.0
MAX_ADDRESSES = 1000
OTHERS = "other addresses"


class LeftOut(msgspec.Struct, frozen=True):
    """Refusals that were not told one by one."""

    address: str
    operation: str
    """What the latest of them asked for."""
    count: int


class Refusals:
    """Of each address, what came since the minute began."""

    def __init__(self) -> None:
        self._left_out_by_address: dict[str, LeftOut] = {}

    def take(self, address: str, operation: str) -> bool:
        """Take note of a refusal; say whether it may be told, as the first of its address."""
        known = self._left_out_by_address
        key = address if address in known or len(known) < MAX_ADDRESSES else OTHERS
        count = known[key].count + 1 if key in known else 0
        known[key] = LeftOut(key, operation, count)
        return count == 0

    def end_minute(self) -> Sequence[LeftOut]:
        """Return what was left out in it; of whom it tells, nothing more is told in the next."""
        left_out = tuple(one for one in self._left_out_by_address.values() if one.count)
        self._left_out_by_address = {
            one.address: LeftOut(one.address, one.operation, 0) for one in left_out
        }
        return left_out
