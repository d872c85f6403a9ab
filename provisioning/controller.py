"""Campaign for the lease and reconcile the fleet for as long as it is held."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ollama_fleet.clock import Clock, wait_at_most
from provisioning.actions import Action, StateSnapshot
from provisioning.cache import Cache
from provisioning.errors import FencedError, SpecError, StoreError, StoreUnavailableError
from provisioning.eventlog import EventLog
from provisioning.executor import Dispatcher
from provisioning.health import DrainMonitor
from provisioning.lifecycle import Ended, changed_id, changes_after, changes_before
from provisioning.model import Fleet, Node, NodeReport
from provisioning.nodes import NodeMonitor
from provisioning.reconcile import decide, next_wakeup_s
from provisioning.report import (
    Listener,
    ReconcileLog,
    Report,
    count_waiting,
    events_of,
    reasons_of,
)
from provisioning.runtime.base import ProberOf, Runtime
from provisioning.spec_index import SpecIndex
from provisioning.state import Orphan, find_orphans, is_every_node_asked
from provisioning.store.base import (
    Change,
    ChangeResult,
    LeaderSession,
    Leadership,
    Store,
    StoredSpec,
    Term,
)

log = logging.getLogger("provisioning.controller")


class SteadyClock:
    """A clock whose wall time goes on evenly, however the machine's clock is set meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic_s = clock.monotonic_s
        self.sleep = clock.sleep
        self._lead_s = 0.0
        self.reset()

    def unix_s(self) -> float:
        """Return seconds since 1970 UTC, as of the last reset plus the time since."""
        return self._clock.monotonic_s() + self._lead_s

    def reset(self) -> None:
        """Take over the machine's wall clock."""
        self._lead_s = self._clock.unix_s() - self._clock.monotonic_s()

    def advance_to(self, unix_s: float) -> bool:
        """Go forward to a time that a record has; say whether that was ahead."""
        ahead_s = unix_s - self.unix_s()
        self._lead_s += max(0.0, ahead_s)
        return ahead_s > 0


class ActiveSpec:
    """The specification that a leader goes by; one that cannot be read leaves the last one."""

    def __init__(self, read_spec: Callable[[str], Fleet]) -> None:
        self._read_spec = read_spec
        self._spec: StoredSpec | None = None
        self._index: SpecIndex | None = None

    def index(self, spec: StoredSpec | None) -> SpecIndex | None:
        """Take over what the store holds now, and return what is active; None: nothing."""
        if spec is None:  # also where there was one: an emptied store asks for nothing
            self._index = None
        elif spec != self._spec:
            try:
                self._index = SpecIndex(self._read_spec(spec.text))
            except SpecError as error:
                log.error(
                    "stored specification cannot be read, the last readable one stays active: %s",
                    error,
                )
        self._spec = spec
        return self._index


LEADER_EVERY_S = 5.0
"""How often a standby asks the store who leads."""
SURE_S = 120.0
"""A store that refused a write may still be read; it is well if nothing fails for so long."""


class StoreHealth:
    """Whether the store can be used, as the leader's and the standby's tries show."""

    def __init__(self, clock: Clock, *, on_outage: Callable[[], None]) -> None:
        self._events = EventLog(log, clock)
        self._on_outage = on_outage

    def note_failed(self, consequence: str, error: StoreError) -> None:
        """Take note of a try that failed; a person has to repair what is not unavailability."""
        is_passing = isinstance(error, StoreUnavailableError)
        key = "unavailable" if is_passing else "refused"
        level = logging.WARNING if is_passing else logging.ERROR
        if self._events.failed(key, f"store {key}, {consequence}", error, level=level):
            self._on_outage()

    def note_read(self) -> None:
        """Take note that the store answers: where it refused a write, it may again."""
        self._events.succeeded("unavailable", "store available")
        self._events.succeeded("refused", "store available", quiet_s=SURE_S)

    def note_written(self) -> None:
        """Take note that the store takes writes."""
        self._events.succeeded("unavailable", "store available")
        self._events.succeeded("refused", "store takes writes")


