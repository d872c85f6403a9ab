"""A run of `up`: provisioner, instances, exporter, Prometheus and Alertmanager, until a signal."""

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

from ollama_fleet.prometheus import PrometheusError
from ollama_fleet.tables import count_text
from provisioning.demo import (
    observers,
    on_call,
    ports,
    processes,
    provisioner,
    report,
    rundir,
    service_level,
    traffic,
)
from provisioning.demo.errors import DemoError
from provisioning.demo.on_call import OnCall, break_until_paged
from provisioning.demo.plan import Plan, Settings, gather, make_plan
from provisioning.demo.ports import Claims, Ports, url_of
from provisioning.demo.processes import Children, answers_ok
from provisioning.demo.report import FleetStatus, Pages

SEEN_WITHIN_S = 120.0
"""What Prometheus may take to see a healthy instance, from when the exporter is ready."""
N_EVALUATIONS = 2
"""Until alerts know what Prometheus has scraped: some read what other rules record."""
EVALUATION_S = 2.0
"""What evaluating all rules may take, beyond the interval until it is done again."""
ASK_PAUSE_S = 0.5
STATUS_PAUSE_S = 10.0


def run(settings: Settings) -> None:
    """Start everything, print where to look, and keep it running.

    Raises:
        DemoError: Something cannot start, or a process ended by itself.
        SpecError: The specification describes no fleet that can be.
        asyncio.CancelledError: A signal asked to stop; everything has been stopped.
    """
    with rundir.claimed(settings.run_dir) as run_dir, Claims() as claims:
        # A port from an option that is taken is an error before anything that takes minutes.
        ports.check_free(*settings.listeners)
        supplies = gather(settings, say=say)
        paging = observers.page_options(run_dir)
        observers.build_rules(run_dir, interval_s=settings.poll_interval_s, options=paging)
        # Ports are chosen last: if another program takes one before ours listens, the run ends, and
        # the steps above take seconds, or minutes if programs are fetched.
        plan = make_plan(settings, supplies, run_dir, Ports(say=say, claims=claims))
        observers.write_config(plan.observers)
        traffic.write_config(plan.gateway)
        rundir.write(run_dir.page_url, f"{url_of(plan.on_call_port)}{on_call.PATH}")
        asyncio.run(_run(plan, settings))


def say(text: str) -> None:
    """Print a line about the progress."""
    click.echo(text, err=True)


