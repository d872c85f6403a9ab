"""One whole fleet on this machine: provisioner, instances, exporter, Prometheus, Alertmanager.

In:   Settings. Out: what runs and how the fleet is, on stdout; progress on stderr.
Runs until it is cancelled, or for a given time; leaves no process behind, however it ends.
Fails with DemoError, or with SpecError for a person's own specification.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

import aiohttp
import click

from ollama_fleet.signals import IGNORED
from provisioning.demo import observers, ports, processes, provisioner, report, rundir
from provisioning.demo.errors import DemoError, QueryError
from provisioning.demo.plan import Plan, Settings, gather, make_plan
from provisioning.demo.ports import Claims, Ports
from provisioning.demo.processes import Children, answers_ok
from provisioning.demo.report import FleetStatus, Pages

SEEN_WITHIN_S = 120.0
"""What Prometheus may take to see a healthy instance, from when the exporter is ready."""
N_EVALUATIONS = 2
"""After so many, alerts know what Prometheus has scraped: some read what others have recorded."""
EVALUATION_S = 2.0
"""What evaluating all rules may take, beyond the interval until it is done again."""
ASK_PAUSE_S = 0.5
STATUS_PAUSE_S = 10.0
QUERY_TIMEOUT_S = 5.0


def run(settings: Settings) -> None:
    """Start everything, say where to look, and keep it running.

    Raises:
        DemoError: Something cannot start, or a process ended by itself.
        SpecError: The specification describes no fleet that can be.
        asyncio.CancelledError: A signal asked to stop; everything has been stopped.
    """
    with rundir.claimed(settings.run_dir) as run_dir, Claims() as claims:
        # Whoever named a port that is taken is told at once.
        ports.look_at(*settings.listeners)
        supplies = gather(settings, say=say)
        observers.build_rules(run_dir, interval_s=settings.poll_interval_s)
        # Ports are chosen last: whoever takes one before the program that is to listen on it ends
        # the run, and what is done above takes seconds, or minutes where programs are fetched.
        plan = make_plan(settings, supplies, run_dir, Ports(say=say, claims=claims))
        observers.write_config(plan.observers)
        asyncio.run(_run(plan, settings))


def say(text: str) -> None:
    """Say something about the progress."""
    click.echo(text, err=True)


async def _run(plan: Plan, settings: Settings) -> None:
    """Let every way of asking to stop end the stage, which then stops its children."""
    staged = asyncio.create_task(_stage(plan, settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, staged.cancel)
    loop.add_signal_handler(signal.SIGHUP, _hang_up, staged, _has_terminal())
    await staged


def _hang_up(staged: asyncio.Task[None], had_terminal: bool) -> None:
    """Stop when the terminal is closed, where nobody could press Ctrl-C any more; else go on."""
    if had_terminal and not _has_terminal():
        staged.cancel()
    else:
        say(IGNORED)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


async def _stage(plan: Plan, settings: Settings) -> None:
    timeout = aiohttp.ClientTimeout(total=QUERY_TIMEOUT_S)
    async with (
        rundir.no_leftovers(plan.run_dir, is_kept=plan.is_kept),
        telling_what_is_left(plan),
        Children(plan.run_dir.path, environ=processes.our_environ(os.environ)) as children,
        aiohttp.ClientSession(timeout=timeout) as session,
        provisioner.keeping_busy(lambda: real_servers(session, plan)),
    ):
        await _start_fleet(plan, children)
        await _start_observers(plan, children)
        seen = await children.guard(until_seen(session, plan))
        seen = await children.guard(until_judged(session, plan, seen))
        if settings.is_json:
            real = await real_servers(session, plan)
            click.echo(report.as_json(plan, seen, children.pids, real))
        else:
            click.echo(report.for_people(plan, seen, await pages(session, plan)))
        await children.guard(keep_saying(session, plan, settings.duration_s))


@contextlib.asynccontextmanager
async def telling_what_is_left(plan: Plan) -> AsyncIterator[None]:
    """Say after the block, however it ends, which instances go on."""
    try:
        yield
    finally:
        n_processes = 0
        if plan.is_kept:
            n_processes = await rundir.n_processes(plan.run_dir.provisioner_containers)
        if words := report.left_behind(plan, n_processes):
            say(words)


async def _start_fleet(plan: Plan, children: Children) -> None:
    say(f"starting the provisioner of {_counted(plan)}")
    hosting = () if plan.demo is None else (provisioner.simulated_fleet(plan, plan.demo),)
    await children.start(*hosting, provisioner.server(plan))
    await children.guard(provisioner.apply(plan))


def _counted(plan: Plan) -> str:
    if plan.demo is None:
        n_instances = sum(pool.count for pool in plan.fleet.pools)
        return f"{n_instances:,} instances, as {plan.spec} says"
    n_real = plan.demo.n_llama_servers
    return f"{plan.demo.n_simulated:,} simulated instances and {n_real} real LLM servers"


async def real_servers(session: aiohttp.ClientSession, plan: Plan) -> list[str]:
    """Return the demonstration's real servers; a person's own are left alone."""
    return [] if plan.demo is None else await provisioner.llama_urls(session, plan)


async def _start_observers(plan: Plan, children: Children) -> None:
    say("starting the exporter, Prometheus and Alertmanager")
    await children.start(*observers.all_of(plan.observers))


async def pages(session: aiohttp.ClientSession, plan: Plan) -> Pages:
    """Return which pages for people are there: distributions' builds may lack them."""
    return Pages(
        has_graph=await answers_ok(session, report.graph_url(plan)),
        has_alertmanager=await answers_ok(session, report.alertmanager_script_url(plan)),
    )


