"""Divide a fleet among several exporters.

In:   `i/n`, counted from zero, the same n for all.
Out:  for every instance id, whether this exporter polls it. Pure.
The hash has no seed: all exporters, after every restart and on every machine, agree.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)
HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`: 0 <= index < count."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard {self} does not exist: shards of {self.count} are counted from 0"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that `i/n` names.

        Raises:
            ValueError: The text is not two whole numbers, or i is not below n.
        """
        found = SHARD.fullmatch(text)
        if found is None:
            raise ValueError(f"shard must be i/n such as 0/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def holds(self, instance_id: str) -> bool:
        """Return whether an instance belongs to this shard."""
        hashed = hashlib.blake2b(instance_id.encode(), digest_size=HASH_BYTES).digest()
        return int.from_bytes(hashed, "big") % self.count == self.index


WHOLE = Shard(0, 1)
"""The shard that holds every instance."""
