"""Find out which instances exist: files and URLs in, targets and changes out."""

from exporter.inventory.diff import Change, diff
from exporter.inventory.inventory import Inventory
from exporter.inventory.listing import SourceState
from exporter.inventory.naming import sources_for
from exporter.inventory.shard import WHOLE, Shard
from exporter.inventory.sources import Source, SourceSettings

__all__ = [
    "WHOLE",
    "Change",
    "Inventory",
    "Shard",
    "Source",
    "SourceSettings",
    "SourceState",
    "diff",
    "sources_for",
]
