"""What the on-call hears when a fleet breaks: every part real, the windows short, one lab for all.

`make alerts-live` plays the same scenarios with the shipped windows over 10,000 instances. Here
polls are three times as frequent, and other tests run beside: as many would be late on two cores.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bench.live import lab as labs
from bench.live import trial
from bench.live.lab import Lab
from bench.live.pace import SHORT
from bench.live.parts import Plan, PortPlan, Programs
from bench.live.scenarios import SCENARIOS
from provisioning.demo.ports import Ports
from provisioning.demo.rundir import RunDir
from tests.conftest import program

N = 3_000

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.nightly,
    pytest.mark.timeout(600),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    plan = Plan(
        pace=SHORT,
        n_instances=N,
        run_dir=RunDir(tmp_path_factory.mktemp("lab")),
        ports=PortPlan.take(Ports(say=print)),
        programs=Programs(*map(program, ("prometheus", "promtool", "alertmanager"))),
    )
    async with labs.lab(plan) as made:
        yield made


async def test_a_healthy_fleet_wakes_nobody_and_keeps_the_dead_mans_switch_quiet(lab: Lab) -> None:
    assert [] == await lab.guard(trial.watch_healthy(lab))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_on_call_is_told_once_of_what_is_broken_and_when_it_is_over(
    lab: Lab, name: str
) -> None:
    assert [] == await lab.guard(trial.quiet(lab, within_s=trial.SETTLES_WITHIN_S))

    result = await lab.guard(trial.play(lab, SCENARIOS[name], say=print))

    assert () == result.complaints
    assert result.told_after_s is not None
    assert result.least_s <= result.told_after_s
    assert result.resolved_after_s is not None
