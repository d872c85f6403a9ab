"""The provisioner's HTTP API.

    store ─► Source ─► Directory ─ Inventory ─► reads, changes
                                                   writes ─► Commands ─► store

`/instances` has the keys that the exporter's inventory knows and no others, as it refuses unknown
ones; `/instances?details=1`, one instance, and the stream of changes say all that is known.
"""
