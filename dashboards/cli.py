"""The commands `ollama-fleet dashboards …`: make the JSON files, list them, bring them to Grafana.

Data goes to stdout, words to stderr. Exit status: 0 all well; 1 drift, bad settings, or a Grafana
that cannot be used; 2 wrong options.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from dashboards import build as building
from dashboards import collection
from dashboards.errors import DashboardsError
from dashboards.push_cli import provision, push
from dashboards.settings import DashboardSettings
from ollama_fleet.generated import GeneratedError
from ollama_fleet.options import FOLDER, FailingGroup

DEFAULTS = DashboardSettings()
Command = Callable[..., None]


def settings_options(command: Command) -> Command:
    """Give a command the options that change what dashboards ask for."""
    cluster = click.option(
        "--cluster-label",
        default=DEFAULTS.cluster_label,
        metavar="LABEL",
        help="Label that distinguishes fleets in one Prometheus; as in the alerts' "
        "prometheus.cluster_label.",
    )
    job = click.option(
        "--job",
        default=DEFAULTS.prometheus_job,
        metavar="NAME",
        help="Scrape job of the exporters; as in prometheus.job.",
    )
    interval = click.option(
        "--scrape-interval",
        default=DEFAULTS.scrape_interval,
        metavar="DURATION",
        help="Scrape interval of that job: shortest step of charts.",
    )
    return cluster(job(interval(command)))


@click.group(
    cls=FailingGroup,
    failures=(DashboardsError, GeneratedError),
    short_help="Build Grafana dashboards and push them.",
)
def dashboards() -> None:
    """Build Grafana dashboards and push them.

    Those that come with ollama-fleet suit the alerts' default settings: push them, or build and
    provision files that Grafana reads by itself. Where the cluster label, the job or the scrape
    interval differ, build your own and push those.

    \b
    Examples:
      ollama-fleet dashboards list
      ollama-fleet dashboards push --grafana.url https://grafana.example.org \\
          --grafana.token-file token
      ollama-fleet dashboards build --cluster-label region --output-dir mine
      ollama-fleet dashboards push --input-dir mine --grafana.url https://grafana.example.org \\
          --grafana.token-file token
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@dashboards.command("build")
@settings_options
@click.option(
    "--output-dir",
    type=FOLDER,
    default=Path("dashboards/out"),
    help="Where to write a *.json for each dashboard.",
)
@click.option("--check", "is_check", is_flag=True, help="Write nothing; fail if something differs.")
def build(
    *, cluster_label: str, job: str, scrape_interval: str, output_dir: Path, is_check: bool
) -> None:
    """Write the dashboards as JSON, for Grafana 10.4 and later.

    Prints the files that changed. Removes its own files that are no longer built; never touches
    other files.
    """
    settings = _settings(cluster_label, job, scrape_interval)
    if is_check:
        building.check(settings, output_dir)
        click.echo(f"{output_dir} is as the settings make it", err=True)
        return
    for path in building.write(settings, output_dir):
        click.echo(output_dir / path)


@dashboards.command("list")
@settings_options
@click.option("--json", "is_json", is_flag=True, help="Print JSON, with every query.")
def list_dashboards(*, cluster_label: str, job: str, scrape_interval: str, is_json: bool) -> None:
    """List the dashboards: uid, title, and how many panels and queries they have."""
    settings = _settings(cluster_label, job, scrape_interval)
    if is_json:
        click.echo(json.dumps(collection.as_json(settings), indent=2, ensure_ascii=False))
    else:
        click.echo(collection.text(settings))


def _settings(cluster_label: str, job: str, scrape_interval: str) -> DashboardSettings:
    return DashboardSettings(
        cluster_label=cluster_label, prometheus_job=job, scrape_interval=scrape_interval
    )


dashboards.add_command(push)
dashboards.add_command(provision)
