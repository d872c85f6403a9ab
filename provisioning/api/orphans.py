"""Orphans for the API: list them, and have them deleted.

In:   what the last pass of the leader saw.
Out:  OrphanDocuments.
Fails with NotLeadingError, and with RefusedError where they are not known, or their count is
another one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from ollama_fleet.tables import count_text
from provisioning.api.errors import NotLeadingError, RefusedError
from provisioning.api.routes import OrphanDocument
from provisioning.state import LIST_COMMAND, Orphan, count_by_node

log = logging.getLogger("provisioning.state")


class LeaderOrphans:
    """See `ports.Orphans`."""

    def __init__(
        self,
        *,
        seen: Callable[[], Sequence[Orphan] | None],
        delete: Callable[[], None],
        leads: Callable[[], bool],
        leader: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._seen = seen
        self._delete = delete
        self._leads = leads
        self._leader = leader

    async def all(self) -> list[OrphanDocument]:
        """Return every orphan that is known, by node and name."""
        return _documents(await self._known())

    async def delete(self, count: int) -> list[OrphanDocument]:
        """Have all orphans deleted, if they are as many as the caller has seen."""
        seen = await self._known()
        if len(seen) != count:
            raise RefusedError(
                f"delete {count_text(count, 'orphan')}: there are {len(seen):,} now, and none was "
                f"deleted; look at them again: `{LIST_COMMAND}`"
            )
        by_node = ",".join(f"{node}:{n}" for node, n in count_by_node(seen).items())
        log.warning("orphans ordered to be deleted: count=%d by_node=%s", count, by_node)
        self._delete()
        return _documents(seen)

    async def _known(self) -> Sequence[Orphan]:
        if not self._leads():
            raise NotLeadingError(await self._leader(), so="it knows nothing of orphans")
        seen = self._seen()
        if seen is None:
            raise RefusedError(
                "orphans are not known before each node of the specification was asked: apply a "
                "specification where there is none, else try again in ten seconds"
            )
        return seen


def _documents(orphans: Sequence[Orphan]) -> list[OrphanDocument]:
    return [
        OrphanDocument(
            node=node,
            name=container.name,
            instance_id=container.instance_id,
            generation=container.generation,
            state=container.state,
        )
        for node, container in sorted(orphans, key=lambda one: one.key)
    ]
