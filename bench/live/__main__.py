"""Prove the alerts live: `python -m bench.live`.

One table on stdout; words of progress on stderr. Exit status: 0 every message came as it should
and no other one; 1 otherwise; 130 interrupted, with the table of what was finished.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.live import table, trial
from bench.live.lab import LabError, lab
from bench.live.pace import PACES, Pace, PaceName
from bench.live.parts import Plan, PortPlan, Programs
from bench.live.scenarios import LABS, SCENARIOS
from bench.live.trial import Result
from provisioning.demo import programs
from provisioning.demo.errors import DemoError
from provisioning.demo.ports import Ports
from provisioning.demo.rundir import RunDir
from tests.programs import locate

INTERRUPTED = 130
ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Run:
    """What all labs share, and what has come of them so far."""

    pace: Pace
    n_instances: int
    programs: Programs
    folder: Path
    ports: Ports
    began_s: float = field(default_factory=time.monotonic)
    results: list[Result] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def say(self, words: str) -> None:
        """Tell a person how far it is."""
        minutes, seconds = divmod(round(time.monotonic() - self.began_s), 60)
        click.echo(f"{minutes:3}:{seconds:02} {words}", err=True)

    async def play(self, names: Sequence[str]) -> None:
        """Play scenarios in a lab of their own, one after the other."""
        async with lab(self._plan(names[0])) as one:
            self.say(f"{names[0]}: lab is up")
            self.complaints += await one.guard(trial.watch_healthy(one))
            for name in names:
                if loud := await trial.quiet(one, within_s=trial.SETTLES_WITHIN_S):
                    self.complaints.append(f"{name}: before it, {', '.join(loud)}")
                played = trial.play(one, SCENARIOS[name], say=self.say)
                self.results.append(await one.guard(played))

    def _plan(self, name: str) -> Plan:
        folder = self.folder / name
        folder.mkdir()
        return Plan(
            pace=self.pace,
            n_instances=self.n_instances,
            run_dir=RunDir(folder),
            ports=PortPlan.take(self.ports),
            programs=self.programs,
        )

    async def play_all(self, wanted: frozenset[str]) -> None:
        """Play the wanted scenarios, the labs side by side."""
        queues = [[name for name in names if name in wanted] for names in LABS]
        async with asyncio.TaskGroup() as running:
            for queue in filter(None, queues):
                running.create_task(self._play_or_complain(queue))

    async def _play_or_complain(self, queue: Sequence[str]) -> None:
        """Let the other labs go on when one breaks."""
        try:
            await self.play(queue)
        except (DemoError, LabError) as error:
            self.complaints.append(f"{queue[0]}: {error}")
            self.say(f"{queue[0]}: the lab is lost: {error}")

    @property
    def is_well(self) -> bool:
        """Return whether everything arrived and nothing else."""
        return not self.complaints and not any(result.complaints for result in self.results)

    def report(self) -> str:
        """Return the table and all complaints, for what is finished."""
        order = list(SCENARIOS)
        results = sorted(self.results, key=lambda result: order.index(result.scenario.name))
        head = f"{self.n_instances:,} instances, {self.pace.name} windows"
        shown = table.render(results) if results else "no scenario was finished"
        return "\n\n".join([head, shown, *self.complaints])


async def run(made: Run, wanted: frozenset[str]) -> int:
    """Play until the end or a signal; return the exit status."""
    playing = asyncio.create_task(made.play_all(wanted))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, playing.cancel)
    await asyncio.wait([playing])
    click.echo(made.report())
    if playing.cancelled():
        return INTERRUPTED
    playing.result()
    return 0 if made.is_well else 1


def found_programs() -> Programs:
    """Return the real programs, fetched where they are not installed."""
    os.environ.setdefault(programs.DIR_VARIABLE, str(ROOT / ".programs"))
    names = ("prometheus", "promtool", "alertmanager")
    return Programs(*(locate(name, say=_say) for name in names))


def _say(words: str) -> None:
    click.echo(words, err=True)


@click.command()
@click.option("--only", "only", multiple=True, type=click.Choice(list(SCENARIOS)), metavar="NAME",
              help=f"Play this scenario; repeatable. One of {', '.join(SCENARIOS)}.")  # fmt: skip
@click.option("--pace", "pace", type=click.Choice([*map(str, PaceName)]), default="shipped",
              show_default=True, help="Windows and intervals: as shipped, or short.")  # fmt: skip
@click.option("--instances", default=10_000, show_default=True, help="Size of each lab's fleet.")
def main(*, only: tuple[str, ...], pace: str, instances: int) -> None:
    """Break a simulated fleet in many ways, and see what its on-call is told, and when."""
    try:
        programs_ = found_programs()
    except DemoError as error:
        raise click.ClickException(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="alerts-live-") as folder:
        made = Run(PACES[PaceName(pace)], instances, programs_, Path(folder), Ports(say=_say))
        sys.exit(asyncio.run(run(made, frozenset(only or SCENARIOS))))


if __name__ == "__main__":
    main()
