"""Wait to lead, and keep the fleet as it is to be as long as this provisioner leads.

In:   Leadership; all that Passes need.
Out:  a term, while it leads; a word in the log on who leads otherwise.
Fails never by itself: without the store, or while it refuses or holds what cannot be read, nothing
is changed until it is well; a lost term ends all operations at once. Instances go on in all cases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from provisioning.clock import Clock
from provisioning.counters import Listener
from provisioning.errors import FencedError, StoreError, StoreUnavailableError
from provisioning.mirror import Mirror
from provisioning.model import NodeReport
from provisioning.orphans import Orphan
from provisioning.outage import Outage
from provisioning.passes import Passes
from provisioning.runtime.base import ProberOf, Runtime
from provisioning.spec_model import Fleet, Node
from provisioning.standby import Standby
from provisioning.store.base import Leadership, Leading, Store, Term

log = logging.getLogger("provisioning.reconciler")

PAUSE_S = 1.0
"""Between a term and the next try to lead."""
LONGEST_PAUSE_S = 60.0
"""What the store refuses, or what cannot be read of it, heals only by a person's doing."""


class Reconciler:
    """Leads when it may, and then makes one pass after the other."""

    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        leadership: Leadership,
        open_runtime: Callable[[Node], Runtime],
        prober_of: ProberOf,
        clock: Clock,
        read_spec: Callable[[str], Fleet],
        dice: Callable[[], float],
        listener: Listener,
    ) -> None:
        self._leadership = leadership
        self._clock = clock
        self._leading: Leading | None = None
        self._outage = Outage(
            clock, log, restored="the store is back", on_begin=listener.outage_began
        )
        self._standby = Standby(leadership, clock, on_answer=self._outage.note_well)
        self._passes = Passes(
            store=store,
            mirror=mirror,
            open_runtime=open_runtime,
            prober_of=prober_of,
            clock=clock,
            read_spec=read_spec,
            dice=dice,
            leads=self._leads,
            listener=listener,
            outage=self._outage,
        )

    def __repr__(self) -> str:
        role = f"leads, epoch {self.term.epoch}" if self.term else "waits"
        return f"<Reconciler {role}, {self._passes!r}>"

    @property
    def term(self) -> Term | None:
        """Return the term that writes carry; None: this provisioner does not lead."""
        return self._leading.term if self._leading else None

    @property
    def reports(self) -> Mapping[str, NodeReport]:
        """Return what was last heard of each node; empty while it does not lead."""
        return self._passes.reports

    @property
    def orphans(self) -> tuple[Orphan, ...] | None:
        """Return what is there without a record; None: it is not known, as while we do not lead."""
        return self._passes.orphans

    def delete_orphans(self) -> None:
        """Have the orphans deleted that there are now."""
        self._passes.delete_orphans()

    @property
    def n_running(self) -> int:
        """Return how many operations are going on."""
        return self._passes.n_running

    def wake(self) -> None:
        """Begin the next pass at once: somebody else has written what it has to act on."""
        self._passes.wake()

    async def run(self) -> None:
        """Wait to lead, lead, and begin again when the term is lost; until cancelled."""
        pause_s = PAUSE_S
        while True:
            begun_s = self._clock.monotonic_s()
            is_refused = await self._lead_once()
            is_soon = self._clock.monotonic_s() - begun_s < LONGEST_PAUSE_S
            is_in_a_row = is_refused and is_soon
            pause_s = min(LONGEST_PAUSE_S, 2.0 * pause_s) if is_in_a_row else PAUSE_S
            await self._clock.sleep(pause_s)

    async def _lead_once(self) -> bool:
        """Wait to lead, and lead; say whether that ended with an error that may last."""
        consequence = "cannot lead"
        try:
            async with AsyncExitStack() as stack:
                async with self._standby.telling():
                    leading = await stack.enter_async_context(self._leadership.lead())
                consequence = "leads no more"
                await self._lead(leading)
        except StoreUnavailableError as error:
            self._outage.note_failed(f"{consequence}, the store is out of reach", error)
        except FencedError as error:
            log.warning("%s: %s", consequence, error)
        except StoreError as error:
            self._outage.note_failed(f"{consequence}, the store refused", error)
            return True
        return False

    def _leads(self) -> bool:
        """Say whether it is certain now that nobody else does, whatever was heard of the term."""
        return self._leading is not None and self._clock.monotonic_s() < self._leading.until_s

    async def _lead(self, leading: Leading) -> None:
        log.info("leads, epoch %d", leading.term.epoch)
        self._leading = leading
        self._standby.forget()
        lost = asyncio.create_task(leading.lost())
        passes = asyncio.create_task(self._passes.run(leading.term))
        try:
            done, _ = await asyncio.wait({lost, passes}, return_when=asyncio.FIRST_COMPLETED)
            if lost in done:
                log.warning("the term is lost: nothing is changed any more, instances go on")
            for task in done:
                task.result()
        finally:
            self._leading = None
            lost.cancel()
            passes.cancel()
            await asyncio.gather(lost, passes, return_exceptions=True)
