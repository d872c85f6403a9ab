"""The command `ollama-fleet exporter`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from exporter import config as configuration
from exporter.app import Exporter
from exporter.check import InstanceCheck, inventory_text, read_settings
from exporter.config import Config, Given
from exporter.errors import ExporterError
from exporter.settings import ENVIRONMENT_PREFIX, SETTINGS
from exporter.unit import systemd as systemd_command
from ollama_fleet import logs, systemd
from ollama_fleet.clock import SystemClock
from ollama_fleet.options import FILE, GroupedCommands
from ollama_fleet.signals import on_hangup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


log = logging.getLogger("exporter")

CONFIG_FILE_VARIABLE = f"{ENVIRONMENT_PREFIX}CONFIG_FILE"
COLLECTOR_THRESHOLDS = (2_000, 5, 10_000)
"""Allocations before a young collection, and how many of each before the next older one: the young
take milliseconds, the oldest takes a second where there are 100,000 instances."""
SWITCH_INTERVAL_S = 0.0001
"""How long a thread may compute while another one waits."""

LIST_SEPARATOR = ","

Texts = str | tuple[str, ...] | None
"""What click gives for an option: several for a repeatable one, None where it was not used."""


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each setting."""
    for setting in reversed(SETTINGS):
        default = f" [default: {setting.default}]" if setting.default else ""
        add = click.option(
            setting.option,
            setting.attribute,
            multiple=setting.is_repeatable,
            metavar=setting.metavar,
            help=f"{setting.help}{default}",
        )
        command = add(command)
    return command


@click.group(
    cls=GroupedCommands,
    short_help="Poll a fleet and publish it to Prometheus.",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
)
@setting_options
@click.option(
    "--config.file",
    "config_file",
    type=FILE,
    envvar=CONFIG_FILE_VARIABLE,
    help="YAML file with settings; keys are the options' names, dots may be nesting.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Check the settings and the inventory, ask each instance once, print a table, and exit. "
    "Exit status 1: settings or inventory are bad; instances that do not answer are no fault.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON with --check, as of /instances.")
def exporter(config_file: Path | None, *, check: bool, is_json: bool, **options: Texts) -> None:
    """Poll every instance of a fleet and publish the results for Prometheus.

    Each option is also an environment variable: --poll.interval is OLLAMA_FLEET_POLL_INTERVAL. The
    command line comes before the environment, the environment before the file.

    \b
    Examples:
      ollama-fleet exporter --inventory fleet.yml
      ollama-fleet exporter --inventory http://127.0.0.1:8080/instances --poll.interval 30s
      ollama-fleet exporter --inventory 'http://p1:8080/instances|http://p2:8080/instances'
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    if click.get_current_context().invoked_subcommand:
        return
    if is_json and not check:
        raise click.UsageError("--json goes with --check")
    try:
        config = _config(config_file, options)
        logs.configure(config.log_level, config.log_format)
        read_config = partial(_config, config_file, options)
        work = _check(config, is_json=is_json) if check else _serve(config, read_config)
        uvloop.run(work)
    except (ExporterError, systemd.SocketError) as error:
        raise click.ClickException(str(error)) from error


exporter.add_command(systemd_command)


def _config(path: Path | None, options: Mapping[str, Texts]) -> Config:
    from_file, faults = ({}, []) if path is None else configuration.read_file(path)
    layers = (_from_options(options), _from_environment(os.environ), from_file)
    return configuration.build(*layers, faults=faults)


def _from_options(options: Mapping[str, Texts]) -> dict[str, Given]:
    given = {}
    for setting in SETTINGS:
        text = options[setting.attribute]
        texts = text if isinstance(text, tuple) else () if text is None else (text,)
        given[setting.name] = Given(texts, setting.option)
    return given


def _from_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    given = {}
    for setting in SETTINGS:
        text = environment.get(setting.variable, "")
        texts = text.split(LIST_SEPARATOR) if setting.is_repeatable else [text]
        given[setting.name] = Given(tuple(filter(None, texts)), setting.variable)
    return given


async def _check(config: Config, *, is_json: bool) -> None:
    clock = SystemClock()
    inventory = await read_settings(config, clock)
    click.echo(f"The settings are good: {inventory_text(inventory)}", err=True)
    check = InstanceCheck(inventory, config, clock)
    n = len(inventory.targets)
    with click.progressbar(
        length=n,
        label="Asking",
        show_pos=True,
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
        update_min_steps=max(1, n // 100),
    ) as bar:
        await check.run(lambda: bar.update(1))
    click.echo(check.to_json() if is_json else check.to_text())


async def _serve(config: Config, read_config: Callable[[], Config]) -> None:
    """Run the exporter until a signal stops it, also while it still starts."""
    running = asyncio.create_task(_run(config, read_config))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, running)
    await asyncio.wait((running,))
    if not running.cancelled():
        running.result()
    log.info("stopped")
    # Leaving the event loop would wait for its threads: one may parse a long inventory, or wait for
    # a file system that hangs. Nothing is left to be saved.
    logging.shutdown()
    os._exit(0)


def _stop(running: asyncio.Task[None]) -> None:
    systemd.notify("STOPPING=1")
    running.cancel()


async def _run(config: Config, read_config: Callable[[], Config]) -> None:
    favour_the_loop()
    hangups = asyncio.Event()
    on_hangup(hangups.set)
    exporter = Exporter(
        config, read_config=read_config, hangups=hangups, sockets=systemd.listening_sockets()
    )
    async with exporter as running:
        systemd.notify("READY=1")
        gc.freeze()
        await running.wait()


def favour_the_loop() -> None:
    """Keep what could hold up the event loop from doing so.

    A full collection over what 10,000 instances keep takes about 0.1 s, in which no answer is read.
    While another thread reads an inventory, the loop has to ask for its turn after each system
    call: waiting 5 ms each time, 10 new connections would take a third of a second.
    """
    gc.collect()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
