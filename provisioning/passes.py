"""One pass after the other: see what is there, decide, write that down, and have it done.

In:   a Term, a Store and its Mirror, nodes, instances, and the time.
Out:  records and units that become what the specification says; a Report of each pass.
Fails with FencedError once the term is over, and with StoreError where the store refuses or holds
what cannot be read. While it is out of reach nothing is changed. Instances go on in all cases.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from provisioning.actions import Action, Observed
from provisioning.clock import Clock
from provisioning.counters import Listener
from provisioning.decide import decide
from provisioning.drains import DrainMonitor
from provisioning.due import drain_left_s
from provisioning.errors import StoreUnavailableError
from provisioning.grace import Grace
from provisioning.in_force import InForce
from provisioning.logbook import Logbook
from provisioning.lookout import Lookout
from provisioning.mirror import Mirror
from provisioning.model import NodeReport
from provisioning.operations import Ended
from provisioning.orphans import Orphan, find_orphans, is_every_node_asked
from provisioning.outage import Outage
from provisioning.report import Report, events_of
from provisioning.runtime.base import ProberOf, Runtime
from provisioning.spec_index import SpecIndex
from provisioning.spec_model import Fleet, Node
from provisioning.store.base import Change, Done, Store, Term
from provisioning.tallies import count_waiting, reasons_of
from provisioning.waiting import wait_at_most
from provisioning.work import Work
from provisioning.writing import changed_id, changes_after, changes_before, subject_id

INTERVAL_S = 5.0
"""From pass to pass while nothing happens: so late is noticed what only time brings about."""
SHORTEST_GAP_S = 0.2
"""However much happens: what ends within it is written down together."""
STORE_PAUSE_S = 1.0
MAX_REFUSALS = 5
"""In a row, each on records freshly loaded; then the next pass goes on."""


class Passes:
    """What a provisioner does while it leads; knows nothing of nodes and instances before."""

    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        open_runtime: Callable[[Node], Runtime],
        prober_of: ProberOf,
        clock: Clock,
        read_spec: Callable[[str], Fleet],
        dice: Callable[[], float],
        leads: Callable[[], bool],
        listener: Listener,
        outage: Outage,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._listener = listener
        self._outage = outage
        self._wake = asyncio.Event()
        self._lookout = Lookout(
            open_runtime,
            prober_of,
            clock,
            on_report=lambda report: self._work.take_report(report),  # noqa: PLW0108 - made below
            on_news=self._wake.set,
        )
        mirror.listen(self._lookout.take_record)
        self._nodes, self._health = self._lookout.nodes, self._lookout.health
        self._drains = DrainMonitor(prober_of, clock, on_idle=self._wake.set)
        self._work = Work(
            self._nodes, prober_of, clock, dice=dice, leads=leads, on_end=self._wake.set
        )
        self._grace = Grace(clock)
        self._logbook = Logbook(clock, self._lookout.silences)
        self._in_force = InForce(read_spec)
        self._orphans: tuple[Orphan, ...] | None = None
        self._deletable_orphans: frozenset[tuple[str, str]] = frozenset()
        self._is_outdated = True
        self._was_refused = False  # some of what the last pass was to begin
        self._n_passes = 0

    def __repr__(self) -> str:
        return f"<Passes: {self._n_passes:,}, {self._work!r}>"

    @property
    def reports(self) -> Mapping[str, NodeReport]:
        """Return what was last heard of each node; empty between terms."""
        return self._nodes.reports

    @property
    def n_running(self) -> int:
        """Return how many operations are going on."""
        return self._work.n_running

    @property
    def orphans(self) -> tuple[Orphan, ...] | None:
        """Return what the last pass saw without a record; None: not each node was asked yet."""
        return self._orphans

    def delete_orphans(self) -> None:
        """Have the orphans deleted that there are now; those that come later are not meant."""
        self._deletable_orphans = frozenset(one.key for one in self._orphans or ())
        self._wake.set()

    def wake(self) -> None:
        """Begin the next pass at once."""
        self._wake.set()

    async def run(self, term: Term) -> None:
        """Make passes until cancelled; then everything has ended that was begun.

        Raises:
            FencedError: The term is over.
            StoreError: The store refuses, or a record cannot be read.
        """
        self._grace.begin()
        tasks = (
            asyncio.create_task(self._pass_again_and_again(term)),
            asyncio.create_task(self._health.run()),
            asyncio.create_task(self._drains.run()),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._end(tasks)

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Let everything go that belongs to a term."""
        for task in tasks:
            task.cancel()
        await self._work.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lookout.close()
        self._orphans, self._deletable_orphans = None, frozenset()
        self._is_outdated = True

    async def _pass_again_and_again(self, term: Term) -> None:
        while True:
            self._wake.clear()
            try:
                quiet_s = await self._pass(term)
            except StoreUnavailableError as error:
                # What was written nobody knows: load before anything is written again.
                self._is_outdated = True
                self._outage.note_failed("nothing is changed until the store is back", error)
                await self._clock.sleep(STORE_PAUSE_S)
                continue
            self._outage.note_read()
            await self._clock.sleep(SHORTEST_GAP_S)
            await wait_at_most(self._wake, self._clock, quiet_s - SHORTEST_GAP_S)

    async def _pass(self, term: Term) -> float:
        """Load if need be, write down what has ended, decide, write that down, and begin it.

        Returns how long nothing more is due, if nothing happens.
        """
        begun_s = self._clock.monotonic_s()
        self._grace.look()
        if self._is_outdated:
            await self._mirror.load()
            self._is_outdated = False
        spec_index = self._in_force.spec_index(self._mirror.spec)
        if spec_index is None:
            return INTERVAL_S
        await self._lookout.follow(spec_index, self._mirror.stored)
        ended, n_refused = await self._write_ended(spec_index, term)
        self._drains.follow(self._mirror.stored)
        observed = self._observed()
        self._note_orphans(spec_index.fleet, observed)
        decided_s = self._clock.unix_s()
        self._logbook.note_seen(spec_index.fleet, observed, now_s=decided_s)
        actions = decide(spec_index.fleet, observed, decided_s)
        reasons = reasons_of(actions, observed)
        begun, n_refused_now = await self._begin(spec_index, actions, term)
        self._n_passes += 1
        report = Report(
            number=self._n_passes,
            n_wanted=spec_index.n_wanted,
            n_as_wanted=spec_index.count_as_wanted(self._mirror.stored, self._health.ill),
            events=events_of(ended, begun),
            n_running=self._work.n_running,
            n_waiting=count_waiting(
                spec_index.fleet, self._mirror.stored, self._work.working(), now_s=decided_s
            ),
            reasons=Counter(reasons[id_] for id_ in map(subject_id, begun) if id_ in reasons),
            n_refused=n_refused + n_refused_now,
            duration_s=self._clock.monotonic_s() - begun_s,
        )
        self._logbook.note_done(report, ended, begun, self._mirror.stored)
        self._listener.pass_ended(report)
        instances = (one.instance for one in self._mirror.stored.values())
        return min(INTERVAL_S, drain_left_s(spec_index, instances, since_s=decided_s))

    def _observed(self) -> Observed:
        return Observed(
            stored=self._mirror.stored,
            reports=self._nodes.reports,
            since_s=self._grace.since_s,
            skips=self._grace.skips,
            ill=self._health.ill,
            working=self._work.working(),
            starting=self._work.starting(),
            sweeping=self._work.sweeping(),
            resting=self._work.resting(),
            idle=self._drains.idle,
            deletable_orphans=self._deletable_orphans,
        )

    def _note_orphans(self, desired: Fleet, observed: Observed) -> None:
        """Keep the orphans of this pass; an order ends with those that it was about."""
        orphans = find_orphans(desired, observed)
        self._orphans = orphans if is_every_node_asked(desired, observed) else None
        self._deletable_orphans &= {one.key for one in orphans}

    async def _write_ended(self, spec_index: SpecIndex, term: Term) -> tuple[Ended, int]:
        """Write down what has become of operations; return that, and how many were refused."""
        n_refused = 0
        for _ in range(MAX_REFUSALS):
            ended = self._work.ended
            changes = changes_after(
                ended,
                self._mirror.stored,
                self._nodes.reports,
                limits=spec_index.fleet.limits,
                now_s=self._clock.unix_s(),
            )
            done = await self._commit(changes, term)
            refused = [one for one in done if one.refusal]
            if not refused:
                self._work.take(len(ended))
                for operation, outcome in ended:
                    self._listener.operation_ended(operation, outcome)
                return ended, n_refused
            n_refused += len(refused)
            await self._mirror.load()
        return (), n_refused

    async def _begin(
        self, spec_index: SpecIndex, actions: Sequence[Action], term: Term
    ) -> tuple[list[Action], int]:
        """Write the actions down, and begin those that were not refused; return them."""
        changes = changes_before(actions, self._mirror.stored, now_s=self._clock.unix_s())
        if actions and not changes:
            await self._store.commit((), term=term)  # nobody acts whose term is over
        done = await self._commit(changes, term)
        refused = {
            changed_id(change) for change, one in zip(changes, done, strict=True) if one.refusal
        }
        if refused:
            self._is_outdated = True
            if not self._was_refused:  # on fresh records, again, haste does not help
                self._wake.set()
        self._was_refused = bool(refused)
        begun = [action for action in actions if subject_id(action) not in refused]
        for action in begun:
            self._work.begin(action, spec_index, self._mirror.stored)
        return begun, len(refused)

    async def _commit(self, changes: Sequence[Change], term: Term) -> tuple[Done, ...]:
        if not changes:
            return ()
        done = await self._store.commit(changes, term=term)
        self._outage.note_well()
        self._mirror.take_own(changes, done)
        return done
