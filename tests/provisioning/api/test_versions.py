"""A write that names the version it is for is not carried out on another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from provisioning.spec import encode_fleet
from tests.provisioning.api.board import FLEET, Board, running_board

SPEC = json.loads(encode_fleet(FLEET))
CHANGED = {**SPEC, "pools": [{**SPEC["pools"][0], "count": 6}, SPEC["pools"][1]]}
WRITES = [("POST", "/pools/llama/scale", {"count": 6}), ("PUT", "/spec", CHANGED)]


@pytest.mark.parametrize(("method", "path", "order"), WRITES)
@pytest.mark.parametrize(
    "given", ["", " ", "999", "W/999", '"1', '1"', 'W/"1"', '"1" "2"', '"1",', '"1", *', '*, "1"']
)
async def test_a_version_that_is_not_written_as_a_tag_is_refused(
    board: Board, method: str, path: str, order: Any, given: str
) -> None:
    """A guard that is not understood must not be taken for none."""
    version = board.backend.spec.version if board.backend.spec else 0
    given = given.replace("1", str(version))

    problem = await board.ask(method, path, order, headers={"If-Match": given}, expect=400)

    assert (
        "If-Match must be the ETag that GET /spec gave, in its quotes and without the W/ that a "
        f'compressing proxy puts before it, such as "7", or *, got {given.strip()!a}'
    ) == problem["detail"]
    assert board.backend.spec is not None
    assert encode_fleet(FLEET) == board.backend.spec.text


@pytest.mark.parametrize(("method", "path", "order"), WRITES)
@pytest.mark.parametrize(
    "given", ['"0{}"', '"{}0"', '""', '"-1"', '"{}", "999"', f'"{"9" * 5000}"']
)
async def test_a_version_that_is_not_in_force_changes_nothing(
    board: Board, method: str, path: str, order: Any, given: str
) -> None:
    version = board.backend.spec.version if board.backend.spec else 0
    headers = {"If-Match": given.format(version)}

    await board.ask(method, path, order, headers=headers, expect=412)

    assert board.backend.spec is not None
    assert encode_fleet(FLEET) == board.backend.spec.text


async def test_all_lines_of_the_header_count(board: Board) -> None:
    headers = CIMultiDict([("If-Match", "*"), ("If-Match", '"999"')])

    await board.ask("PUT", "/spec", CHANGED, headers=headers, expect=400)


@pytest.mark.parametrize(("method", "path", "order"), WRITES)
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}, {"If-Match": ' "{}" '}])
async def test_a_write_for_whatever_is_in_force_is_carried_out(
    board: Board, method: str, path: str, order: Any, headers: dict[str, str]
) -> None:
    version = board.backend.spec.version if board.backend.spec else 0
    named = {name: value.format(version) for name, value in headers.items()}

    await board.ask(method, path, order, headers=named, expect=202)


async def test_where_nothing_is_in_force_a_star_is_refused(tmp_path: Path) -> None:
    async with running_board(tmp_path, is_filled=False) as board:
        problem = await board.ask("PUT", "/spec", SPEC, headers={"If-Match": "*"}, expect=412)

        assert "there is no specification in force yet" in problem["detail"]
        assert board.backend.spec is None
        await board.ask("PUT", "/spec", SPEC, headers={"If-Match": '"0"'}, expect=202)
