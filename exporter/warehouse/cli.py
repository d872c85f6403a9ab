"""The commands `ollama-fleet warehouse …`: export hourly roll-ups, see trends, explain outliers.

Data goes to stdout, words to stderr. Exit status: 0 all well; 1 the warehouse cannot be read or
written; 2 wrong options, or a Prometheus that cannot be asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import click

from exporter.warehouse.errors import SourceError, WarehouseError
from exporter.warehouse.export import (
    MAX_BODY_BYTES,
    MAX_SINCE_S,
    TIMEOUT_S,
    Export,
    Exported,
    Span,
)
from exporter.warehouse.rollups import HOUR_S, Naming
from exporter.warehouse.storage import Warehouse
from ollama_fleet import logs
from ollama_fleet.clock import SystemClock
from ollama_fleet.levels import parse_share
from ollama_fleet.options import (
    FILE,
    Duration,
    FailingGroup,
    Parsed,
    json_option,
    prometheus_option,
)
from ollama_fleet.prometheus import PrometheusClient
from ollama_fleet.tables import count_text

NAMING = Naming()
DAY_S = 86_400.0
FORMATS = (".png", ".svg")
Command = Callable[..., None]


def warehouse_options(command: Command) -> Command:
    """Give a command the options that say where the warehouse is."""
    place = click.option(
        "--warehouse",
        "place",
        default="warehouse",
        metavar="FOLDER_OR_URL",
        help="A folder, or s3://bucket/prefix; its credentials come from the environment, as those "
        "of the AWS command do.",
    )
    endpoint = click.option(
        "--s3.endpoint-url",
        "endpoint_url",
        metavar="URL",
        help="Server of s3:// addresses, unless it is Amazon's.",
    )
    return place(endpoint(command))


@click.group(
    cls=FailingGroup,
    failures=(WarehouseError,),
    unasked=SourceError,
    short_help="Export hourly roll-ups as Parquet, and find trends and causes in them.",
    context_settings={
        "auto_envvar_prefix": "OLLAMA_FLEET_WAREHOUSE",
        "help_option_names": ["-h", "--help"],
    },
)
def warehouse() -> None:
    """Export hourly roll-ups of a fleet as Parquet, and find trends and causes in them.

    \b
    Examples:
      ollama-fleet warehouse export --prometheus.url http://127.0.0.1:9090 \\
          --warehouse /srv/warehouse
      ollama-fleet warehouse export --prometheus.url http://127.0.0.1:9090 \\
          --warehouse s3://fleet/hours
      ollama-fleet warehouse trend --warehouse /srv/warehouse --plot trend.svg
      ollama-fleet warehouse explain --warehouse /srv/warehouse --slow
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@warehouse.command("export")
@prometheus_option
@warehouse_options
@click.option(
    "--since",
    "since_s",
    type=Duration(HOUR_S, MAX_SINCE_S),
    default="365d",
    help="How far back to look for hours that the warehouse lacks.",
)
@click.option(
    "--settle",
    "settle_s",
    type=Duration(0.0),
    default="5m",
    help="Export an hour this long after its end, when late samples are there.",
)
@click.option(
    "--every",
    "every_s",
    type=Duration(1.0),
    help="Go on and export this often, instead of once.",
)
@click.option(
    "--cluster-label",
    default=NAMING.cluster_label,
    metavar="LABEL",
    help="Label that distinguishes fleets in one Prometheus; as in the alerts' "
    "prometheus.cluster_label.",
)
@click.option(
    "--hardware-label",
    default=NAMING.hardware_label,
    metavar="LABEL",
    help="Label of the inventory with the hardware; as the exporter's metrics.hardware-label.",
)
@json_option
def export(
    *,
    url: str,
    place: str,
    endpoint_url: str | None,
    since_s: float,
    settle_s: float,
    every_s: float | None,
    cluster_label: str,
    hardware_label: str,
    is_json: bool,
) -> None:
    """Export each complete hour that Prometheus has and the warehouse lacks.

    Run it each hour, or let it run with --every. What was interrupted is done by the next run; an
    hour that is there is not asked for again, nor is one that Prometheus lacks.
    """
    logs.configure("info")
    store, naming = (
        Warehouse(place, endpoint_url=endpoint_url),
        Naming(cluster_label, hardware_label),
    )
    span = Span(since_s, settle_s)

    def show(done: Exported) -> None:
        click.echo(json.dumps(done.as_json()) if is_json else _exported_text(done))

    asyncio.run(_export(url, store, naming, span, every_s, show))


