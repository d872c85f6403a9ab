"""What passes do about changes that the store refuses again and again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from provisioning.controller import INTERVAL_S
from provisioning.store.base import Change, Done, Put, Refusal, Term
from provisioning.store.memory import MemoryStore
from tests.provisioning.making import fleet, pool
from tests.provisioning.scene import Stage, provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run

TAKEN = Done(refusal=Refusal.PORT_TAKEN)


class Taken:
    """Refuses so many new records, as their port is claimed by what nobody knows."""

    def __init__(self, stage: Stage, *, times: int) -> None:
        self._store = MemoryStore(stage.backend)
        self._left = times
        self.n_refused = 0

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[Done, ...]:
        if self._left and any(isinstance(change, Put) for change in changes):
            self._left -= 1
            self.n_refused += 1
            return (TAKEN,) * len(changes)
        return await self._store.commit(changes, term=term)


def test_what_is_refused_for_good_is_tried_at_the_usual_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each try loads the whole store before."""

    async def scene() -> None:
        async with provisioner(fleet(pool(1))) as stage:
            taken = Taken(stage, times=10_000)
            monkeypatch.setattr(stage.store, "commit", taken.commit)

            await VirtualClock().sleep(100 * INTERVAL_S)

            assert 90 < taken.n_refused <= 102
            assert stage.counters.n_passes <= 102

    virtual_run(scene())


def test_what_is_refused_once_is_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(1))) as stage:
            taken = Taken(stage, times=1)
            monkeypatch.setattr(stage.store, "commit", taken.commit)

            await stage.until(lambda: stage.instances, within_s=INTERVAL_S / 2)

            assert 1 == taken.n_refused

    virtual_run(scene())
