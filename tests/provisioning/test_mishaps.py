"""What the log says of instances that fare badly."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from provisioning.actions import Drain, Illness, Observed, Stop
from provisioning.errors import LastingError
from provisioning.lifecycle import Ended, Kind, Operation, Outcome, Result
from provisioning.model import Limits, Reason, Unit
from provisioning.report import MAX_FAULT, Mishaps
from provisioning.runtime.simulator import SimulatedRuntime
from tests.provisioning.making import (
    NOW_S,
    fleet,
    instance,
    observed,
    pool,
    report,
    silent,
)
from tests.provisioning.scene import provisioner
from tests.provisioning.virtual import VirtualClock, virtual_run


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings that were logged of instances."""
    return [
        one.getMessage()
        for one in caplog.records
        if (one.name, one.levelname) == ("provisioning.report", "WARNING")
    ]


def failures(*numbers: int, result: Result = Result.LASTING, fault: str = "no image") -> Ended:
    """Return starts that have ended with a fault."""
    return tuple(
        (
            Operation(Kind.START, "n1", f"chat-{number:05}.1", f"chat-{number:05}", 1),
            Outcome(result, fault),
        )
        for number in numbers
    )


def test_a_failed_operation_is_told_with_its_instance_node_and_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        mishaps.tell(failures(1), (), {})
        mishaps.tell(failures(2, result=Result.FAILED, fault="not healthy in time"), (), {})
        mishaps.tell(failures(3, result=Result.DONE, fault=""), (), {})
        sweep = Operation(Kind.SWEEP, "n2", "chat-00009.4")
        mishaps.tell(((sweep, Outcome(Result.FAILED, "it hangs")),), (), {})

    virtual_run(scene())

    assert [
        "chat-00001 on n1: start failed for good: no image",
        "chat-00002 on n1: start failed: not healthy in time",
        "chat-00009.4 on n2: sweep failed: it hangs",
    ] == said(caplog)


@pytest.mark.parametrize(
    ("n", "n_lines", "end"),
    [(5, 5, "no image"), (6, 5, "no image (and 1 more)"), (1005, 5, "no image (and 1,000 more)")],
)
def test_the_first_few_of_a_pass_are_named_and_the_rest_counted(
    caplog: pytest.LogCaptureFixture, n: int, n_lines: int, end: str
) -> None:
    async def scene() -> None:
        Mishaps(VirtualClock()).tell(failures(*range(1, n + 1)), (), {})

    virtual_run(scene())

    assert n_lines == len(said(caplog))
    assert ["chat-00001", "chat-00005"] == [said(caplog)[place].split()[0] for place in (0, 4)]
    assert said(caplog)[-1].endswith(f"for good: {end}")
    assert 0 == sum("more" in line for line in said(caplog)[:-1])


def test_the_same_fault_of_the_same_instance_is_told_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        for _ in range(61):
            mishaps.tell(failures(1), (), {})
            await VirtualClock().sleep(1.0)

    virtual_run(scene())

    assert 2 == len(said(caplog))


def test_another_fault_and_another_instance_do_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        mishaps.tell(failures(1), (), {})
        mishaps.tell(failures(1, 2), (), {})
        mishaps.tell(failures(1, fault="no such command"), (), {})

    virtual_run(scene())

    assert ["chat-00001", "chat-00002", "chat-00001"] == [one.split()[0] for one in said(caplog)]