async def _export(
    url: str,
    store: Warehouse,
    naming: Naming,
    span: Span,
    every_s: float | None,
    show: Callable[[Exported], None],
) -> None:
    client = PrometheusClient(url.rstrip("/"), timeout_s=TIMEOUT_S, max_body_bytes=MAX_BODY_BYTES)
    async with client:
        job = Export(client, store, naming)
        if every_s is None:
            show(await job.run(span, now_s=time.time()))
        else:
            await job.run_every(every_s, span, SystemClock(), show)


def _exported_text(done: Exported) -> str:
    return (
        f"{count_text(done.n_hours, 'hour')} exported, {done.n_empty} of them empty: "
        f"{done.n_bytes:,} bytes in {done.duration_s:.1f} s"
    )


def _share(text: str) -> float:
    share = parse_share(text)
    if not 0 < share < 1:
        raise ValueError("must be above 0% and below 100%")
    return share


def _pictures(_: click.Context, __: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    for path in paths:
        if path.suffix not in FORMATS:
            raise click.BadParameter(f"must end with {' or '.join(FORMATS)}, got {path}")
    return paths


@warehouse.command("trend")
@warehouse_options
@click.option(
    "--since",
    "since_s",
    type=Duration(DAY_S),
    default="365d",
    help="How far back to look from the last day of the warehouse.",
)
@click.option(
    "--replace-below",
    "share",
    default="90%",
    type=Parsed("share", _share),
    help="Replace hardware when its speed is down to this share of new.",
)
@click.option(
    "--plot",
    "pictures",
    multiple=True,
    callback=_pictures,
    type=FILE,
    help="Draw the trend into this file, .png or .svg. Repeatable.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, with every node.")
def show_trend(
    *,
    place: str,
    endpoint_url: str | None,
    since_s: float,
    share: float,
    pictures: tuple[Path, ...],
    is_json: bool,
) -> None:
    """Say how fast hardware ages, which nodes age faster than their peers, when to replace.

    Speed per instance against its own past, in percent a month with a 95 % interval: for the fleet,
    each hardware and each node. It needs weeks, and is good after months.
    """
    from exporter.warehouse import plot, report, trend  # scipy takes a second to import

    store = Warehouse(place, endpoint_url=endpoint_url)
    days = trend.days_since(store, since_s)
    stretches = trend.stretches(store, days)
    found = trend.trend(stretches, days[0], days[-1])
    for path in pictures:
        plot.draw(found, stretches, path)
    if is_json:
        click.echo(json.dumps(report.trend_json(found, share), indent=2))
    else:
        click.echo(report.trend_text(found, share))


class Outliers(StrEnum):
    """Which instances are to be explained."""

    SLOW = "slow"
    FAILING = "failing"
    AGEING = "ageing"


@warehouse.command("explain")
@warehouse_options
@click.option("--slow", "kind", flag_value=Outliers.SLOW, help="Explain slow instances (default).")
@click.option("--failing", "kind", flag_value=Outliers.FAILING, help="Explain failing instances.")
@click.option(
    "--ageing", "kind", flag_value=Outliers.AGEING, help="Explain nodes that age faster than peers."
)
@click.option(
    "--since",
    "since_s",
    type=Duration(DAY_S),
    help="How far back to look from the last day of the warehouse. [default: 1d; 365d of --ageing]",
)
@click.option(
    "--slow-below",
    default="85%",
    type=Parsed("share", _share),
    help="An instance is slow below this share of the median speed of its peers: same model, "
    "engine and hardware.",
)
@click.option(
    "--failing-below",
    default="99%",
    type=Parsed("share", _share),
    help="An instance fails below this uptime.",
)
@json_option
def explain_outliers(
    *,
    place: str,
    endpoint_url: str | None,
    kind: str | None,
    since_s: float | None,
    slow_below: float,
    failing_below: float,
    is_json: bool,
) -> None:
    """Say which labels explain the slow, failing or ageing instances of a period.

    Any label of the inventory, model, engine, version, quantisation, hardware and node. Each node
    counts once, and p-values are corrected for the number of values.
    """
    from exporter.warehouse import explain, report, trend  # scipy takes a second

    store = Warehouse(place, endpoint_url=endpoint_url)
    is_ageing = kind == Outliers.AGEING
    days = trend.days_since(store, since_s or (365 * DAY_S if is_ageing else DAY_S))
    seen = explain.seen(store, days[-1:] if is_ageing else days)
    if is_ageing:
        is_outlier = explain.ageing(
            trend.trend(trend.stretches(store, days), days[0], days[-1]).ageing
        )
    elif kind == Outliers.FAILING:
        is_outlier = explain.failing(failing_below)
    else:
        is_outlier = explain.slow(seen, slow_below)
    subjects = explain.subjects(seen, is_outlier)
    found = explain.explanations(subjects)
    if is_json:
        click.echo(json.dumps(report.explained_json(subjects, found), indent=2))
    else:
        click.echo(report.explained_text(subjects, found, kind or Outliers.SLOW))
