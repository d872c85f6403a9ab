"""The wall clock is set while a fleet runs: nothing is restarted for that, and all goes on."""

from __future__ import annotations

import pytest

from provisioning.model import Phase, Rotation
from tests.provisioning.making import GIB, fleet, node, pool
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run

MONTH_S = 30 * 86_400.0
NODES = [node(name, cpus=100.0, memory_bytes=100 * GIB) for name in ("n1", "n2")]


@pytest.fixture
def shifts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """By how much the wall clock has been set; the last one counts."""
    shifts = [0.0]

    class Shifted(VirtualClock):
        def unix_s(self) -> float:
            return super().unix_s() + shifts[-1]

    monkeypatch.setattr("tests.provisioning.scene.VirtualClock", Shifted)
    return shifts


@pytest.mark.parametrize("jump_s", [MONTH_S, -MONTH_S])
def test_nothing_is_restarted(shifts: list[float], jump_s: float) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(20), nodes=NODES)) as stage:
            await stage.until(stage.is_whole)
            await VirtualClock().sleep(600.0)
            shifts.append(jump_s)
            await VirtualClock().sleep(3600.0)

            assert {1} == {one.generation for one in stage.instances}
            assert {Phase.RUNNING} == {one.phase for one in stage.instances}

    virtual_run(scene())


@pytest.mark.parametrize("jumps_s", [(MONTH_S,), (-MONTH_S,), (-MONTH_S, 0.0), (MONTH_S, 0.0)])
def test_what_the_clock_leaves_out_makes_nobody_due(
    shifts: list[float], jumps_s: tuple[float, ...]
) -> None:
    async def scene() -> None:
        rotating = pool(4, rotation=Rotation(every_s=1800.0, drain_s=1.0))
        async with provisioner(fleet(rotating, nodes=NODES)) as stage:
            await stage.until(stage.is_whole)
            for jump_s in jumps_s:
                shifts.append(jump_s)
                await VirtualClock().sleep(400.0)
            assert {1} == {one.generation for one in stage.instances}

            shifts.append(0.0)  # now all but what was left out counts
            await stage.until(
                lambda: min(one.generation for one in stage.instances) > 1, within_s=1800.0
            )

    virtual_run(scene())


@pytest.mark.parametrize("jump_s", [MONTH_S, -MONTH_S])
def test_what_is_under_way_goes_on(shifts: list[float], jump_s: float) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(4), nodes=NODES)) as stage:
            await stage.until(stage.is_whole)
            stage.world.kill(stage.instances[0].container)
            shifts.append(jump_s)
            await stage.until(lambda: stage.instances[0].generation == 2, within_s=10.0)
            await stage.until(stage.is_whole, within_s=60.0)
            for _ in range(3):
                await stage.until(stage.is_whole, within_s=400.0)
                stage.world.kill(stage.instances[0].container)
                await VirtualClock().sleep(6.0)
            shifts.append(0.0)
            await stage.until(stage.is_whole, within_s=700.0)

            assert {1} == {one.generation for one in stage.instances[1:]}

    virtual_run(scene())


def test_who_takes_over_from_a_clock_that_was_ahead_goes_on(shifts: list[float]) -> None:
    """The records are a month ahead: a silent node has its grace, and an end is seen."""
    shifts.append(MONTH_S)

    async def scene() -> None:
        async with provisioner(fleet(pool(4), nodes=NODES)) as first:
            await first.until(first.is_whole)
            await first.stop()
        shifts.append(0.0)
        first.world.silence("n2")
        async with provisioner(
            None, world=first.world, backend=first.backend, name="two"
        ) as second:
            await VirtualClock().sleep(60.0)
            assert {1} == {one.generation for one in second.instances}

            second.world.restore("n2")
            second.world.kill(second.instances[0].container)
            await second.until(lambda: second.instances[0].generation == 2, within_s=10.0)

    virtual_run(scene())
