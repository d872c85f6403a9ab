"""Orphans: few are deleted; many, and newer ones, are kept until a person orders to delete them."""

from __future__ import annotations

import logging

import pytest

from provisioning.model import Instance, Rotation
from provisioning.state import DELETE_COMMAND
from provisioning.store.base import Put
from provisioning.store.memory import MemoryBackend
from tests.provisioning.making import (
    GIB,
    fleet,
    instance,
    node,
    pool,
)
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run

WIDE = node("n1", cpus=100.0, memory_bytes=1000 * GIB)
N2 = node("n2", cpus=100.0, memory_bytes=1000 * GIB)
NODES = (WIDE, N2)


def many(n: int, **fields: object) -> list[Instance]:
    return [instance(number, **fields) for number in range(1, n + 1)]


def test_an_order_to_delete_orphans_ends_with_the_term() -> None:
    """What was out of reach then may be needed by whoever leads next, on another store."""

    async def scene() -> None:
        async with provisioner(fleet(pool(8), nodes=NODES)) as first:
            await first.until(first.is_whole)
            await first.stop()
        async with provisioner(fleet(pool(0), nodes=NODES), world=first.world) as second:
            await second.until(lambda: 8 == len(second.controller.loop.orphans or ()))
            second.world.silence("n2")
            await VirtualClock().sleep(30.0)
            second.controller.loop.delete_orphans()
            await second.until(lambda: 4 == len(second.running_containers))

            session = second.backend.session
            assert session
            second.backend.end_term(session)
            await second.until(lambda: second.controller.term not in (None, session.term))
            second.world.restore("n2")
            await VirtualClock().sleep(60.0)

            assert 4 == len(second.running_containers)

    virtual_run(scene())


def test_orphans_are_not_known_before_each_node_was_asked() -> None:
    """A leader that has asked none of two, or one, does not say that there are none."""

    async def scene() -> None:
        clock = VirtualClock()
        backend = MemoryBackend()
        async with provisioner(None, backend=backend) as stage:
            await stage.until(lambda: stage.controller.term)
            await clock.sleep(30.0)
            assert (
                stage.controller.loop.orphans is None
            )  # without a specification there are no nodes

            stage.world.silence("n2")
            await stage.put_spec(fleet(pool(0), nodes=NODES))
            await stage.until(lambda: "n1" in stage.controller.loop.reports)
            assert stage.controller.loop.orphans is None
            await stage.until(lambda: stage.controller.loop.orphans == ())
            await stage.stop()
            assert stage.controller.loop.orphans is None

    virtual_run(scene())


def test_an_older_backup_ends_nobodys_instance_until_a_person_orders_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All have rotated since the backup."""
    n = 20
    slow = Rotation(every_s=3600.0, at_once=10, drain_s=10.0)
    wanted = fleet(pool(n, rotation=slow), nodes=NODES)

    async def scene() -> None:
        clock = VirtualClock()
        async with provisioner(wanted) as first:
            await first.until(first.is_whole)
            backup = dict(first.backend.stored)
            await clock.sleep(3900.0)
            await first.until(first.is_whole)
            await first.stop()
        before = set(map(first.world.held, first.running_containers))
        assert {2} == {one.generation for one in first.instances}

        restored = MemoryBackend()
        session = restored.begin_term("restore")
        restored.commit([Put(one.instance, 0) for one in backup.values()], session.term)
        restored.end_term(session)
        async with provisioner(wanted, world=first.world, backend=restored, name="two") as second:
            for _ in range(80):
                await clock.sleep(1.0)
                assert before == set(map(second.world.held, second.running_containers))
            assert n == len(second.controller.loop.orphans or ())

            second.controller.loop.delete_orphans()
            await second.until(second.is_whole)
            assert () == second.controller.loop.orphans
            assert before.isdisjoint(map(second.world.held, second.running_containers))

    with caplog.at_level(logging.WARNING):
        virtual_run(scene())
    assert f"orphans={n}: " in caplog.text
    assert f"`{DELETE_COMMAND}`" in caplog.text
