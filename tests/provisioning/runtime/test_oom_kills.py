"""Whether the kernel's kills are told while a container runs, and what an end is blamed on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from provisioning.model import ContainerState, ObservedContainer
from provisioning.runtime.oom_kills import DYING_S, OomKills
from tests.provisioning.virtual import VirtualClock, virtual_run

RUNNING = ObservedContainer("a.1", "a", 1, ContainerState.RUNNING)
EXITED = replace(RUNNING, state=ContainerState.EXITED)
Look = tuple[float, ObservedContainer, int | None]


def told(*looks: Look, is_ours: bool = True) -> list[bool]:
    """Return whether each look, so long after the one before, tells of a kill."""

    async def scene() -> list[bool]:
        kills, seen = OomKills(VirtualClock()), []
        if is_ours:
            kills.begin(RUNNING.name)
        for wait_s, container, n_kills in looks:
            await VirtualClock().sleep(wait_s)
            seen.append(kills.judged(container, n_kills).is_out_of_memory)
        return seen

    return virtual_run(scene())


def test_a_kill_is_told_while_the_container_runs() -> None:
    assert [False, True, True] == told((1, RUNNING, 0), (1, RUNNING, 1), (60, RUNNING, 1))


def test_kills_from_before_a_container_was_adopted_are_not_told() -> None:
    looks: tuple[Look, ...] = ((1, RUNNING, 3), (1, RUNNING, 3), (60, EXITED, 3))

    assert [False, False, False] == told(*looks, is_ours=False)
    assert [False, True] == told((1, RUNNING, 3), (1, RUNNING, 4), is_ours=False)


def test_a_container_that_is_adopted_while_it_dies_of_a_kill_has_ended_of_it() -> None:
    assert [False, True] == told((1, RUNNING, 1), (0.1, EXITED, 1), is_ours=False)
    assert [False, False] == told((1, RUNNING, 0), (0.1, EXITED, 0), is_ours=False)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        (((1, RUNNING, 0), (1, EXITED, 1)), True),
        (((1, RUNNING, 1), (0.1, EXITED, 1)), True),  # it was dying when it was seen to run
        (((1, RUNNING, 1), (DYING_S, EXITED, 1)), False),
        (((1, RUNNING, 1), (DYING_S, EXITED, 2)), True),
        (((1, RUNNING, 0), (1, EXITED, 0)), False),
        (((1, EXITED, 1),), True),
    ],
)
def test_an_end_is_blamed_on_the_kill_that_ended_the_container_and_on_none_before(
    looks: tuple[Look, ...], expected: bool
) -> None:
    assert expected == told(*looks)[-1]


def test_what_an_end_is_blamed_on_stays() -> None:
    assert [True, True] == told((1, EXITED, 1), (2 * DYING_S, EXITED, None), is_ours=False)
    assert [False, False, True] == told((1, RUNNING, 0), (1, EXITED, 0), (1, RUNNING, 1))
