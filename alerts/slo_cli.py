"""The commands `ollama-fleet slo …`."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from alerts import config, slo_history, slo_html, slo_report
from alerts.cli import FAILURES, progress, settings_options
from alerts.errors import CheckError
from alerts.slo import HOUR_S
from ollama_fleet.files import write_whole
from ollama_fleet.options import FILE, Duration, FailingGroup, json_option, prometheus_option

MAX_SINCE_S = 366 * 86_400.0
FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M"]


@click.group(
    cls=FailingGroup,
    failures=FAILURES,
    unasked=CheckError,
    short_help="Report the service level of a fleet.",
)
def slo() -> None:
    """Report the service level of a fleet."""


@slo.command("report")
@settings_options
@prometheus_option
@click.option(
    "--since",
    "since_s",
    type=Duration(HOUR_S, MAX_SINCE_S),
    help="Length of the period. [default: slo.period of the settings, 30d]",
)
@click.option(
    "--until",
    "until",
    type=click.DateTime(FORMATS),
    metavar="YYYY-MM-DD[THH:MM]",
    help="End of the period, in UTC. [default: the last full hour]",
)
@click.option("--cluster", metavar="NAME", help="Which fleet, where Prometheus has several.")
@json_option
@click.option(
    "--html",
    type=FILE,
    help="Write the report to this HTML file as well.",
)
@click.option("--fail-on-missed", is_flag=True, help="Exit with 1 if an objective is missed.")
def report(
    *,
    profile: str | None,
    config_file: Path | None,
    changes: tuple[str, ...],
    url: str,
    since_s: float | None,
    until: datetime | None,
    cluster: str | None,
    is_json: bool,
    html: Path | None,
    fail_on_missed: bool,
) -> None:
    """Report availability and failed requests of a period, and its worst hours.

    The objectives are those of the settings (slo.availability, slo.requests). Hours without data
    are shown, and count neither as good nor as bad.

    \b
    Examples:
      ollama-fleet slo report --prometheus.url http://127.0.0.1:9090
      ollama-fleet slo report --prometheus.url http://127.0.0.1:9090 --until 2026-12-01 \\
        --html november.html

    Exit status: 0 there is a report; 1 there is no history, or with --fail-on-missed an objective
    is missed; 2 Prometheus cannot be asked.
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    settings = config.load(config_file, changes, profile=profile)
    found = asyncio.run(
        slo_history.report(
            settings,
            url,
            cluster=cluster,
            since_s=(since_s or settings.slo.period) // HOUR_S * HOUR_S,
            end_s=_end_s(until, time.time()),
            say=progress,
        )
    )
    progress("")
    if is_json:
        click.echo(json.dumps(slo_report.as_json(found), indent=2))
    else:
        click.echo(slo_report.text(found))
    if html is not None:
        _write(html, slo_html.page(found))
    if fail_on_missed and slo_report.is_missed(found):
        click.get_current_context().exit(1)


def _end_s(until: datetime | None, now_s: float) -> float:
    end_s = now_s if until is None else until.replace(tzinfo=UTC).timestamp()
    if end_s > now_s:
        raise click.UsageError("--until must not be in the future")
    return end_s // HOUR_S * HOUR_S


def _write(file: Path, text: str) -> None:
    try:
        write_whole(file, text.encode(errors="replace"))
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {file}", err=True)
