"""Run a load test in one process, or in many; importing this makes blocking calls gevent's."""

from __future__ import annotations

import csv
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import msgspec
from gevent.event import Event
from locust.env import Environment
from locust.html import get_html_report
from locust.runners import MASTER_HEARTBEAT_TIMEOUT, LocalRunner, MasterRunner, WorkerRunner
from locust.stats import (
    PERCENTILES_TO_REPORT,
    StatsCSV,
    StatsEntry,
    calculate_response_time_percentile,
    stats_history,
)

from ollama_fleet.descriptors import raise_limit
from ollama_fleet.files import write_whole
from provisioning.load.report import Report, Requests, is_for_text
from provisioning.load.settings import LoadTestError, Plan, Settings
from provisioning.load.users import Developer, Shared, Tally

log = logging.getLogger("provisioning.load")

OUR_COMMAND = (sys.executable, "-P", "-m", "ollama_fleet", "load")
WORKER_START_S = 60.0
WORKER_END_S = 10.0
"""Beyond the time that the last requests may take."""
PROGRESS_S = 1.0
ASK, SETTINGS, READY, FAULT = "load_ask", "load_settings", "load_ready", "load_fault"
"""Messages between a master and its workers."""

Progress = Callable[[str], None]


class Workers(NamedTuple):
    """The processes that make the load."""

    host: str
    port: int
    n_local: int
    """How many of them this process starts."""
    n: int
    """How many to wait for."""


def run_alone(settings: Settings, plan: Plan, progress: Progress) -> Finished:
    """Run all users in this process, until the run time is over or a signal comes.

    Raises:
        LoadTestError: The keys or the instances cannot be used.
    """
    raise_limit()
    shared = Shared(settings)
    Developer.prepared.set(shared)
    environment = _environment(settings)
    runner = environment.create_local_runner()
    _make_load(runner, plan, progress)
    runner.stop()
    return Finished(environment, shared.tally)


def run_as_master(settings: Settings, plan: Plan, workers: Workers, progress: Progress) -> Finished:
    """Let workers run the users; gather what they saw.

    Raises:
        LoadTestError: Too few workers came, one of them cannot do it, or all are gone.
    """
    environment = _environment(settings)
    try:
        runner = environment.create_master_runner(workers.host, workers.port)
    except Exception as error:
        raise LoadTestError(f"cannot listen on {workers.host}:{workers.port}: {error}") from error
    tally = Tally()
    environment.events.worker_report.add_listener(
        lambda client_id, data: tally.add(*data.get("tally", ({}, {})))
    )
    arrivals = Arrivals(runner, settings, workers.n)
    with _local_workers(workers, runner.server.port if workers.port == 0 else workers.port):
        arrivals.wait()
        _make_load(runner, plan, progress)
        n_lost = max(workers.n - runner.worker_count, 0)
        _gather(runner, settings.timeout_s)
    return Finished(environment, tally, n_lost)


class Arrivals:
    """Gives each worker the settings, and knows when all are ready."""

    def __init__(self, runner: MasterRunner, settings: Settings, n_expected: int) -> None:
        self._runner = runner
        self._settings = msgspec.to_builtins(settings)
        self._n_expected = n_expected
        self._n_asked = 0
        self._n_ready = 0
        self._fault = ""
        self._changed = Event()
        runner.register_message(ASK, self._on_ask)
        runner.register_message(READY, self._on_ready)
        runner.register_message(FAULT, self._on_fault)

    def wait(self) -> None:
        """Return when all are ready.

        Raises:
            LoadTestError: One cannot use the settings, or they do not all come in time.
        """
        deadline_s = time.monotonic() + WORKER_START_S
        while self._n_ready < self._n_expected and not self._fault:
            if not self._changed.wait(max(0.0, deadline_s - time.monotonic())):
                raise LoadTestError(
                    f"{self._n_ready} of {self._n_expected} workers came within "
                    f"{WORKER_START_S:.0f} s; start the others, or expect fewer with "
                    "--expect-workers"
                )
            self._changed.clear()
        if self._fault:
            raise LoadTestError(f"a worker cannot begin: {self._fault}")

    def _on_ask(self, environment: Environment, msg: Any) -> None:
        share = self._n_asked / self._n_expected
        self._n_asked += 1
        self._runner.send_message(
            SETTINGS, {"settings": self._settings, "share": share}, msg.node_id
        )

    def _on_ready(self, environment: Environment, msg: Any) -> None:
        self._n_ready += 1
        self._changed.set()

    def _on_fault(self, environment: Environment, msg: Any) -> None:
        self._fault = msg.data["fault"]
        self._changed.set()


