"""Find out which instances exist: files and URLs in, targets and changes out."""

from exporter.inventory.inventory import Inventory, SourceState
from exporter.inventory.merge import WHOLE, Change, Shard, diff
from exporter.inventory.source import Source, SourceSettings
from exporter.inventory.sources import sources_for

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
