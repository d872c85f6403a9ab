"""Keep the fleet as it is to be, as long as this provisioner leads.

In:   Leadership, a Store and its Mirror, nodes, instances, and the time.
Out:  records and units that become what the specification says; a Report of each pass.
Fails never by itself: without the store, or while it refuses or holds what cannot be read, nothing
is changed until it is well; a lost term ends all operations at once. Instances go on in all cases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from provisioning.fleet.actions import Action, Illness, Observed
from provisioning.fleet.clock import Clock
from provisioning.fleet.counters import Listener
from provisioning.fleet.decide import decide
from provisioning.fleet.errors import FencedError, SpecError, StoreError, StoreUnavailableError
from provisioning.fleet.fleet import Fleet, Node
from provisioning.fleet.grace import Grace
from provisioning.fleet.health import HealthMonitor
from provisioning.fleet.mirror import Mirror
from provisioning.fleet.model import NodeReport
from provisioning.fleet.nodes import Nodes
from provisioning.fleet.report import Report, events_of
from provisioning.fleet.roster import Roster
from provisioning.fleet.runtime.base import Prober, Runtime
from provisioning.fleet.store.base import (
    Change,
    Done,
    Leadership,
    Leading,
    Store,
    Stored,
    StoredSpec,
    Term,
)
from provisioning.fleet.strangers import StrangerWarning, n_kept_strangers
from provisioning.fleet.waiting import wait_at_most
from provisioning.fleet.work import Work
from provisioning.fleet.writing import changed_id, changes_after, changes_before, subject_id

log = logging.getLogger("provisioning.fleet.reconciler")

INTERVAL_S = 5.0
"""From pass to pass while nothing happens: so late is noticed what only time brings about."""
SHORTEST_GAP_S = 0.2
"""However much happens: what ends within it is written down together."""
STORE_PAUSE_S = 1.0
LONGEST_STORE_PAUSE_S = 60.0
"""What the store refuses, or what cannot be read of it, heals only by a person's doing."""
MAX_REFUSALS = 5
"""In a row, each on records freshly loaded; then the next pass goes on."""