def run_as_worker(host: str, port: int) -> None:
    """Run users for a master, until it says that it is over.

    Raises:
        LoadTestError: The master cannot be reached, goes away, or has settings that cannot be used
            here.
    """
    raise_limit()
    environment = Environment(user_classes=[Developer])
    try:
        runner = environment.create_worker_runner(host, port)
    except Exception as error:
        raise LoadTestError(f"no master at {host}:{port}: {error}") from error
    # Locust looks for heartbeats after the first one only; the master may end before that.
    runner.last_heartbeat_timestamp = runner.last_heartbeat_timestamp or time.time()
    faults: list[str] = []

    def prepare(environment: Environment, msg: Any) -> None:
        try:
            settings = msgspec.convert(msg.data["settings"], Settings)
            shared = Shared(settings, start_at=msg.data["share"])
        except (LoadTestError, msgspec.ValidationError) as error:
            faults.append(str(error))
            runner.send_message(FAULT, {"fault": str(error)})
            runner.greenlet.kill(block=False)
            return
        environment.events.report_to_master.add_listener(
            lambda client_id, data: data.update(tally=shared.tally.drain())
        )
        Developer.prepared.set(shared)
        runner.send_message(READY, None)

    runner.register_message(SETTINGS, prepare, concurrent=True)
    runner.send_message(ASK, None)
    runner.greenlet.join()
    environment.events.quitting.fire(environment=environment, reverse=True)
    if faults:
        raise LoadTestError(faults[0])
    _check_heartbeat(runner)


def _check_heartbeat(runner: WorkerRunner) -> None:
    silent_s = time.time() - (runner.last_heartbeat_timestamp or 0.0)
    if silent_s > MASTER_HEARTBEAT_TIMEOUT:
        raise LoadTestError(
            f"the master at {runner.master_host}:{runner.master_port} has sent no heartbeat for "
            f"{silent_s:.0f} s; see there why it ended, start it again, and then this worker"
        )


def _environment(settings: Settings) -> Environment:
    # A request that has begun is finished, so that both ends count the same.
    return Environment(
        user_classes=[Developer],
        host=settings.gateway_url or settings.instances,
        stop_timeout=settings.timeout_s,
    )


def _make_load(runner: LocalRunner | MasterRunner, plan: Plan, progress: Progress) -> None:
    over = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, over.set)
    charts = gevent.spawn(stats_history, runner)
    ramp = gevent.spawn(runner.start, plan.n_users, plan.users_per_s)
    deadline_s = time.monotonic() + plan.run_time_s
    while (left_s := deadline_s - time.monotonic()) > 0 and not over.is_set():
        over.wait(min(left_s, PROGRESS_S))
        progress(_progress(runner, plan, plan.run_time_s - left_s))
        if isinstance(runner, MasterRunner) and not runner.worker_count:
            raise LoadTestError("all workers are gone; their logs say why")
    gevent.killall([charts, ramp])


