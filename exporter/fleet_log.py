"""Say in one line what was found of a fleet: after the first poll cycle, and as that changes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.instances import engine_of
from exporter.model import Outcome, Status
from exporter.status import NOT_EXPECTED
from exporter.steps import batched, run_in_steps
from ollama_fleet.tables import count_text

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from exporter.poller import Poller
    from exporter.snapshot import Row
    from ollama_fleet.clock import Clock


log = logging.getLogger("exporter")

MAX_KINDS = 6
"""Versions, and kinds of problems, that one line names; it counts the others."""
MAX_IDS = 3
MAX_CHARACTERS = 40
"""Of one id or version: a line stays below 2,000 characters."""
MUCH = 0.05
"""The problems have changed much when so much of the fleet has another one, or has one no more."""


@dataclass(slots=True)
class FleetSummary:
    """How many instances are healthy, and which servers; what is wrong with the others."""

    n_instances: int = 0
    n_healthy: int = 0
    servers: Counter[str] = field(default_factory=Counter)
    """Healthy instances by engine and version."""
    problems: Counter[str] = field(default_factory=Counter)
    """Other instances by outcome, or by status where that is the reason."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Of each problem the first ids."""

    def add(self, rows: Iterable[Row]) -> None:
        """Take in some rows."""
        for row in rows:
            self.n_instances += 1
            if row.status is Status.HEALTHY:
                self.n_healthy += 1
                self.servers[f"{engine_of(row)} {row.counters.version}".rstrip()] += 1
            else:
                self._add_problem(problem_of(row), row.target.id)

    def _add_problem(self, problem: str, instance_id: str) -> None:
        self.problems[problem] += 1
        examples = self.examples.setdefault(problem, [])
        if len(examples) < MAX_IDS:
            examples.append(instance_id)

    def servers_text(self) -> str:
        """Return the commonest servers: `41 ollama 0.23.0, 14 llamacpp`."""
        return ", ".join(_commonest(self.servers, {}))

    def problems_text(self) -> str:
        """Return the commonest problems, with examples: `5 refused (a, b, c, …)`."""
        return ", ".join(_commonest(self.problems, self.examples))

    def differs_much(self, before: FleetSummary) -> bool:
        """Return whether the problems are much other than before."""
        kinds = self.problems.keys() | before.problems.keys()
        n_moved = sum(abs(self.problems[kind] - before.problems[kind]) for kind in kinds)
        return n_moved >= max(1.0, MUCH * self.n_instances)

    def __str__(self) -> str:
        """Return all of it: `55 of 60 instances healthy: 41 ollama 0.23.0, …; 5 refused (…)`."""
        head = f"{self.n_healthy:,} of {count_text(self.n_instances, 'instance')} healthy"
        rest = "; ".join(filter(None, (self.servers_text(), self.problems_text())))
        return f"{head}: {rest}" if rest else head


def problem_of(row: Row) -> str:
    """Return why an instance is not healthy: its status where that says more than its poll."""
    if row.reading is None or row.status in NOT_EXPECTED:
        return row.status
    outcome = row.reading.verdict.outcome
    return row.status if outcome is Outcome.OK else outcome


def _commonest(counts: Counter[str], examples: Mapping[str, Sequence[str]]) -> list[str]:
    texts = [
        f"{n:,} {_clipped(kind)}{_examples(n, examples.get(kind, ()))}"
        for kind, n in counts.most_common(MAX_KINDS)
    ]
    n_rest = counts.total() - sum(n for _, n in counts.most_common(MAX_KINDS))
    return [*texts, f"{n_rest:,} other"] if n_rest else texts


def _examples(n: int, ids: Sequence[str]) -> str:
    more = ["…"] if n > len(ids) else []
    return f" ({', '.join([*map(_clipped, ids), *more])})" if ids else ""


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def summary_in_steps(rows: Sequence[Row]) -> Generator[None, None, FleetSummary]:
    """Sum up a fleet in steps of less than a millisecond."""
    summary = FleetSummary()
    for some in batched(rows):
        summary.add(some)
        yield
    return summary


async def log_fleet(poller: Poller, clock: Clock, window_s: float) -> None:
    """Log what the first poll cycle found; then once a window, if the problems differ much."""
    await poller.has_seen_all.wait()
    logged = None
    while True:
        rows, _ = await run_in_steps(poller.rows())
        summary, _ = await run_in_steps(summary_in_steps(rows))
        if logged is None or summary.differs_much(logged):
            log.info(
                "fleet polled healthy=%d instances=%d servers=%s problems=%s",
                summary.n_healthy,
                summary.n_instances,
                summary.servers_text() or "none",
                summary.problems_text() or "none",
            )
            logged = summary
        await clock.sleep(window_s)