async def until_seen(
    session: aiohttp.ClientSession, plan: Plan, *, within_s: float = SEEN_WITHIN_S
) -> FleetStatus:
    """Wait until Prometheus itself sees the fleet, healthy and all there; return what it sees.

    A fleet that takes longer, because models are loaded, is told as it was seen last. A look that
    has begun in time is waited for, so there is one at least.

    Raises:
        DemoError: It sees none in time, or could not be asked.
    """
    url = plan.observers.prometheus_url
    seen: FleetStatus | None = None
    until_s = time.monotonic() + within_s
    while True:
        answer = await _look(session, plan)
        # One that fails, the last one too, takes nothing back of what was seen before.
        seen = answer if isinstance(answer, FleetStatus) else seen
        if seen is not None and seen.is_there:
            return seen
        if time.monotonic() >= until_s:
            break
        await asyncio.sleep(ASK_PAUSE_S)
    if seen is not None and seen.n_healthy + seen.n_provisioning > 0:
        return seen
    raise DemoError(
        f"Prometheus ({url}) saw no healthy instance within {within_s:g} s of the exporter's "
        f"first whole cycle; at last: {answer}. Look at {url}/api/v1/targets and "
        f"at the logs in {plan.run_dir.path}"
    )


async def until_judged(
    session: aiohttp.ClientSession, plan: Plan, seen: FleetStatus
) -> FleetStatus:
    """Wait until the rules were evaluated on what was seen; return how the fleet is then.

    Alerts on what is absent are pending until then. What stays pending is waited for no longer.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(N_EVALUATIONS * plan.observers.interval_s + EVALUATION_S):
            while seen.pending:
                await asyncio.sleep(ASK_PAUSE_S)
                answer = await _look(session, plan)
                seen = answer if isinstance(answer, FleetStatus) else seen
    return seen


async def keep_saying(session: aiohttp.ClientSession, plan: Plan, duration_s: float | None) -> None:
    """Say now and then how the fleet is, where a person reads it, until the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duration_s):
            while True:
                await asyncio.sleep(STATUS_PAUSE_S)
                if sys.stdout.isatty():
                    click.echo(await _look(session, plan))


async def _look(session: aiohttp.ClientSession, plan: Plan) -> FleetStatus | QueryError:
    """Return how the fleet is, or why that cannot be said now."""
    try:
        return await report.ask(session, plan.observers.prometheus_url)
    except QueryError as error:
        return error
