"""Who asks again and again without a token leaves a line a minute, and no more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from provisioning.api.auth import MAX_ADDRESSES, OTHERS, Admission, Audit, LeftOut, Refusals, Tokens
from provisioning.api.errors import DeniedError
from provisioning.api.routes import OPERATIONS
from tests.provisioning.api.board import running_board
from tests.provisioning.virtual import VirtualClock, virtual_run

SPEC = next(one for one in OPERATIONS if one.name == "spec")


def test_of_each_address_the_first_is_told_and_the_others_are_counted() -> None:
    refusals = Refusals()

    told = [refusals.take(address, f"{n}") for n, address in enumerate("aabaab")]

    assert [True, False, True, False, False, False] == told
    assert (LeftOut("a", "4", 3), LeftOut("b", "5", 1)) == refusals.end_minute()


def test_who_has_just_been_counted_is_counted_only_and_forgotten_when_it_stops() -> None:
    refusals = Refusals()
    assert refusals.take("a", "spec")
    assert () == refusals.end_minute()

    assert [True, False] == [refusals.take("a", "spec") for _ in range(2)]
    assert (LeftOut("a", "spec", 1),) == refusals.end_minute()
    assert not refusals.take("a", "plan")
    assert (LeftOut("a", "plan", 1),) == refusals.end_minute()

    assert () == refusals.end_minute()
    assert refusals.take("a", "spec")


def test_addresses_without_number_are_taken_for_one() -> None:
    refusals = Refusals()

    n_told = sum(refusals.take(f"address {n}", "spec") for n in range(10 * MAX_ADDRESSES))

    assert MAX_ADDRESSES + 1 == n_told
    assert not refusals.take("address 0", "spec")
    assert [(OTHERS, 9 * MAX_ADDRESSES - 1), ("address 0", 1)] == sorted(
        ((one.address, one.count) for one in refusals.end_minute()), reverse=True
    )


def test_a_minute_of_refusals_is_one_line_and_then_one_with_their_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()

    async def scene() -> None:
        admission = Admission(Tokens(tmp_path / "token"), Audit(None, clock), clock)
        running = asyncio.create_task(admission.run())
        for _ in range(1042):
            with pytest.raises(DeniedError):
                await admission.holder(SPEC, make_mocked_request("GET", "/spec"))
        await clock.sleep(59.0)
        assert 1 == len(said(caplog))
        await clock.sleep(2.0)
        assert 2 == len(said(caplog))
        await clock.sleep(120.0)
        running.cancel()
        await asyncio.wait([running])

    virtual_run(scene())

    own, others = said(caplog)
    assert "status 401 this needs 'Authorization: Bearer TOKEN', got none" in own
    assert others.endswith("status 401 and 1,041 more in the last minute")


def test_the_token_of_another_provisioner_is_refused_with_what_helps(tmp_path: Path) -> None:
    """Each makes a file of its own, so that after a takeover it is another one."""
    tokens, others = Tokens(tmp_path / "a" / "token"), Tokens(tmp_path / "b" / "token")
    theirs = {"Authorization": f"Bearer {others.path.read_text().strip()}"}

    with pytest.raises(DeniedError, match=r"got another token; .* they need the same file"):
        tokens.required_holder(theirs)

    tokens.path.write_bytes(others.path.read_bytes())
    assert tokens.required_holder(theirs)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "provisioning.api.auth"]


async def test_a_provisioner_that_ends_tells_how_many_it_has_turned_away(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board, aiohttp.ClientSession(board.url) as session:
        for _ in range(3):
            async with session.get("/spec") as response:
                assert 401 == response.status
        assert 1 == len(board.audited())

    last = board.audited()[-1]
    assert ("", "127.0.0.1", "spec", 401, "and 2 more in the last minute") == (
        last["who"],
        last["address"],
        last["operation"],
        last["status"],
        last["fault"],
    )
