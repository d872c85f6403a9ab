"""A real Alertmanager whose messages arrive in the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.alerts.alertmanager import Alertmanager, Inbox, hooks, inbox, running


@pytest.fixture
async def taken() -> AsyncIterator[Inbox]:
    async with inbox() as made:
        yield made


@pytest.fixture
async def alertmanager(tmp_path: Path, taken: Inbox) -> AsyncIterator[Alertmanager]:
    async with running(tmp_path, hooks(taken.url)) as started:
        yield started