class Reconciler:
    """Leads when it may, and then makes one pass after the other."""

    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        leadership: Leadership,
        open_runtime: Callable[[Node], Runtime],
        prober: Prober,
        clock: Clock,
        read_spec: Callable[[str], Fleet],
        dice: Callable[[], float],
        listener: Listener,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._leadership = leadership
        self._clock = clock
        self._read_spec = read_spec
        self._listener = listener
        self._wake = asyncio.Event()
        self._nodes = Nodes(open_runtime, clock, on_report=self._take_report)
        self._health = HealthMonitor(prober, clock, on_change=self._wake.set)
        self._work = Work(self._nodes, prober, clock, dice=dice, on_end=self._wake.set)
        self._term: Term | None = None
        self._grace = Grace(clock)
        self._warning = StrangerWarning(clock)
        self._spec: StoredSpec | None = None
        self._roster: Roster | None = None
        self._silent: set[str] = set()
        self._is_outdated = True
        self._n_passes = 0

    def __repr__(self) -> str:
        role = f"leads, epoch {self._term.epoch}" if self._term else "waits"
        return f"<Reconciler {role}, {self._n_passes:,} passes, {self._work!r}>"

    @property
    def term(self) -> Term | None:
        """Return the term that writes carry; None: this provisioner does not lead."""
        return self._term

    @property
    def reports(self) -> Mapping[str, NodeReport]:
        """Return what was last heard of each node; empty while it does not lead."""
        return self._nodes.reports

    @property
    def ill(self) -> Mapping[str, Illness]:
        """Return the running instances that are unhealthy; empty while it does not lead."""
        return self._health.ill

    @property
    def n_running(self) -> int:
        """Return how many operations are going on."""
        return self._work.n_running

    def wake(self) -> None:
        """Begin the next pass at once: somebody else has written what it has to act on."""
        self._wake.set()

    async def run(self) -> None:
        """Wait to lead, lead, and begin again when the term is lost; until cancelled."""
        pause_s = STORE_PAUSE_S
        while True:
            begun_s = self._clock.monotonic_s()
            is_refused = await self._lead_once()
            is_soon = self._clock.monotonic_s() - begun_s < LONGEST_STORE_PAUSE_S
            is_in_a_row = is_refused and is_soon
            pause_s = min(LONGEST_STORE_PAUSE_S, 2.0 * pause_s) if is_in_a_row else STORE_PAUSE_S
            await self._clock.sleep(pause_s)

    async def _lead_once(self) -> bool:
        """Wait to lead, and lead; say whether that ended with an error that may last."""
        try:
            async with self._leadership.lead() as leading:
                await self._lead(leading)
        except StoreUnavailableError as error:
            log.warning("cannot lead, the store is out of reach: %s", error)
            self._listener.store_failed(str(error))
        except FencedError as error:
            log.warning("leads no more: %s", error)
        except StoreError as error:
            log.error("leads no more, the store refused: %s", error)
            self._listener.store_failed(str(error))
            return True
        return False

    async def _lead(self, leading: Leading) -> None:
        log.info("leads, epoch %d", leading.term.epoch)
        self._term = leading.term
        self._grace.begin()
        self._is_outdated = True
        self._mirror.listen(self._take_record)
        loop = asyncio.get_running_loop()
        lost = loop.create_task(leading.lost())
        tasks = (
            lost,
            loop.create_task(self._pass_again_and_again(leading.term)),
            loop.create_task(self._health.run()),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if lost in done:
                log.warning("the term is lost: nothing is changed any more, instances go on")
            for task in done:
                task.result()
        finally:
            self._term = None
            self._mirror.silence(self._take_record)
            await self._end(tasks)

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Let everything go that belongs to a term."""
        for task in tasks:
            task.cancel()
        await self._work.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._nodes.close()
        self._health.clear()
        self._silent.clear()
        self._spec = self._roster = None

    async def _pass_again_and_again(self, term: Term) -> None:
        while True:
            self._wake.clear()
            try:
                await self._pass(term)
            except StoreUnavailableError as error:
                # What was written nobody knows: load before anything is written again.
                self._is_outdated = True
                log.warning("nothing is changed until the store is back: %s", error)
                self._listener.store_failed(str(error))
                await self._clock.sleep(STORE_PAUSE_S)
                continue
            await self._clock.sleep(SHORTEST_GAP_S)
            await wait_at_most(self._wake, self._clock, INTERVAL_S)

    async def _pass(self, term: Term) -> None:
        """Load if need be, write down what has ended, decide, write that down, and begin it."""
        begun_s = self._clock.monotonic_s()
        self._grace.look()
        if self._is_outdated:
            await self._mirror.load()
            self._is_outdated = False
        roster = await self._current_roster()
        if roster is None:
            return
        ended = self._work.ended
        n_refused = await self._write_ended(roster, term)
        observed = self._observed()
        self._warning.give(n_kept_strangers(roster.fleet, observed))
        actions = decide(roster.fleet, observed, self._clock.unix_s())
        begun, n_refused_now = await self._begin(roster, actions, term)
        self._n_passes += 1
        self._tell(
            Report(
                number=self._n_passes,
                n_wanted=roster.n_wanted,
                n_as_wanted=roster.count_as_wanted(self._mirror.stored, self._health.ill),
                events=events_of(ended, begun),
                n_running=self._work.n_running,
                n_refused=n_refused + n_refused_now,
                duration_s=self._clock.monotonic_s() - begun_s,
            )
        )

    def _tell(self, report: Report) -> None:
        log.log(logging.DEBUG if report.is_quiet else logging.INFO, "%s", report)
        self._listener.pass_ended(report)

    def _observed(self) -> Observed:
        return Observed(
            stored=self._mirror.stored,
            reports=self._nodes.reports,
            since_s=self._grace.since_s,
            ill=self._health.ill,
            working=self._work.working(),
            sweeping=self._work.sweeping(),
            resting=self._work.resting(),
        )

    async def _current_roster(self) -> Roster | None:
        """Return the specification in force, or the last one that could be read."""
        spec = self._mirror.spec
        if spec is not None and spec != self._spec:
            self._spec = spec
            try:
                self._roster = Roster(self._read_spec(spec.text))
            except SpecError as error:
                log.error("the specification is not taken over: %s", error)
            else:
                for id_, stored in self._mirror.stored.items():
                    self._take_record(id_, stored)
        if self._roster is not None:
            used = frozenset(one.instance.node for one in self._mirror.stored.values())
            await self._nodes.update(self._roster.fleet.nodes, used=used)
        return self._roster

    async def _write_ended(self, roster: Roster, term: Term) -> int:
        """Write down what has become of operations; return how many writes were refused."""
        n_refused = 0
        for _ in range(MAX_REFUSALS):
            ended = self._work.ended
            changes = changes_after(
                ended,
                self._mirror.stored,
                self._nodes.reports,
                limits=roster.fleet.limits,
                now_s=self._clock.unix_s(),
            )
            done = await self._commit(changes, term)
            refused = [one for one in done if one.refusal]
            if not refused:
                self._work.take(len(ended))
                for operation, outcome in ended:
                    self._listener.operation_ended(operation, outcome)
                break
            n_refused += len(refused)
            await self._mirror.load()
        return n_refused

    async def _begin(
        self, roster: Roster, actions: Sequence[Action], term: Term
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
            self._wake.set()
        begun = [action for action in actions if subject_id(action) not in refused]
        for action in begun:
            self._work.begin(action, roster, self._mirror.stored)
        return begun, len(refused)

    async def _commit(self, changes: Sequence[Change], term: Term) -> tuple[Done, ...]:
        if not changes:
            return ()
        done = await self._store.commit(changes, term=term)
        self._mirror.take_own(changes, done)
        return done

    def _take_record(self, id_: str, stored: Stored | None) -> None:
        """Ask an instance for its health while it runs."""
        subject = self._roster.subject(stored.instance) if self._roster and stored else None
        if subject:
            self._health.watch(id_, subject)
        else:
            self._health.unwatch(id_)

    def _take_report(self, report: NodeReport, is_news: bool) -> None:
        """Take note of what a node says; units that have ended do so to their starts as well."""
        self._work.take_report(report)
        if not report.is_reachable:
            self._silent.add(report.node)
        elif report.node in self._silent:
            self._silent.remove(report.node)
            self._health.forgive(report.node)
        if is_news:
            self._wake.set()
