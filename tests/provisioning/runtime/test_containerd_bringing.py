"""One image for many: who brings it, who waits for it, and what becomes of both."""

from __future__ import annotations

import asyncio
import logging

import pytest

from provisioning.errors import PermanentError, TransientError
from provisioning.runtime.containerd.images import TRANSFER_LIMIT_S, Bringing, Image, ImageConfig
from provisioning.runtime.image_pulls import (
    IMPORTS_AT_ONCE,
    STALL_LIMIT_S,
    Turn,
    Turns,
)
from tests.provisioning.virtual import VirtualClock, virtual_run

IMAGE = Image("sha256:1", "sha256:layer", ImageConfig(), size_bytes=4_200_000)
NAME = "llm:1"


class Way:
    """A node and the way to it, on which an image takes its time."""

    def __init__(self, node: str = "n1", *, turns: Turns | None = None) -> None:
        self.took_s = 100.0
        self.unpacking_s = 0.0
        """Of the time that it takes: how long after all is sent."""
        self.stalled_s = 0.0
        """Before anything is sent."""
        self.faults: list[Exception] = []
        """How the next ones end; then they go well."""
        self.n_begun = 0
        self.image: Image | None = None
        self.bringing = Bringing(node, VirtualClock(), turns or Turns())

    async def ensure(self, *, is_import: bool = True) -> Image:
        return await self.bringing.bring(NAME, self._find, self._bring, is_import=is_import)

    async def waited_for_in_vain(self, within_s: float) -> list[str]:
        """Return what a caller that is cancelled after so long is told; nothing: it came."""
        try:
            async with asyncio.timeout(within_s):
                await self.ensure()
        except TimeoutError as late:
            return late.__cause__.__notes__ if late.__cause__ else []
        return []

    async def _find(self) -> Image | None:
        return self.image

    async def _bring(self, turn: Turn) -> Image:
        self.n_begun += 1
        await VirtualClock().sleep(self.stalled_s)
        left_s = self.took_s - self.stalled_s - self.unpacking_s
        while left_s > 0:
            turn.goes_on()
            await VirtualClock().sleep(min(left_s, STALL_LIMIT_S / 2))
            left_s -= STALL_LIMIT_S / 2
        turn.has_sent_all()
        await VirtualClock().sleep(self.unpacking_s)
        if self.faults:
            raise self.faults.pop(0)
        self.image = IMAGE
        return IMAGE


def test_an_image_that_takes_longer_than_every_start_comes_all_the_same() -> None:
    async def scene() -> tuple[list[bool], int, float]:
        way = Way()
        in_vain = [bool(await way.waited_for_in_vain(30.0)) for _ in range(4)]
        return in_vain, way.n_begun, VirtualClock().monotonic_s()

    assert ([True, True, True, False], 1, 100.0) == virtual_run(scene())


def test_who_waits_in_vain_is_told_for_what() -> None:
    async def scene() -> list[str]:
        way = Way()
        notes = await way.waited_for_in_vain(30.0)
        await way.bringing.close()
        return notes

    assert ["its image 'llm:1' is still being brought to n1"] == virtual_run(scene())


def test_all_who_want_an_image_share_one_transfer_and_how_it_ends() -> None:
    async def scene() -> tuple[list[str], list[Image], int]:
        way = Way()
        way.faults = [PermanentError("no such image")]
        failed = await asyncio.gather(*(way.ensure() for _ in range(3)), return_exceptions=True)
        brought = await asyncio.gather(*(way.ensure() for _ in range(3)))
        return [str(one) for one in failed], brought, way.n_begun

    assert (["no such image"] * 3, [IMAGE] * 3, 2) == virtual_run(scene())


