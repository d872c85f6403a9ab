"""Read one inventory from whichever of several servers answers.

In:   URLs of servers that say the same, such as the provisioners of one fleet.
Out:  the body, only when it differs from the one given last, whoever gave that.
Fails with SourceError when none of them answers, and tells each one's reason.
One is asked as long as it answers with a list that is not old. Otherwise the next ones are, and the
log says who took over: a provisioner that lost its store goes on with what it knew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from exporter.errors import SourceError
from exporter.inventory.formats import Format
from exporter.inventory.http_source import HttpSource
from exporter.inventory.sources import SourceSettings, public_names

log = logging.getLogger("exporter.inventory")

OLD_AFTER_S = 30.0
"""From then on other servers are asked as well, and one is taken if its list is fresher by as much.
A provisioner that follows its store says 0."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one server said."""

    index: int
    body: bytes | None
    """None: it is the one that was given last."""
    age_s: float


class AlternativesSource:
    """Several URLs that answer with one list."""

    may_be_absent = True
    form = Format.HTTP

    def __init__(self, urls: Sequence[str], name: str, settings: SourceSettings) -> None:
        self.name = name
        # All of them together may take as long as one: a server that hangs holds up nobody.
        share = replace(settings, timeout_s=settings.timeout_s / len(urls))
        names = public_names(urls)
        self._sources = [HttpSource(*pair, share) for pair in zip(urls, names, strict=True)]
        self._current = 0
        self._digest = b""
        """Of the body that was given last."""

    def __repr__(self) -> str:
        return f"<AlternativesSource: {self.name}, now {self._sources[self._current].name}>"

    async def read(self) -> bytes | None:
        """Return the body, or None when it has not changed since the last time.

        Raises:
            SourceError: None of the servers can be read.
            InputError: The token file or the certificate file, which they share, cannot be used.
        """
        faults: dict[int, str] = {}
        answers: list[_Answer] = []
        for index in self._order():
            try:
                answers.append(await self._answer(index))
            except SourceError as error:
                faults[index] = str(error)
            else:
                if answers[-1].age_s <= OLD_AFTER_S:
                    break
        if not answers:
            seen = (f"{self._sources[index].name}: {fault}" for index, fault in faults.items())
            raise SourceError(f"none of its servers can be read: {'; '.join(seen)}")
        return self._taken(_best(answers), faults)

    async def close(self) -> None:
        """Close the connections."""
        for source in self._sources:
            await source.close()

    def _order(self) -> Iterator[int]:
        """Yield the server that was taken last, then those after it, round to those before it."""
        n = len(self._sources)
        return ((self._current + step) % n for step in range(n))

    async def _answer(self, index: int) -> _Answer:
        source = self._sources[index]
        if source.digest != self._digest:
            # "Unchanged" from it would be about another list than the one that was given last.
            source.forget()
        body = await source.read()
        return _Answer(index, None if source.digest == self._digest else body, source.age_s)

    def _taken(self, answer: _Answer, faults: dict[int, str]) -> bytes | None:
        if answer.index != self._current:
            old = self._sources[self._current]
            reason = faults.get(self._current, f"its list is {old.age_s:.0f} s old")
            new = self._sources[answer.index].name
            log.warning("inventory comes from %s now, not from %s: %s", new, old.name, reason)
        self._current = answer.index
        self._digest = self._sources[answer.index].digest
        return answer.body


def _best(answers: Sequence[_Answer]) -> _Answer:
    """Return the first answer unless another is fresher by far.

    While the store is away from all servers their lists age alike; then nobody takes over.
    """
    freshest = min(answers, key=lambda answer: answer.age_s)
    is_behind = answers[0].age_s - freshest.age_s > OLD_AFTER_S
    return freshest if is_behind else answers[0]
