"""A real Alertmanager whose messages arrive in the test; what promtool makes of scenarios."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from alerts import config
from tests.alerts.alertmanager import Alertmanager, Inbox, hooks, inbox, running
from tests.alerts.plays import played


@pytest.fixture
async def taken() -> AsyncIterator[Inbox]:
    async with inbox() as made:
        yield made


@pytest.fixture
async def alertmanager(tmp_path: Path, taken: Inbox) -> AsyncIterator[Alertmanager]:
    async with running(tmp_path, hooks(taken.url)) as started:
        yield started


@pytest.fixture(scope="module")
def faults(
    request: pytest.FixtureRequest, promtool_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, list[str]]:
    """Return the faults of a module's SCENARIOS in its PLAY, by name; they share a promtool run.

    Only alerts of its NAMES are looked at, if it has any.
    """
    told = vars(request.module)
    folder, names = tmp_path_factory.mktemp("scenarios"), told.get("NAMES", ())
    return played(
        promtool_binary, folder, told["PLAY"], config.load(), told["SCENARIOS"], names=names
    )