def _progress(runner: LocalRunner | MasterRunner, plan: Plan, elapsed_s: float) -> str:
    total = runner.stats.total
    p99_ms = total.get_response_time_percentile(0.99)
    return (
        f"{elapsed_s:,.0f} of {plan.run_time_s:,.0f} s  {runner.user_count:,} users  "
        f"{total.current_rps:,.0f} requests/s  p99 {p99_ms:,} ms  "
        f"{total.num_failures:,} of {total.num_requests:,} failed"
    )


def _gather(runner: MasterRunner, timeout_s: float) -> None:
    """End the workers, and wait until each has sent its last figures."""
    runner.send_message("quit")
    with gevent.Timeout(timeout_s + WORKER_END_S, False):
        while runner.worker_count:
            gevent.sleep(0.05)
    runner.quit()


@contextmanager
def _local_workers(workers: Workers, port: int) -> Iterator[None]:
    command = (*OUR_COMMAND, "--worker-of", f"127.0.0.1:{port}")
    started = [subprocess.Popen(command) for _ in range(workers.n_local)]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


class Finished:
    """A load test that is over."""

    def __init__(self, environment: Environment, tally: Tally, n_lost_workers: int = 0) -> None:
        self._environment = environment
        self._tally = tally
        self._stats = environment.stats
        self._n_lost_workers = n_lost_workers

    def report(self) -> Report:
        """Return what the users saw."""
        entries = sorted(self._stats.entries.values(), key=lambda one: one.name)
        text = StatsEntry(self._stats, "text", "")
        for entry in entries:
            if is_for_text(entry.name):
                text.extend(entry)
        duration_s = self._duration_s()
        counts, waits = self._tally.counts, self._tally.first_token_ms
        return Report(
            text=_requests(text, duration_s),
            requests=tuple(_requests(entry, duration_s) for entry in entries),
            duration_s=duration_s,
            failures=self._failures(),
            rejected=counts["rejected"],
            swapped=counts["swapped"],
            lost_workers=self._n_lost_workers,
            generated_tokens=counts["generated_tokens"],
            tokens_per_s=counts["generated_tokens"] / duration_s,
            first_token_p50_s=_percentile_s(waits, 0.5),
            first_token_p99_s=_percentile_s(waits, 0.99),
        )

    def write_html(self, path: Path) -> None:
        """Write Locust's report."""
        page = get_html_report(self._environment, show_download_link=False)
        write_whole(path, page.encode())

    def write_csv(self, prefix: str) -> None:
        """Write Locust's three tables: PREFIX_stats.csv, _failures.csv and _exceptions.csv."""
        tables = StatsCSV(self._environment, PERCENTILES_TO_REPORT)
        for name, write in (
            ("stats", tables.requests_csv),
            ("failures", tables.failures_csv),
            ("exceptions", tables.exceptions_csv),
        ):
            with Path(f"{prefix}_{name}.csv").open("w", newline="", encoding="utf-8") as file:
                write(csv.writer(file))

    def _duration_s(self) -> float:
        began_s = float(self._stats.start_time)
        return max(float(self._stats.last_request_timestamp or began_s) - began_s, 0.001)

    def _failures(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for error in self._stats.errors.values():
            kind = _kind(error.error)
            counts[kind] = counts.get(kind, 0) + error.occurrences
        return counts


def _kind(error: object) -> str:
    """Return the kind in what Locust keeps of a FailedError, which came from a worker as text."""
    return str(error).partition("(")[2].strip("')\"<>") or str(error)


def _requests(entry: StatsEntry, duration_s: float) -> Requests:
    return Requests(
        entry.name,
        entry.num_requests,
        entry.num_failures,
        entry.get_response_time_percentile(0.5) / 1000,
        entry.get_response_time_percentile(0.99) / 1000,
        entry.avg_response_time / 1000,
        entry.num_requests / duration_s,
    )


def _percentile_s(counts: dict[int, int], ratio: float) -> float | None:
    n = sum(counts.values())
    return calculate_response_time_percentile(counts, n, ratio) / 1000 if n else None