async def _run(plan: Plan, settings: Settings) -> None:
    """Cancel the stage on a signal; it then stops its children."""
    staged = asyncio.create_task(_stage(plan, settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, staged.cancel)
    loop.add_signal_handler(signal.SIGHUP, _hang_up, staged, _has_terminal())
    await staged


def _hang_up(staged: asyncio.Task[None], had_terminal: bool) -> None:
    """Stop if the terminal was closed, as nobody can press Ctrl-C any more; else go on."""
    if had_terminal and not _has_terminal():
        staged.cancel()
    else:
        say("signal=SIGHUP ignored: `up` reads its settings when it starts")


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


async def _stage(plan: Plan, settings: Settings) -> None:
    timeout = aiohttp.ClientTimeout(total=report.QUERY_TIMEOUT_S)
    async with (
        rundir.no_leftovers(plan.run_dir, is_kept=plan.is_kept),
        reporting_leftovers(plan),
        on_call.receiving(plan.on_call_port, say=say) as receiver,
        Children(plan.run_dir.path, environ=processes.our_environ(os.environ)) as children,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        await _start_fleet(plan, children)
        await _start_observers(plan, children)
        seen = await children.guard(until_seen(plan))
        await _start_users(plan, children)
        seen = await children.guard(until_evaluated(plan, seen))
        if settings.is_json:
            real = await real_servers(session, plan)
            click.echo(report.as_json(plan, seen, children.pids, real))
        else:
            click.echo(report.for_people(plan, seen, await pages(session, plan)))
        async with reporting_service_level(plan, receiver):
            await children.guard(_keep(session, plan, settings, receiver))


async def _keep(
    session: aiohttp.ClientSession, plan: Plan, settings: Settings, receiver: OnCall
) -> None:
    """Let it run; break it first if that was asked for."""
    if settings.has_break and plan.demo is not None:
        await break_until_paged(session, plan, plan.demo, receiver, say=say)
    await print_status(plan, settings.duration_s)


@contextlib.asynccontextmanager
async def reporting_service_level(plan: Plan, receiver: OnCall) -> AsyncIterator[None]:
    """Print at the end of a run what its service level was."""
    started_s = time.monotonic()
    try:
        yield
    except asyncio.CancelledError:
        await _say_service_level(plan, receiver, time.monotonic() - started_s)
        raise
    await _say_service_level(plan, receiver, time.monotonic() - started_s)


async def _say_service_level(plan: Plan, receiver: OnCall, duration_s: float) -> None:
    url = plan.observers.prometheus_url
    try:
        async with asyncio.timeout(service_level.QUERY_TIMEOUT_S):
            seen = await service_level.measure(url, duration_s=duration_s, n_pages=receiver.n_pages)
    except (PrometheusError, TimeoutError) as error:
        say(f"the service level of this run is not known: {url}: {error}")
    else:
        say(str(seen))


@contextlib.asynccontextmanager
async def reporting_leftovers(plan: Plan) -> AsyncIterator[None]:
    """Print at the end which instances go on."""
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
        return f"{count_text(n_instances, 'instance')}, as {plan.spec} says"
    simulated = count_text(plan.demo.n_simulated, "simulated instance")
    return f"{simulated} and {count_text(plan.demo.n_llama_servers, 'real LLM server')}"


async def real_servers(session: aiohttp.ClientSession, plan: Plan) -> list[str]:
    """Return the demonstration's real servers; none for a specification of one's own."""
    return [] if plan.demo is None else await provisioner.llama_urls(session, plan)


async def _start_observers(plan: Plan, children: Children) -> None:
    say("starting the gateway, the exporter, Prometheus and Alertmanager")
    await children.start(traffic.server(plan.gateway), *observers.all_of(plan.observers))


async def _start_users(plan: Plan, children: Children) -> None:
    if plan.demo is not None:
        say("starting users, who ask the fleet for text")
        await children.start(*traffic.users(plan.gateway, plan.demo))


async def pages(session: aiohttp.ClientSession, plan: Plan) -> Pages:
    """Return which web UIs exist: builds of distributions may lack them."""
    return Pages(
        has_graph=await answers_ok(session, report.graph_url(plan)),
        has_alertmanager=await answers_ok(session, report.alertmanager_script_url(plan)),
    )


async def until_seen(plan: Plan, *, within_s: float = SEEN_WITHIN_S) -> FleetStatus:
    """Wait until Prometheus sees the whole fleet healthy; return what it sees.

    If the time is over, because models are still loading, return the last status.

    Raises:
        DemoError: Prometheus sees no instance in time, or does not answer.
    """
    url = plan.observers.prometheus_url
    seen: FleetStatus | None = None
    until_s = time.monotonic() + within_s
    while True:
        answer = await _status(plan)
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
        f"first cycle; its last answer: {answer}. Look at {url}/api/v1/targets and "
        f"at the logs in {plan.run_dir.path}"
    )


async def until_evaluated(plan: Plan, seen: FleetStatus) -> FleetStatus:
    """Wait until the rules are evaluated on what was scraped; return the status then.

    Alerts on absent series are pending until then. What stays pending after that is no error.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(N_EVALUATIONS * plan.observers.interval_s + EVALUATION_S):
            while seen.pending:
                await asyncio.sleep(ASK_PAUSE_S)
                answer = await _status(plan)
                seen = answer if isinstance(answer, FleetStatus) else seen
    return seen


async def print_status(plan: Plan, duration_s: float | None) -> None:
    """Print the status now and then on a terminal, until the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duration_s):
            while True:
                await asyncio.sleep(STATUS_PAUSE_S)
                if sys.stdout.isatty():
                    click.echo(await _status(plan))


async def _status(plan: Plan) -> FleetStatus | PrometheusError:
    """Return the status, or why Prometheus does not give it now."""
    try:
        return await report.ask(plan.observers.prometheus_url)
    except PrometheusError as error:
        return error
