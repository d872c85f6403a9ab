"""Read a fleet's specification: YAML that a person wrote, or the JSON that the store keeps.

YAML ─ form ─► completion ─► Fleet ◄─ canonical ─► JSON
                               └─► checks
"""

from provisioning.fleet.spec.canonical import checked_fleet, decode_fleet, encode_fleet
from provisioning.fleet.spec.reading import load_fleet, read_fleet

__all__ = ["checked_fleet", "decode_fleet", "encode_fleet", "load_fleet", "read_fleet"]
