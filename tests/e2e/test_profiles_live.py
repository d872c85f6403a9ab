"""What the on-call hears by the rules of each profile: every part real, the windows short."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

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

STOCK = ("--mode=ollama", "--hardware=gpu", "--keep-alive=-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fleet by a profile: how many instances may die, and how many must not."""

    profile: str
    n_instances: int
    n_borne: int
    n_beyond: int
    floor: str
    fleet_options: tuple[str, ...] = ()

    @property
    def scenario(self) -> Scenario:
        """Return the outage that pages."""

        async def kill(lab: Lab) -> None:
            await lab.inject("kill", count=self.n_beyond)

        n, left = self.n_instances, self.n_instances - self.n_beyond
        # A floor that is a number counts those out of service on purpose as well, and says so.
        says = (f"Instances healthy: {left:,} of {n:,}", f", floor {self.floor}")
        return replace(SCENARIOS["count"], fault=kill, counts=lambda _: says)

    async def bear(self, lab: Lab) -> None:
        """Kill as many as the profile bears."""
        await lab.inject("kill", count=self.n_borne)


CASES = (
    Case(profile="article", n_instances=10_000, n_borne=100, n_beyond=101, floor="9,900"),
    Case(
        profile="stock-ollama",
        n_instances=60,
        n_borne=6,
        n_beyond=7,
        floor="54 (90%)",
        fleet_options=(*STOCK, "--nodes=60"),
    ),
    Case(
        profile="small",
        n_instances=5,
        n_borne=1,
        n_beyond=2,
        floor="4 (80%)",
        fleet_options=(*STOCK, "--nodes=1"),
    ),
)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
    pytest.mark.nightly,
]


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=CASES, ids=lambda case: case.profile
)
async def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Case, Lab]]:
    case: Case = request.param
    plan = Plan(
        pace=SHORT,
        n_instances=case.n_instances,
        run_dir=RunDir(tmp_path_factory.mktemp("lab")),
        ports=PortPlan.take(Ports(say=print)),
        programs=Programs(*map(program, ("prometheus", "promtool", "alertmanager"))),
        fleet_options=case.fleet_options,
        profile=case.profile,
    )
    async with labs.lab(plan) as made:
        yield case, made


async def test_what_a_profile_bears_pages_nobody(played: tuple[Case, Lab]) -> None:
    case, lab = played
    assert [] == await lab.guard(trial.quiet(lab, within_s=trial.SETTLES_WITHIN_S))

    long_s = trial.intervals_s(lab, case.scenario)

    assert [] == await lab.guard(trial.watch_broken(lab, case.bear, least_s=long_s))


async def test_one_more_pages_once_and_the_pager_hears_when_it_is_over(
    played: tuple[Case, Lab],
) -> None:
    case, lab = played
    assert [] == await lab.guard(trial.quiet(lab, within_s=trial.SETTLES_WITHIN_S))

    result = await lab.guard(trial.play(lab, case.scenario, say=print))

    assert () == result.complaints
    assert result.told_after_s is not None
    assert result.least_s <= result.told_after_s
    assert result.resolved_after_s is not None
