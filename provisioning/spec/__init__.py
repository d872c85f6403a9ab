"""Read a fleet's specification, and write it: as the YAML of a person, or as the store's JSON.

YAML ─ form ─► completion ─► Fleet ◄─ canonical ─► JSON
YAML ◄────────── document ─────┴─► checks
"""

from provisioning.spec.document import (
    checked_fleet,
    decode_fleet,
    encode_fleet,
    fleet_json,
    fleet_yaml,
)
from provisioning.spec.reading import load_fleet, read_fleet

__all__ = [
    "checked_fleet",
    "decode_fleet",
    "encode_fleet",
    "fleet_json",
    "fleet_yaml",
    "load_fleet",
    "read_fleet",
]
