"""The command `ollama-fleet load`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ollama_fleet import logs
from ollama_fleet.durations import parse_duration_s
from ollama_fleet.files import UnreadableFileError, read_regular
from ollama_fleet.levels import parse_share
from ollama_fleet.options import Address, Choice, Duration, GroupedCommand
from ollama_fleet.urls import base_url, http_url
from provisioning.load import report
from provisioning.load.settings import PROMPTS, Api, LoadTestError, Plan, ServiceLevel, Settings

if TYPE_CHECKING:
    from provisioning.load.runner import Finished, Progress

if importlib.util.find_spec("locust") is None:
    raise ModuleNotFoundError("No module named 'locust'", name="locust")

MAX_PROMPT_BYTES = 1_000_000
MASTER = ("127.0.0.1", 0)
EXAMPLE = "http://127.0.0.1:8080/instances"


class SpawnRate(click.ParamType[float]):
    """`20` or `1000/1m`, in users a second."""

    name = "n/duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the rate."""
        if isinstance(value, float):
            return value
        number, _, per = str(value).partition("/")
        try:
            rate = float(number) / parse_duration_s(per or "1s")
        except (ValueError, ZeroDivisionError):
            rate = 0.0
        if not 0 < rate < 1e6:
            self.fail(f"{value!r} is no rate above 0 such as 20, or 1000/1m", param, ctx)
        return rate


