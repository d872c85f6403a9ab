"""Alerts on 1,000 stock Ollama servers, whose speed and latency the canary alone knows: every
part real, the windows short, one lab for all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bench.live import lab as labs
from bench.live import trial
from bench.live.lab import Lab
from bench.live.pace import SHORT
from bench.live.parts import Plan, PortPlan, Programs
from bench.live.scenarios import SCENARIOS, Scenario
from provisioning.demo.ports import Ports
from provisioning.demo.rundir import RunDir
from tests.conftest import program

N = 1_000
CANARY_S = 10
FLEET = ("--mode=ollama", "--hardware=gpu", "--keep-alive=-1")
TIMEOUT_S = 5
EXPORTER = (
    *(f"--canary.period={CANARY_S}s", f"--canary.timeout={TIMEOUT_S}s", "--canary.tokens=2"),
)
LATENCY_HIGH = "OllamaFleetLatencyP99High"

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


async def _slow_twentieth(lab: Lab) -> None:
    """Two tokens of every twentieth instance take 200 ms instead of 10."""
    await lab.inject("slow", share=0.05, factor=0.05)


async def _slow_all(lab: Lab) -> None:
    await lab.inject("slow", share=1.0, factor=0.2)


async def _freeze_two_in_a_hundred(lab: Lab) -> None:
    await lab.inject("runner_hang", share=0.02, seconds=3600)


async def _heal(lab: Lab) -> None:
    await lab.heal_fleet()


STOCK = {
    "count": SCENARIOS["count"],
    "p99": Scenario(
        name="p99",
        title="canaries of 5 % of the instances take longer",
        fault=_slow_twentieth,
        heal=_heal,
        page=LATENCY_HIGH,
        says=("One request in a hundred takes longer than", "the limit is 150ms"),
        extra_s=lambda _: CANARY_S,
    ),
    "throughput": Scenario(
        name="throughput",
        title="every instance slows down to a fifth",
        fault=_slow_all,
        heal=_heal,
        page="OllamaFleetTokenThroughputLow",
        says=("The healthy instances can generate 3", "(40 per instance)"),
        extra_s=lambda _: CANARY_S,
    ),
    "frozen": Scenario(
        name="frozen",
        title="the runners of 2 % of the instances freeze, whose pages go on answering",
        fault=_freeze_two_in_a_hundred,
        heal=_heal,
        page="OllamaFleetManyCanariesStalled",
        # Canaries that stall took as long as they might.
        may_page=(LATENCY_HIGH,),
        max_pages=2,
        says=("pass their health check and do not answer canaries",),
        extra_s=lambda _: CANARY_S + TIMEOUT_S,
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    plan = Plan(
        pace=SHORT,
        n_instances=N,
        run_dir=RunDir(tmp_path_factory.mktemp("lab")),
        ports=PortPlan.take(Ports(say=print)),
        programs=Programs(*map(program, ("prometheus", "promtool", "alertmanager"))),
        fleet_options=FLEET,
        exporter_options=EXPORTER,
    )
    async with labs.lab(plan) as made:
        yield made


@pytest.mark.nightly
@pytest.mark.parametrize("name", STOCK)
async def test_an_alert_of_a_stock_fleet_fires_and_heals_by_its_canaries_alone(
    lab: Lab, name: str
) -> None:
    assert [] == await lab.guard(trial.quiet(lab, within_s=trial.SETTLES_WITHIN_S))

    result = await lab.guard(trial.play(lab, STOCK[name], say=print))

    assert () == result.complaints
    assert result.told_after_s is not None
    assert result.least_s <= result.told_after_s
    assert result.resolved_after_s is not None
