from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from tests.loops import uvloop_only
from tests.provisioning.api.board import Board, running_board


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return uvloop_only()


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Board]:
    async with running_board(tmp_path) as running:
        yield running