class Wait(click.ParamType[tuple[float, float]]):
    """`100ms-500ms` or `1s`, in seconds."""

    name = "least-most"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Read both ends."""
        if isinstance(value, tuple):
            return value
        least, _, most = str(value).partition("-")
        try:
            pair = parse_duration_s(least), parse_duration_s(most or least)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if pair[0] > pair[1]:
            self.fail(f"{value!r}: the shorter wait comes first", param, ctx)
        return pair


class Share(click.ParamType[float]):
    """`0.3%` as a ratio."""

    name = "share"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the share."""
        try:
            return parse_share(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def gateway_url(_: click.Context, __: click.Parameter, value: str) -> str:
    """Check the URL of a gateway."""
    try:
        return value and base_url(value, example="http://127.0.0.1:11430", instead="use --key-file")
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def instances_place(_: click.Context, __: click.Parameter, value: str) -> str:
    """Check the URL of a list; what has no `://` is a file."""
    try:
        return http_url(value, example=EXAMPLE) if "://" in value else value
    except ValueError as error:
        raise click.BadParameter(f"{error}; or give a file") from error


MASTER_ADDRESS = Address("10.0.0.5:5557")

HELP = """Put load on a fleet and judge it by a service level, as its developers see it.

Users ask instances that a provisioner or an exporter lists, or a gateway. Of five requests three
are for /api/generate, one is for /api/chat and one is a health check; between them a user waits.
An instance that refuses, fails or takes too long is swapped for another. Each answer must be whole,
not empty, and from the model that was asked for.

The exit status is 0 when the service level is met, 1 when it is missed, 2 when the test cannot run.

\b
  ollama-fleet load --instances http://127.0.0.1:8080/instances --users 100 --run-time 1m
  ollama-fleet load --gateway.url http://127.0.0.1:11430 --key-file keys --model llama3.1:8b
  ollama-fleet load ... --users 10000 --spawn-rate 1000/1m --run-time 30m --html report.html

Many users need several processes and machines:

\b
  ollama-fleet load ... --workers 4                                   processes of this machine
  ollama-fleet load ... --master 10.0.0.5:5557 --expect-workers 8     and on each other machine:
  ollama-fleet load --worker-of 10.0.0.5:5557

Workers get all settings from the master; they read --instances, --key-file and --ca-file
themselves. The master's port has no password: open it to your own machines only.
"""
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    cls=GroupedCommand,
    help=HELP,
    context_settings={
        "auto_envvar_prefix": "OLLAMA_FLEET_LOAD",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
    epilog="Every option is also an environment variable: --spawn-rate is "
    "OLLAMA_FLEET_LOAD_SPAWN_RATE, --slo.p99 is OLLAMA_FLEET_LOAD_SLO_P99.",
)
@click.option(
    "--instances",
    default="",
    metavar="URL|FILE",
    callback=instances_place,
    help="Users ask the instances that this list has.",
)
@click.option(
    "--gateway.url",
    "gateway",
    default="",
    metavar="URL",
    callback=gateway_url,
    help="Users ask this gateway.",
)
@click.option("--key-file", type=FILE, help="API keys, one a line; users take them in turn.")
@click.option("--ca-file", type=FILE, help="CA bundle used to verify HTTPS servers.")
@click.option(
    "--model",
    multiple=True,
    metavar="NAME",
    help="Ask for this model; repeatable. Without it, instances are asked for their own.",
)
@click.option("--api", type=Choice([*map(str, Api)]), default="ollama", help="Whose endpoints.")
@click.option("--stream", is_flag=True, help="Ask for streams, and time the first token.")
@click.option(
    "--tokens",
    type=click.IntRange(1, 1_000_000),
    default=8,
    help="Most tokens of an answer: num_predict, or max_tokens of OpenAI's API.",
)
@click.option("--prompt-file", type=FILE, help="Prompts, one a line, instead of the built-in ones.")
@click.option("--users", type=click.IntRange(1, 1_000_000), default=10, help="How many users.")
@click.option(
    "--spawn-rate", type=SpawnRate(), default=10.0, help="New users a second, or as 1000/1m."
)
@click.option("--run-time", type=Duration(0.1), default="1m", help="From the first user on.")
@click.option("--wait", type=Wait(), default="100ms-500ms", help="Of a user between two requests.")
@click.option(
    "--timeout", type=Duration(0.001, 3600), default="30s", help="Most time for a whole answer."
)
@click.option(
    "--slo.p99", "slo_p99", type=Duration(), default="150ms", help="Of answers with text."
)
@click.option(
    "--slo.failures", "slo_failures", type=Share(), default="0.3%", help="Of requests for text."
)
@click.option(
    "--slo.rejected",
    "slo_rejected",
    type=Share(),
    help="Most requests that the gateway may reject with 429; not judged without it.",
)
@click.option("--html", type=FILE, help="Write Locust's report to this file.")
@click.option("--csv", metavar="PREFIX", help="Write Locust's tables, PREFIX_stats.csv and others.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, on one line.")
@click.option(
    "--workers", type=click.IntRange(0, 1024), default=0, help="Worker processes on this machine."
)
@click.option("--master", type=MASTER_ADDRESS, help="Listen here for workers of other machines.")
@click.option(
    "--expect-workers",
    type=click.IntRange(1, 1024),
    help="Begin when this many are connected; default: those of this machine.",
)
@click.option("--worker-of", type=MASTER_ADDRESS, help="Be a worker of the master at this address.")
def load(**options: Any) -> None:
    """Run the command."""
    logs.configure("warning")
    try:
        if address := options["worker_of"]:
            from provisioning.load import runner

            runner.run_as_worker(*address)
            return
        _judge(**options)
    except LoadTestError as error:
        raise _Refusal(str(error)) from error


class _Refusal(click.ClickException):
    exit_code = 2


def _judge(
    *,
    slo_p99: float,
    slo_failures: float,
    slo_rejected: float | None,
    html: Path | None,
    csv: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    level = ServiceLevel(p99_s=slo_p99, failed_ratio=slo_failures, rejected_ratio=slo_rejected)
    settings = settings_of(**options)
    for path in (html, csv):
        _check_folder(path)
    finished = _run(settings, **options)
    found = finished.report()
    click.echo(report.to_json(found, level).decode() if as_json else report.to_text(found))
    click.echo(report.verdict(found, level), err=as_json)
    if html:
        _written(html, lambda: finished.write_html(html))
    if csv:
        _written(Path(csv), lambda: finished.write_csv(csv))
    if report.misses(found, level):
        raise SystemExit(1)


def settings_of(
    *,
    instances: str,
    gateway: str,
    model: Sequence[str],
    api: str,
    stream: bool,
    tokens: int,
    prompt_file: Path | None,
    key_file: Path | None,
    ca_file: Path | None,
    timeout: float,
    wait: tuple[float, float],
    **_: Any,
) -> Settings:
    """Return what each user does.

    Raises:
        LoadTestError: The prompts cannot be read.
        click.UsageError: It is not clear whom to ask, or for which model.
    """
    if bool(instances) == bool(gateway):
        raise click.UsageError("give --instances or --gateway.url, one of them: whom do users ask?")
    if gateway and not model:
        raise click.UsageError("--gateway.url needs --model: which model do users ask for?")
    return Settings(
        instances=instances,
        gateway_url=gateway,
        models=tuple(model),
        api=Api(api),
        is_stream=stream,
        n_tokens=tokens,
        prompts=read_prompts(prompt_file) if prompt_file else PROMPTS,
        key_file=str(key_file or ""),
        ca_file=str(ca_file or ""),
        timeout_s=timeout,
        wait_s=wait,
    )


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a file, one a line.

    Raises:
        LoadTestError: It cannot be read, or holds none.
    """
    try:
        text = read_regular(path, MAX_PROMPT_BYTES)[0].decode()
    except (UnreadableFileError, UnicodeDecodeError) as error:
        raise LoadTestError(f"--prompt-file {path}: {error}") from error
    prompts = tuple(line for line in text.splitlines() if line.strip())
    if not prompts:
        raise LoadTestError(f"--prompt-file {path} holds no prompt")
    return prompts


def _run(
    settings: Settings,
    *,
    users: int,
    spawn_rate: float,
    run_time: float,
    workers: int,
    master: tuple[str, int] | None,
    expect_workers: int | None,
    **_: Any,
) -> Finished:
    # Locust changes how this process waits for anything, so it is imported by who needs it only.
    from provisioning.load import runner

    plan = Plan(n_users=users, users_per_s=spawn_rate, run_time_s=run_time)
    if not workers and master is None:
        return runner.run_alone(settings, plan, _progress())
    host, port = master or MASTER
    wanted = runner.Workers(host, port, workers, expect_workers or workers or 1)
    return runner.run_as_master(settings, plan, wanted, _progress())


def _progress() -> Progress:
    """Return what shows progress: on a terminal one line, over and over; in a pipe nothing."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: click.echo(f"\r\033[K{text}", err=True, nl=False)


def _check_folder(path: Path | str | None) -> None:
    """Refuse before the test what could not be written after it."""
    if path and not os.access(folder := Path(path).parent, os.W_OK):
        raise LoadTestError(f"cannot write {path}: the folder {folder} is not there, or not ours")


def _written(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise LoadTestError(f"cannot write {path}: {error.strerror or error}") from error