def test_what_came_twice_since_the_last_pass_is_one(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        Mishaps(VirtualClock()).tell(failures(1, 1, 2), (), {})

    virtual_run(scene())

    assert ["chat-00001", "chat-00002"] == [one.split()[0] for one in said(caplog)]


def test_those_that_were_told_just_now_are_not_among_the_first_few_nor_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        mishaps.tell(failures(*range(1, 8)), (), {})
        caplog.clear()
        mishaps.tell(failures(*range(1, 8)), (), {})

    virtual_run(scene())

    assert ["chat-00006", "chat-00007"] == [one.split()[0] for one in said(caplog)]


def test_an_exit_is_told_and_no_other_stop(caplog: pytest.LogCaptureFixture) -> None:
    stored = observed([instance(1), instance(2, node="n2")]).stored
    ending = "its unit has exited, status -9 (SIGKILL); it ran out of memory"

    async def scene() -> None:
        begun = (
            Stop("chat-00001", Reason.ROTATED, "its unit has exited, status 0"),
            Stop("chat-00002", Reason.EXITED, ending),
            Stop("chat-00001", Reason.EXITED),  # it goes on
            Stop("chat-00001", Reason.UNHEALTHY, "failed 3 health checks"),
            Drain("chat-00001", Reason.ROTATED),
        )
        Mishaps(VirtualClock()).tell((), begun, stored)

    virtual_run(scene())

    assert [f"chat-00002 on n2: {ending}"] == said(caplog)


def ill(*numbers: int, is_silent: bool = False) -> Observed:
    """Return what a pass sees of three instances, of which some are ill."""
    heard = silent("n1", for_s=9.0) if is_silent else report("n1")
    return observed(
        [instance(number) for number in (1, 2, 3)],
        [heard],
        ill={f"chat-{number:05}": NOW_S for number in numbers},
    )


def test_an_instance_is_told_when_it_becomes_unhealthy_and_not_while_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        for seen in (ill(), ill(1), ill(1, 2), ill(2), ill(1, 2)):
            mishaps.look(seen)
            mishaps.tell((), (), seen.stored)
            await VirtualClock().sleep(61.0)

    virtual_run(scene())

    assert [f"chat-{number:05} on n1: unhealthy, no answer" for number in (1, 2, 1)] == said(caplog)


def test_what_was_seen_in_a_pass_that_broke_off_is_told_by_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        mishaps.look(ill(1))
        mishaps.look(ill(1))
        for _ in range(2):
            await VirtualClock().sleep(61.0)
            mishaps.tell((), (), {})

    virtual_run(scene())

    assert 1 == len(said(caplog))


def test_what_came_and_went_while_passes_broke_off_is_told_once_with_its_newest_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As on a full disk, where all can be read and nothing begun, for days."""

    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        for n in range(100):
            one = ill(1)
            mishaps.look(replace(one, ill={"chat-00001": Illness(NOW_S, f"failed {n} times")}))
            mishaps.look(ill())
        mishaps.tell((), (), {})

    virtual_run(scene())

    assert ["chat-00001 on n1: unhealthy, failed 99 times"] == said(caplog)


def test_a_silent_nodes_instances_are_not_told_of_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        for is_silent in (True, True, False):
            mishaps.look(ill(1, is_silent=is_silent))
            mishaps.tell((), (), {})
            assert is_silent == (not said(caplog))

    virtual_run(scene())


def test_an_illness_without_a_record_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        mishaps = Mishaps(VirtualClock())
        mishaps.look(ill(4))
        mishaps.tell((), (), {})

    virtual_run(scene())

    assert [] == said(caplog)


def test_a_long_fault_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        Mishaps(VirtualClock()).tell(failures(1, fault="x" * 10_000), (), {})

    virtual_run(scene())

    assert MAX_FAULT < len(said(caplog)[0]) < MAX_FAULT + 50


def test_a_provisioner_tells_which_instance_crashed_and_which_is_ill(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(3))) as stage:
            await stage.until(stage.is_whole)
            stage.world.kill(stage.instances[0].unit, is_out_of_memory=True)
            stage.world.sicken(stage.instances[1].unit)
            await stage.until(lambda: stage.instances[1].generation == 2)
            await stage.until(stage.is_whole)

    virtual_run(scene())

    crash, illness = said(caplog)
    assert crash.startswith("chat-00001 on n1: its unit has exited, status -9 (SIGKILL); it ran")
    assert illness.startswith("chat-00002 on n1: unhealthy, failed 3 health checks in a row, last")


def test_a_pool_that_cannot_be_started_floods_no_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: SimulatedRuntime, unit: Unit) -> None:
        raise LastingError("the image is missing")

    monkeypatch.setattr(SimulatedRuntime, "start", refuse)

    async def scene() -> None:
        limits = Limits(operations_per_node=50, retry_failed_s=600.0)
        roomy = replace(fleet().nodes[0], cpus=100.0, memory_bytes=2**50)
        async with provisioner(fleet(pool(40), nodes=(roomy,), limits=limits)):
            await VirtualClock().sleep(300.0)

    virtual_run(scene())

    told = said(caplog)
    assert "chat-00001 on n1: start failed for good: the image is missing" == told[0]
    assert "(and 35 more)" in told[4]
    assert 5 == len(told)
