"""Know which instances exist: read all sources, keep the last good list of each."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import InputError, SourceError
from exporter.inventory.entries import targets_of
from exporter.inventory.formats import Format, records
from exporter.inventory.merge import (
    NO_CHANGE,
    WHOLE,
    Change,
    Listed,
    Shard,
    merge,
    repeated_urls,
    resolve,
)
from exporter.inventory.source import Source
from exporter.model import Target
from exporter.steps import with_pauses
from ollama_fleet.clock import Clock, SystemClock
from ollama_fleet.problems import MAX_PROBLEMS, Problem

log = logging.getLogger("exporter.inventory")

MAX_SUMMARISED = 3


@dataclass(frozen=True, slots=True)
class SourceState:
    """How one source is doing."""

    source: str
    """Path or URL."""
    last_success_s: float
    """When its content was last known good and active, in seconds since 1970; 0 if never."""
    last_reload_successful: bool
    n_instances: int
    """In its last good list, before sharding."""
    last_error: str
    """Empty when the last reading went well."""


class SourceListing:
    """What the inventory knows of one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.active: Listed = ()
        self.was_active = False
        """Whether a list of this source was active before the new one."""
        self.new: Listed | None = None
        """Parsed, but not active: not decided on yet, or refused for ids that others have."""
        self._unparsed: bytes | None = None
        # Not the errors themselves: their tracebacks would keep whole bodies in memory.
        self._read_problems: tuple[Problem, ...] = ()
        self._is_away = False
        self._content_problems: tuple[Problem, ...] = ()
        self._last_success_s = 0.0
        self._logged = ""

    @property
    def has_new(self) -> bool:
        """Return whether a new list waits that no one has looked at."""
        return self.new is not None and not self._content_problems

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return all that went wrong with the last reading."""
        return self._read_problems or self._content_problems

    @property
    def forbids_start(self) -> bool:
        """Return whether the exporter must not start like this."""
        return bool(self.problems) and not (self._is_away and self.source.may_be_absent)

    @property
    def state(self) -> SourceState:
        """Return how the source is doing now."""
        return SourceState(
            source=self.source.name,
            last_success_s=self._last_success_s,
            last_reload_successful=not self.problems,
            n_instances=len(self.active),
            last_error=_summary(self.problems),
        )

    async def read(self) -> None:
        """Ask the source; when there is something new, parse it without stalling the loop."""
        try:
            body = await self.source.read()
        except InputError as error:
            self._read_problems, self._is_away = error.problems, False
            return
        except Exception as error:  # noqa: BLE001 - the exporter keeps the last good list
            self._read_problems, self._is_away = (self._problem(error),), True
            return
        self._read_problems, self._is_away = (), False
        # Kept until it is parsed: the source gives it only once, and parsing may be cancelled.
        self._unparsed = self._unparsed if body is None else body
        if self._unparsed is not None:
            await self._parse(self._unparsed)

    async def _parse(self, body: bytes) -> None:
        try:
            self.new = await asyncio.to_thread(_parse, body, self.source.name, self.source.form)
            self._content_problems = ()
        except InputError as error:
            self.new, self._content_problems = None, error.problems
        except Exception as error:  # noqa: BLE001 - as above
            # It is tried again at the next reading: memory may have been short.
            self.new, self._content_problems = None, (self._problem(error),)
            return
        self._unparsed = None

    def _problem(self, error: Exception) -> Problem:
        is_foreseen = isinstance(error, SourceError)
        return Problem(self.source.name, str(error) if is_foreseen else _bug(error))

    def inherit(self, before: SourceListing) -> None:
        """Continue with what was known of the same source."""
        self.active, self.was_active = before.active, before.was_active
        self._last_success_s, self._logged = before._last_success_s, before._logged

    def activate(self) -> None:
        """Activate the new list."""
        if self.new is not None:
            self.active, self.new = self.new, None
            self.was_active = True
            self._content_problems = ()

    def reject(self, problems: Sequence[Problem]) -> None:
        """Keep the active list; the new one is tried again when another source changes."""
        self._content_problems = tuple(problems)

    def finish_round(self, now_s: float) -> None:
        """End a round: note the success, if it is one."""
        if not self.problems:
            self._last_success_s = now_s

    def report(self) -> None:
        """Log a failure that is not the one logged last, or that it is over."""
        error = _summary(self.problems)
        n_instances = len(self.active)
        if error and error != self._logged:
            kept = "last list kept" if self.was_active else "no list yet"
            log.error("inventory source fails, %s instances=%d: %s", kept, n_instances, error)
        elif self._logged and not error:
            name = self.source.name
            log.info("inventory source works again source=%s instances=%d", name, n_instances)
        self._logged = error


def _parse(body: bytes, source: str, form: Format) -> Listed:
    return targets_of(with_pauses(records(body, source, form)), source)


def _bug(error: Exception) -> str:
    """Return where an error came up. Its own text may repeat a secret, and stays out."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"a bug: {type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"


def _summary(problems: Sequence[Problem]) -> str:
    """Return the problems on one line, the first few of them in full."""
    first = "; ".join(str(problem) for problem in problems[:MAX_SUMMARISED])
    rest = len(problems) - MAX_SUMMARISED
    least = "at least " if len(problems) == MAX_PROBLEMS else ""
    return f"{first}; and {least}{rest:,} more" if rest > 0 else first


class Inventory:
    """The fleet as its sources describe it, or one shard of it."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        shard: Shard = WHOLE,
        clock: Clock | None = None,
    ) -> None:
        self._listings = [SourceListing(source) for source in sources]
        self._shard = shard
        self._clock = clock or SystemClock()
        self._targets: Listed = ()
        self._counted_twice: Sequence[tuple[str, str]] = ()
        self._one_at_a_time = asyncio.Lock()

    @property
    def targets(self) -> tuple[Target, ...]:
        """Return the active instances, sorted by id."""
        return self._targets

    @property
    def states(self) -> tuple[SourceState, ...]:
        """Return how each source is doing, in the order in which they were given."""
        return tuple(listing.state for listing in self._listings)

    def successor(self, sources: Sequence[Source]) -> Inventory:
        """Return an inventory of these sources, to be loaded, which keeps the lists it knows."""
        heir = Inventory(sources, shard=self._shard, clock=self._clock)
        heir._targets, heir._counted_twice = self._targets, self._counted_twice
        known = {listing.source.name: listing for listing in self._listings}
        for listing in heir._listings:
            if before := known.get(listing.source.name):
                listing.inherit(before)
        return heir

    async def load(self, *, is_check: bool = False) -> Change:
        """Read all sources for the first time; return what differs from the predecessor.

        A URL that cannot be read leaves its part as it was, or empty, with a line in the log: the
        exporter has to start while the provisioner is down. A check says it in its own words.

        Raises:
            InputError: Every problem of every source: files that are missing, entries that are
                bad, ids that stand twice.
        """
        async with self._one_at_a_time:
            await self._read()
            change = await self._apply_new(is_first=True)
            if problems := self._problems_at_start():
                raise InputError("inventory", problems)
            self._finish_round(logs=not is_check)
            return change

    async def refresh(self) -> Change:
        """Read all sources again and return what has changed; false when nothing has."""
        async with self._one_at_a_time:
            await self._read()
            change = await self._apply_new()
            self._finish_round()
            return change

    async def close(self) -> None:
        """Close all sources."""
        for listing in self._listings:
            await listing.source.close()

    async def _read(self) -> None:
        async with asyncio.TaskGroup() as group:
            for listing in self._listings:
                group.create_task(listing.read())

    async def _apply_new(self, *, is_first: bool = False) -> Change:
        """Activate the new lists that do not conflict."""
        if not is_first and not any(listing.has_new for listing in self._listings):
            return NO_CHANGE
        active = [listing.active for listing in self._listings]
        new = {i: item.new for i, item in enumerate(self._listings) if item.new is not None}
        resolution = await asyncio.to_thread(resolve, active, new)
        lists = [new[i] if i in resolution.taken else old for i, old in enumerate(active)]
        first = [i for i in resolution.taken if not self._listings[i].was_active]
        merged = await asyncio.to_thread(merge, self._targets, lists, self._shard, first)
        counted_twice = (
            await asyncio.to_thread(repeated_urls, lists) if merged[1] else self._counted_twice
        )
        # From here to the end nothing waits: a cancelled refresh has changed all or nothing.
        for index in resolution.taken:
            self._listings[index].activate()
        for index, problems in resolution.refused.items():
            self._listings[index].reject(problems)
        self._targets, change = merged
        self._warn_of(counted_twice)
        return change

    def _warn_of(self, counted_twice: Sequence[tuple[str, str]]) -> None:
        """Log which instances have two ids, if others than before."""
        if counted_twice and counted_twice != self._counted_twice:
            first = ", ".join("{} and {}".format(*ids) for ids in counted_twice[:MAX_SUMMARISED])
            log.warning(
                "one URL under two ids is counted twice n=%d ids=%s", len(counted_twice), first
            )
        self._counted_twice = counted_twice

    def _problems_at_start(self) -> list[Problem]:
        refusing = (listing for listing in self._listings if listing.forbids_start)
        return [problem for listing in refusing for problem in listing.problems]

    def _finish_round(self, *, logs: bool = True) -> None:
        now_s = self._clock.unix_s()
        for listing in self._listings:
            listing.finish_round(now_s)
            if logs:
                listing.report()

    def _described(self, state: SourceState) -> str:
        age_s = self._clock.unix_s() - state.last_success_s
        age = f"good {age_s:.0f} s ago" if state.last_success_s else "never read"
        error = f", failing: {state.last_error}" if state.last_error else ""
        return f"{state.source}: {state.n_instances:,}, {age}{error}"
