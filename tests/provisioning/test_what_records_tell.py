"""What a record tells of its instance to whoever has seen nothing before: how it is found, and what
happened to it.
"""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from provisioning.api.inventory import InventoryBuilder
from provisioning.errors import TransientError
from provisioning.lifecycle import MAX_EVENTS
from provisioning.model import ContainerSpec, Instance, Limits, Phase, Rotation
from provisioning.store.base import decode, encode
from tests.provisioning.making import CHAT, fleet, node, pool
from tests.provisioning.scene import Stage, provisioner
from tests.provisioning.store.examples import rich_instance
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import Behaviour, SimulatedRuntime

SLOW = Rotation(every_s=0.0, drain_s=120.0)
NODES = (
    node("n1", address="127.0.0.1", labels=(("rack", "r1"),)),
    node("n2", address="127.0.0.2", labels=(("rack", "r2"),)),
)


# How it is found


def test_a_record_is_read_as_it_was_written() -> None:
    one = rich_instance()

    assert one == decode(encode(one), source="x")


def test_a_record_of_a_later_release_is_read() -> None:
    body = {**json.loads(encode(rich_instance())), "colour": "red"}

    assert rich_instance() == decode(json.dumps(body).encode(), source="x")


async def listed(stage: Stage) -> dict[str, tuple[str, str, str, str]]:
    """Return model, engine, URL and rack of each instance, as a fresh InventoryBuilder has them."""
    rows = InventoryBuilder().inventory_of(await stage.store.load()).rows
    return {
        id_: (row.details.model, row.details.engine, row.details.url, row.details.labels["rack"])
        for id_, row in rows.items()
    }


def test_who_takes_over_in_a_roll_out_lists_everything_as_it_was() -> None:
    """Another model for all, while one node has left; half of them have not been replaced yet."""
    before = pool(8, rotation=SLOW)
    after = pool(8, rotation=SLOW, workload=replace(CHAT, model="llama4", engine="llamacpp"))

    async def scene() -> None:
        async with provisioner(fleet(before, nodes=NODES)) as first:
            await first.until(first.is_whole)
            was = await listed(first)
            assert {"r1", "r2"} == {rack for *_, rack in was.values()}
            limits = Limits(unavailable_ratio=0.5)
            await first.put_spec(fleet(after, nodes=NODES[:1], limits=limits))
            await first.until(lambda: any(one.phase is Phase.DRAINING for one in first.instances))
            await first.stop()

            async with provisioner(
                None, world=first.world, backend=first.backend, name="two"
            ) as second:
                assert was == await listed(second)
                await second.until(lambda: {1, 2} == {one.generation for one in second.instances})
                now = await listed(second)
                for one in second.instances:
                    expected = was[one.id] if one.generation == 1 else found_by_now(one)
                    assert expected == now[one.id]

    def found_by_now(one: Instance) -> tuple[str, str, str, str]:
        return "llama4", "llamacpp", f"http://127.0.0.1:{one.port}", "r1"

    virtual_run(scene())


# What happened to it


def lines(stage: Stage, what: str) -> list[str]:
    """Return the details of such events in the first instance's history."""
    history = stage.instances[0].history if stage.instances else ()
    return [event.detail for event in history if event.what == what]


def test_a_stop_that_fails_is_told_with_why_and_how_often_it_was_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stuck(SimulatedRuntime):
        async def remove(self, name: str, *, grace_s: float) -> None:
            raise TransientError("it is busy")

    async def scene() -> None:
        async with provisioner(fleet(pool(1))) as stage:
            await stage.until(stage.is_whole)
            stage.world.kill(stage.instances[0].container)
            await stage.until(lambda: lines(stage, "stop_failed"))
            assert ["after 3 tries: it is busy"] == lines(stage, "stop_failed")
            assert ["its container has exited, status -9 (SIGKILL)"] == lines(stage, "exited")

            await VirtualClock().sleep(3600.0)
            (line,) = lines(stage, "stop_failed")
            assert 3 * MAX_EVENTS < int(line.split()[1])
            assert ["placed", "started", "exited", "stop_failed"] == [
                event.what for event in stage.instances[0].history
            ]

    monkeypatch.setattr("tests.provisioning.scene.SimulatedRuntime", Stuck)
    virtual_run(scene())


def test_a_crash_is_told_and_that_it_waits_after_several() -> None:
    behaviour = Behaviour(start_s=0.1, ends_after_s=5.0, exit_status=3)

    async def scene() -> None:
        async with provisioner(fleet(pool(1)), behaviour=behaviour) as stage:
            await stage.until(lambda: "crash 3" in "".join(lines(stage, "exited")))

            assert [
                "its container has exited, status 3",
                "crash 2 within an hour, again in 1.0 s: its container has exited, status 3",
                "crash 3 within an hour, again in 4.0 s: its container has exited, status 3",
            ] == lines(stage, "exited")
            assert Phase.FAILED is stage.instances[0].phase
            assert "its container has exited, status 3" == stage.instances[0].fault

    virtual_run(scene())


def test_a_start_that_is_given_up_is_told_with_why_and_after_how_many_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(SimulatedRuntime):
        async def start(self, container: ContainerSpec) -> None:
            raise TransientError("it is broken")

    async def scene() -> None:
        async with provisioner(fleet(pool(1))) as stage:
            await stage.until(lambda: lines(stage, "failed"))

            assert ["given up on n1 after 3 tries, again in 600.0 s: it is broken"] == lines(
                stage, "failed"
            )

    monkeypatch.setattr("tests.provisioning.scene.SimulatedRuntime", Broken)
    virtual_run(scene())


def test_what_ends_while_it_drains_says_how() -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(1, rotation=SLOW))) as stage:
            await stage.until(stage.is_whole)
            changed = pool(1, rotation=SLOW, workload=replace(CHAT, model="llama4"))
            await stage.put_spec(fleet(changed))
            await stage.until(lambda: stage.instances[0].phase is Phase.DRAINING)
            stage.world.kill(stage.instances[0].container, is_out_of_memory=True)
            await stage.until(stage.is_whole, within_s=60.0)

            first, second, *_ = lines(stage, "changed")
            assert ("", "its container has exited, status -9 (SIGKILL); it ran out of memory") == (
                first,
                second,
            )

    virtual_run(scene())