class Standby:
    """A provisioner that waits to lead."""

    def __init__(
        self, leadership: Leadership, clock: Clock, *, on_answer: Callable[[], None]
    ) -> None:
        """Have `on_answer` called whenever the store names another leader."""
        self._leadership = leadership
        self._clock = clock
        self._on_answer = on_answer
        self._logged: str | None = None

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Log each leader once, until the block ends."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def forget(self) -> None:
        """Log whoever leads next, though it be the same as before: we led in between."""
        self._logged = None

    async def _watch(self) -> None:
        while True:
            leader = await self._leadership.leader()
            # We ourselves: the term has begun, and `lead` is about to say so.
            if leader not in (None, self._leadership.holder):
                self._on_answer()
                if leader != self._logged:
                    log.info("standby leader=%s", leader)
                    self._logged = leader
            await self._clock.sleep(LEADER_EVERY_S)


INTERVAL_S = 5.0
"""Between reconciles while nothing happens: what only time brings about is noticed so late."""
SHORTEST_GAP_S = 0.2
"""However much happens: what ends within it is written down together."""
STORE_PAUSE_S = 1.0
MAX_REFUSALS = 5
"""In a row, each on records freshly loaded; then the next reconcile goes on."""


class ReconcileLoop:
    """What a provisioner does while it leads; knows nothing of nodes and instances before."""

    def __init__(
        self,
        *,
        store: Store,
        cache: Cache,
        open_runtime: Callable[[Node], Runtime],
        prober_of: ProberOf,
        clock: Clock,
        read_spec: Callable[[str], Fleet],
        jitter: Callable[[], float],
        listener: Listener,
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock = SteadyClock(clock)
        self._listener = listener
        self.session: LeaderSession | None = None
        """While we lead."""
        self.store_health = StoreHealth(clock, on_outage=listener.outage_began)
        self._wake = asyncio.Event()
        self._monitor = NodeMonitor(
            open_runtime,
            prober_of,
            clock,
            on_report=lambda report: self._dispatcher.take_report(report),  # noqa: PLW0108 - made below
            on_news=self._wake.set,
        )
        cache.listen(self._monitor.take_record)
        self._nodes, self._health = self._monitor.nodes, self._monitor.health
        self._drains = DrainMonitor(prober_of, clock, on_idle=self._wake.set)
        self._dispatcher = Dispatcher(
            self._nodes, prober_of, clock, jitter=jitter, leads=self._leads, on_end=self._wake.set
        )
        self._watching_since_s = 0.0
        self._log = ReconcileLog(clock)
        self._active_spec = ActiveSpec(read_spec)
        self._orphans: tuple[Orphan, ...] | None = None
        self._deletable_orphans: frozenset[tuple[str, str]] = frozenset()
        self._is_outdated = True
        self._was_refused = False  # some of what the last reconcile was to begin
        self._n_reconciles = 0

    @property
    def term(self) -> Term | None:
        """Return the term that writes carry; None: this provisioner does not lead."""
        return self.session.term if self.session else None

    @property
    def reports(self) -> Mapping[str, NodeReport]:
        """Return what was last heard of each node; empty between terms."""
        return self._nodes.reports

    @property
    def n_running(self) -> int:
        """Return how many operations are going on."""
        return self._dispatcher.n_running

    @property
    def orphans(self) -> tuple[Orphan, ...] | None:
        """Return the containers without a record; None: not each node was asked yet."""
        return self._orphans

    def delete_orphans(self) -> None:
        """Have the orphans deleted that there are now; those that come later are not meant."""
        self._deletable_orphans = frozenset(one.key for one in self._orphans or ())
        self._wake.set()

    def wake(self) -> None:
        """Reconcile at once."""
        self._wake.set()

    async def run(self, session: LeaderSession) -> None:
        """Reconcile until cancelled; then everything has ended that was begun.

        Raises:
            FencedError: The term is over.
            StoreError: The store refuses, or a record cannot be read.
        """
        self.session = session
        self._clock.reset()
        self._watching_since_s = self._clock.unix_s()
        tasks = (
            asyncio.create_task(self._reconcile_forever(session.term)),
            asyncio.create_task(self._health.run()),
            asyncio.create_task(self._drains.run()),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._end(tasks)

    def _leads(self) -> bool:
        """Say whether it is certain now that nobody else does, whatever was heard of the term."""
        return self.session is not None and self._clock.monotonic_s() < self.session.until_s

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Let everything go that belongs to a term."""
        for task in tasks:
            task.cancel()
        self.session = None
        await self._dispatcher.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._monitor.close()
        self._orphans, self._deletable_orphans = None, frozenset()
        self._is_outdated = True

    async def _reconcile_forever(self, term: Term) -> None:
        while True:
            self._wake.clear()
            try:
                quiet_s = await self._reconcile(term)
            except StoreUnavailableError as error:
                # What was written nobody knows: load before anything is written again.
                self._is_outdated = True
                self.store_health.note_failed("nothing is changed", error)
                await self._clock.sleep(STORE_PAUSE_S)
                continue
            self.store_health.note_read()
            await self._clock.sleep(SHORTEST_GAP_S)
            await wait_at_most(self._wake, self._clock, quiet_s - SHORTEST_GAP_S)

    async def _load(self) -> None:
        """Load the records; where they are ahead of our clock, it follows, and grace restarts."""
        await self._cache.load()
        newest_s = max(
            (one.instance.phase_since_s for one in self._cache.stored.values()), default=0.0
        )
        if self._clock.advance_to(newest_s):
            self._watching_since_s = self._clock.unix_s()
        self._is_outdated = False

    async def _reconcile(self, term: Term) -> float:
        """Write what has ended, decide on what is observed, write that, and begin it.

        Returns how long nothing more is due, if nothing happens.
        """
        begun_s = self._clock.monotonic_s()
        if self._is_outdated:
            await self._load()
        spec_index = self._active_spec.index(self._cache.spec)
        if spec_index is None:
            return INTERVAL_S
        await self._monitor.follow(spec_index, self._cache.stored)
        ended, n_refused = await self._write_ended(spec_index, term)
        self._drains.follow(self._cache.stored)
        observed, now_s = self._observed(), self._clock.unix_s()
        self._note_orphans(spec_index.fleet, observed)
        self._log.note_seen(spec_index.fleet, observed, now_s=now_s)
        actions = decide(spec_index.fleet, observed, now_s)
        reasons = reasons_of(actions, observed)
        begun, n_refused_now = await self._begin(spec_index, actions, term)
        self._n_reconciles += 1
        report = Report(
            number=self._n_reconciles,
            n_wanted=spec_index.n_wanted,
            n_ready=spec_index.count_ready(self._cache.stored, self._health.unhealthy),
            events=events_of(ended, begun),
            n_actions=len(begun),
            n_running=self.n_running,
            n_waiting=self._count_waiting(spec_index.fleet, now_s),
            reasons=Counter(reasons[one.id] for one in begun if one.id in reasons),
            canaries=self._health.take_canaries(),
            n_refused=n_refused + n_refused_now,
            duration_s=self._clock.monotonic_s() - begun_s,
        )
        self._log.note_done(report, ended, begun, self._cache.stored)
        self._listener.reconcile_ended(report)
        return min(INTERVAL_S, next_wakeup_s(spec_index.fleet, self._cache.stored, now_s=now_s))

    def _count_waiting(self, desired: Fleet, now_s: float) -> int:
        working = self._dispatcher.working()
        return count_waiting(desired, self._cache.stored, working, now_s=now_s)

    def _observed(self) -> StateSnapshot:
        return StateSnapshot(
            stored=self._cache.stored,
            reports=self._nodes.reports,
            watching_since_s=self._watching_since_s,
            unhealthy=self._health.unhealthy,
            working=self._dispatcher.working(),
            starting=self._dispatcher.starting(),
            collecting=self._dispatcher.collecting(),
            backing_off=self._dispatcher.backing_off(),
            idle=self._drains.idle,
            deletable_orphans=self._deletable_orphans,
        )

    def _note_orphans(self, desired: Fleet, observed: StateSnapshot) -> None:
        """Keep the orphans of this reconcile; an order ends with the orphans it was for."""
        orphans = find_orphans(observed)
        self._orphans = orphans if is_every_node_asked(desired, observed) else None
        self._deletable_orphans &= {one.key for one in orphans}

    async def _write_ended(self, spec_index: SpecIndex, term: Term) -> tuple[Ended, int]:
        """Write down what has become of operations; return that, and how many were refused."""
        n_refused = 0
        for _ in range(MAX_REFUSALS):
            ended = self._dispatcher.ended
            changes = changes_after(
                ended,
                self._cache.stored,
                limits=spec_index.fleet.limits,
                now_s=self._clock.unix_s(),
            )
            results = await self._commit(changes, term)
            refused = [one for one in results if one.refusal]
            if not refused:
                self._dispatcher.take(len(ended))
                for operation, outcome in ended:
                    self._listener.operation_ended(operation, outcome)
                return ended, n_refused
            n_refused += len(refused)
            await self._cache.load()
        return (), n_refused

    async def _begin(
        self, spec_index: SpecIndex, actions: Sequence[Action], term: Term
    ) -> tuple[list[Action], int]:
        """Write the actions down, and begin those that were not refused; return them."""
        changes = changes_before(actions, self._cache.stored, now_s=self._clock.unix_s())
        if actions and not changes:
            await self._store.commit((), term=term)  # nobody acts whose term is over
        results = await self._commit(changes, term)
        refused = {
            changed_id(change) for change, one in zip(changes, results, strict=True) if one.refusal
        }
        if refused:
            self._is_outdated = True
            if not self._was_refused:  # on fresh records, again, haste does not help
                self._wake.set()
        self._was_refused = bool(refused)
        begun = [action for action in actions if action.id not in refused]
        for action in begun:
            self._dispatcher.begin(action, spec_index, self._cache.stored)
        return begun, len(refused)

    async def _commit(self, changes: Sequence[Change], term: Term) -> tuple[ChangeResult, ...]:
        if not changes:
            return ()
        results = await self._store.commit(changes, term=term)
        self.store_health.note_written()
        self._cache.apply_local_write(changes, results)
        return results


PAUSE_S = 1.0
"""Between a term and the next try to lead."""
LONGEST_PAUSE_S = 60.0
"""What the store refuses, or what cannot be read of it, heals only by a person's doing."""


class Controller:
    """Campaigns for the lease, and reconciles while it holds it."""

    def __init__(self, leadership: Leadership, loop: ReconcileLoop, clock: Clock) -> None:
        self.loop = loop
        self._leadership = leadership
        self._clock = clock
        self._standby = Standby(leadership, clock, on_answer=loop.store_health.note_written)

    @property
    def term(self) -> Term | None:
        """Return the term that writes carry; None: this provisioner does not lead."""
        return self.loop.term

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
                async with self._standby.watching():
                    session = await stack.enter_async_context(self._leadership.lead())
                consequence = "leadership lost"
                await self._lead(session)
        except StoreUnavailableError as error:
            self.loop.store_health.note_failed(consequence, error)
        except FencedError as error:
            log.warning("standing by consequence=%s: %s", consequence, error)
        except StoreError as error:
            self.loop.store_health.note_failed(consequence, error)
            return True
        return False

    async def _lead(self, session: LeaderSession) -> None:
        log.info("leading epoch=%d", session.term.epoch)
        self._standby.forget()
        lost = asyncio.create_task(session.lost())
        reconciling = asyncio.create_task(self.loop.run(session))
        try:
            done, _ = await asyncio.wait({lost, reconciling}, return_when=asyncio.FIRST_COMPLETED)
            if lost in done:
                log.warning("lease lost: nothing is changed any more, instances keep running")
            for task in done:
                task.result()
        finally:
            self.loop.session = None
            lost.cancel()
            reconciling.cancel()
            await asyncio.gather(lost, reconciling, return_exceptions=True)