def test_a_fault_that_nobody_waited_for_is_told_at_the_next_try_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> list[str]:
        way = Way()
        way.faults = [TransientError("the registry went away")]
        await way.waited_for_in_vain(30.0)
        await VirtualClock().sleep(100.0)
        notes = await way.waited_for_in_vain(30.0)
        await way.bringing.close()
        return notes

    (note,) = virtual_run(scene())

    assert note.endswith("to n1; the try before ended with: the registry went away")
    (warning,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    assert warning.getMessage().endswith("to n1 has failed: the registry went away")


def test_a_fault_is_forgotten_once_the_image_came() -> None:
    async def scene() -> list[str]:
        way = Way()
        way.faults = [TransientError("the registry went away")]
        await asyncio.gather(way.ensure(), return_exceptions=True)
        await way.ensure()
        way.image = None
        notes = await way.waited_for_in_vain(30.0)
        await way.bringing.close()
        return notes

    assert ["its image 'llm:1' is still being brought to n1"] == virtual_run(scene())


def test_what_never_ends_is_given_up_after_a_limit_of_its_own() -> None:
    async def scene() -> tuple[str, float]:
        way = Way()
        way.took_s = 1e6
        with pytest.raises(TransientError) as caught:
            await way.ensure()
        return str(caught.value), VirtualClock().monotonic_s()

    fault, took_s = virtual_run(scene())

    assert took_s == TRANSFER_LIMIT_S
    assert "'llm:1' was not brought to n1 within 3,600 s" in fault


def test_closing_ends_what_is_being_brought_and_those_who_wait_are_told() -> None:
    async def scene() -> tuple[str, int]:
        way = Way()
        waiting = asyncio.create_task(way.ensure())
        await VirtualClock().sleep(1.0)
        await way.bringing.close()
        (ending,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(ending, TransientError)
        return str(ending), len(asyncio.all_tasks())

    assert ("the image 'llm:1' is brought to n1 no more", 1) == virtual_run(scene())


def test_an_image_that_came_meanwhile_is_not_brought_again() -> None:
    async def scene() -> tuple[Image, int]:
        way = Way()
        way.image = IMAGE
        return await way.ensure(), way.n_begun

    assert (IMAGE, 0) == virtual_run(scene())


@pytest.mark.parametrize(("is_import", "expected_s"), [(True, 200.0), (False, 100.0)])
def test_imports_to_several_nodes_take_turns_and_pulls_need_not(
    is_import: bool, expected_s: float
) -> None:
    async def scene() -> float:
        turns = Turns(2)
        ways = [Way(f"n{number}", turns=turns) for number in range(4)]
        await asyncio.gather(*(way.ensure(is_import=is_import) for way in ways))
        return VirtualClock().monotonic_s()

    assert expected_s == virtual_run(scene())


def test_the_limit_does_not_count_while_others_have_their_turn() -> None:
    async def scene() -> float:
        turns = Turns(1)
        ways = [Way(f"n{number}", turns=turns) for number in range(3)]
        for way in ways:
            way.took_s = TRANSFER_LIMIT_S - 1.0
        await asyncio.gather(*(way.ensure() for way in ways))
        return VirtualClock().monotonic_s()

    assert 3 * (TRANSFER_LIMIT_S - 1.0) == virtual_run(scene())


def hung(n: int, turns: Turns) -> list[Way]:
    """Return nodes whose containerd takes nothing, and answers otherwise."""
    ways = [Way(f"hung{number}", turns=turns) for number in range(n)]
    for way in ways:
        way.took_s = way.stalled_s = 1e6
    return ways


def test_imports_that_send_nothing_give_their_turns_to_others_and_say_so() -> None:
    """Sixteen nodes hang on their disks; the seventeenth is well."""

    async def scene() -> tuple[list[BaseException | Image], float]:
        turns = Turns()
        ways = [*hung(IMPORTS_AT_ONCE, turns), Way("n17", turns=turns)]
        endings = await asyncio.gather(*(way.ensure() for way in ways), return_exceptions=True)
        return endings, VirtualClock().monotonic_s()

    (*failed, brought), took_s = virtual_run(scene())

    assert (IMAGE, STALL_LIMIT_S + 100.0) == (brought, took_s)
    assert {TransientError} == {type(one) for one in failed}
    assert str(failed[0]).startswith(
        "the image 'llm:1' was not brought to hung0: nothing of it could be sent for 300 s; see "
    )


def test_who_waits_for_a_turn_is_told_so_and_how_many_come_first() -> None:
    async def scene() -> list[list[str]]:
        turns = Turns()
        first, second = Way("n17", turns=turns), Way("n18", turns=turns)
        ways = [*hung(IMPORTS_AT_ONCE, turns), first, second]
        notes = await asyncio.gather(*(way.waited_for_in_vain(30.0) for way in ways))
        await VirtualClock().sleep(STALL_LIMIT_S)
        notes.append(await first.waited_for_in_vain(30.0))
        await asyncio.gather(*(way.bringing.close() for way in ways))
        return notes[-4:]

    assert [
        ["its image 'llm:1' is still being brought to hung15"],
        ["its image 'llm:1' waits for its turn to be brought to n17 (16 others come first)"],
        ["its image 'llm:1' waits for its turn to be brought to n18 (17 others come first)"],
        ["its image 'llm:1' is still being brought to n17"],
    ] == virtual_run(scene())


def test_who_waits_for_a_turn_and_is_closed_leaves_the_line() -> None:
    async def scene() -> tuple[list[Turn], float]:
        turns = Turns(1)
        first, second, third = (Way(f"n{number}", turns=turns) for number in range(3))
        starts = [asyncio.create_task(way.ensure()) for way in (first, second, third)]
        await VirtualClock().sleep(1.0)
        await second.bringing.close()
        await asyncio.gather(*starts, return_exceptions=True)
        return turns.line, VirtualClock().monotonic_s()

    assert ([], 200.0) == virtual_run(scene())


def test_an_image_that_is_sent_is_unpacked_for_long_and_others_have_their_turn_meanwhile() -> None:
    async def scene() -> float:
        turns = Turns(1)
        ways = [Way(f"n{number}", turns=turns) for number in range(3)]
        for way in ways:
            way.took_s, way.unpacking_s = 100.0 + 3 * STALL_LIMIT_S, 3 * STALL_LIMIT_S
        await asyncio.gather(*(way.ensure() for way in ways))
        return VirtualClock().monotonic_s()

    assert 3 * 100.0 + 3 * STALL_LIMIT_S == virtual_run(scene())


def test_a_pull_is_not_sent_by_us_and_may_be_silent() -> None:
    async def scene() -> Image:
        way = Way()
        way.took_s = way.stalled_s = 3 * STALL_LIMIT_S
        return await way.ensure(is_import=False)

    assert IMAGE == virtual_run(scene())


def test_the_log_says_when_an_image_is_begun_and_when_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scene() -> None:
        way = Way()
        await asyncio.gather(way.ensure(), way.ensure())

    virtual_run(scene())

    assert [
        "the image 'llm:1' is being brought to n1",
        "the image 'llm:1', 4.2 MB, was brought to n1 in 100.0 s",
    ] == [one.getMessage() for one in caplog.records if one.name.endswith("images")]
