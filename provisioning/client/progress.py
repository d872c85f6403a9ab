"""How far a fleet is on its way to a specification.

In:   the Fleet that was applied, the instances as the API lists them, and which nodes are silent.
Out:  a Progress, or one after the other until all is done; its text is the line that a waiting
      person sees. Whoever stops waiting stops nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from provisioning.api.routes import Details
from provisioning.model import Fleet, Phase
from provisioning.workload import workload_digest

POLL_S = 1.0
GIVEN_UP_S = 60.0
"""What is tried again so late is not waited for."""
N_SHOWN_FAULTS = 3
N_SHOWN_NODES = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """Instances by how far they are."""

    n_wanted: int
    n_ready: int
    """Running as the specification wants them."""
    n_failed: int
    n_surplus: int
    """Of pools that have more than they should, or are not wanted at all."""
    n_given_up: int = 0
    """Of what is wanted now: failed, and not tried again, or not soon."""
    faults: tuple[str, ...] = ()
    """Why, of the first of them."""
    n_held_up: int = 0
    """Surplus too, but on nodes that do not answer: it goes when they do, and is not awaited."""
    silent: tuple[str, ...] = ()
    """Those nodes."""

    @property
    def is_done(self) -> bool:
        """Say whether everything is as it should be."""
        return self.n_ready == self.n_wanted and not self.n_surplus

    @property
    def is_stuck(self) -> bool:
        """Say whether all that is missing has failed: nothing is being started any more."""
        return 0 < self.n_wanted - self.n_ready <= self.n_given_up

    def __str__(self) -> str:
        failed = f", {self.n_failed:,} failed" if self.n_failed else ""
        surplus = f", {self.n_surplus:,} to be removed" if self.n_surplus else ""
        held_up = f", {self.n_held_up:,} {_once_heard(self.silent)}" if self.n_held_up else ""
        return f"{self.n_ready:,} of {self.n_wanted:,} instances ready{failed}{surplus}{held_up}"


def progress_until_done(
    listed: Callable[[], Iterable[Details]],
    fleet: Fleet,
    *,
    silent_nodes: Callable[[], Collection[str]],
    sleep: Callable[[float], None],
    poll_s: float = POLL_S,
) -> Iterator[Progress]:
    """Yield how far the fleet is, every `poll_s`, until it is as it should be, or stuck.

    It is stuck when two looks, one after the other, say so.

    Args:
        listed: Asks for the instances, such as `Client.instances`.
        fleet: What was applied.
        silent_nodes: Asks for the nodes that are listed and do not answer, if it matters.
        sleep: Waits for so many seconds.
        poll_s: Between two looks.
    """
    progress = _looked(listed, fleet, silent_nodes)
    yield progress
    was_stuck = False
    while not (progress.is_done or (progress.is_stuck and was_stuck)):
        was_stuck = progress.is_stuck  # what has just been applied may have it tried again
        sleep(poll_s)
        progress = _looked(listed, fleet, silent_nodes)
        yield progress


def _looked(
    listed: Callable[[], Iterable[Details]],
    fleet: Fleet,
    silent_nodes: Callable[[], Collection[str]],
) -> Progress:
    instances = tuple(listed())
    progress = progress_of(fleet, instances)
    return progress_of(fleet, instances, silent_nodes()) if progress.n_surplus else progress


def progress_of(
    fleet: Fleet, instances: Iterable[Details], silent_nodes: Collection[str] = ()
) -> Progress:
    """Return how far the fleet is; what is too much goes from silent nodes first."""
    wanted = {pool.name: pool.count for pool in fleet.pools}
    digests = {pool.name: workload_digest(pool.workload) for pool in fleet.pools}
    usable = {node.name for node in fleet.nodes if not node.is_cordoned}
    there: Counter[str] = Counter()
    ready: Counter[str] = Counter()
    unheard: Counter[str] = Counter()
    silent: set[str] = set()
    n_failed = 0
    given_up: list[Details] = []
    for instance in instances:
        there[instance.pool] += 1
        if instance.node in silent_nodes:
            unheard[instance.pool] += 1
            silent.add(instance.node)
        n_failed += instance.phase is Phase.FAILED
        if instance.workload != digests.get(instance.pool):
            continue  # it will be replaced, and how the former one fared does not matter
        if _is_given_up(instance):
            given_up.append(instance)
        ready[instance.pool] += instance.node in usable and instance.phase is Phase.RUNNING
    surplus = there - Counter(wanted)
    n_held_up = (surplus & unheard).total()
    return Progress(
        n_wanted=sum(wanted.values()),
        n_ready=sum(min(ready[pool], count) for pool, count in wanted.items()),
        n_failed=n_failed,
        n_surplus=surplus.total() - n_held_up,
        n_given_up=len(given_up),
        faults=tuple(f"{one.id}: {one.fault}" for one in given_up[:N_SHOWN_FAULTS]),
        n_held_up=n_held_up,
        silent=tuple(sorted(silent)) if n_held_up else (),
    )


def _once_heard(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - N_SHOWN_NODES:,} more" if len(nodes) > N_SHOWN_NODES else ""
    return f"to be removed once heard of {', '.join(nodes[:N_SHOWN_NODES])}{more}"


def _is_given_up(instance: Details) -> bool:
    if instance.phase is not Phase.FAILED or not instance.n_failures:
        return False
    return not instance.retry_at_s or instance.retry_at_s - instance.since_s >= GIVEN_UP_S
