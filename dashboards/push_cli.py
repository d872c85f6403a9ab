"""The commands `ollama-fleet dashboards push` and `provision`: dashboards get to Grafana.

Results go to stdout, messages to stderr. Exit status: 0 every dashboard is in Grafana (with
--dry-run: would be), or the files are written; 1 otherwise; 2 wrong options.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dashboards import documents, provisioning
from dashboards import push as pushing
from dashboards.errors import SettingsError
from dashboards.grafana import Grafana
from dashboards.push import IS_WELL, IS_WRITTEN, Result, State, Step
from dashboards.settings import DashboardSettings
from dashboards.transport import Transport
from ollama_fleet.options import FILE, FOLDER, json_option

DEFAULTS = DashboardSettings()
TOKEN_VARIABLE = "OLLAMA_FLEET_GRAFANA_TOKEN_FILE"  # noqa: S105 - names a file that holds one
URL_VARIABLE = "OLLAMA_FLEET_GRAFANA_URL"


@click.command("push", short_help="Bring the dashboards into a Grafana.")
@click.argument("wanted", nargs=-1, metavar="[UID|FILE]...")
@click.option(
    "--grafana.url",
    "url",
    required=True,
    envvar=URL_VARIABLE,
    metavar="URL",
    help=f"Grafana's address, with its sub-path if it has one. [env: {URL_VARIABLE}]",
)
@click.option(
    "--grafana.token-file",
    "token_file",
    required=True,
    type=FILE,
    envvar=TOKEN_VARIABLE,
    help=f"File with a token of a service account with the role Editor. [env: {TOKEN_VARIABLE}]",
)
@click.option(
    "--grafana.ca-file",
    "ca_file",
    type=FILE,
    help="CA bundle (PEM) used to verify Grafana, instead of the system's.",
)
@click.option(
    "--folder",
    "folder_title",
    default=DEFAULTS.folder,
    metavar="TITLE",
    help="Title of the folder for new dashboards, where it has to be made. Its uid is fixed; "
    "dashboards that are there already stay in their folders.",
)
@click.option(
    "--input-dir",
    type=FOLDER,
    help="Folder of *.json to push, instead of the dashboards that come with ollama-fleet.",
)
@click.option(
    "--overwrite",
    "is_overwriting",
    is_flag=True,
    help="Replace dashboards that were changed in Grafana.",
)
@click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Write nothing, say what would be done."
)
@click.option(
    "--diff", "is_diffing", is_flag=True, help="As --dry-run, and show each difference, in JSON."
)
@json_option
def push(
    *,
    wanted: tuple[str, ...],
    url: str,
    token_file: Path,
    ca_file: Path | None,
    folder_title: str,
    input_dir: Path | None,
    is_overwriting: bool,
    is_dry_run: bool,
    is_diffing: bool,
    is_json: bool,
) -> None:
    """Bring the dashboards into a Grafana: all, or those named by uid or file.

    Unchanged dashboards are not written. A dashboard that was saved in Grafana since the last push
    is a conflict; it is replaced only with --overwrite.

    \b
    Examples:
      ollama-fleet dashboards push --grafana.url https://grafana.example.org \\
          --grafana.token-file token --dry-run
      ollama-fleet dashboards push --grafana.url https://grafana.example.org \\
          --grafana.token-file token --diff
      ollama-fleet dashboards push --grafana.url http://127.0.0.1:3000 --grafana.token-file token \\
          ollama-fleet-overview
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    is_dry_run = is_dry_run or is_diffing
    chosen = documents.load(input_dir, wanted)
    with Transport(url, token_of(token_file), ca_file=ca_file) as transport:
        grafana = Grafana(transport)
        grafana.check()
        steps = pushing.plan(grafana, chosen, is_overwriting=is_overwriting)
        results = (
            pushing.planned(steps)
            if is_dry_run
            else pushing.carry_out(grafana, steps, folder_title, is_overwriting=is_overwriting)
        )
        if is_json:
            done = tuple(results)
            shown = _as_json(steps, done, url=url, is_dry_run=is_dry_run, is_diffing=is_diffing)
            click.echo(json.dumps(shown, indent=2))
        else:
            _print_diffs(steps if is_diffing else ())
            done = tuple(
                _printed(result, step, is_dry_run=is_dry_run)
                for result, step in zip(results, steps, strict=True)
            )
    if any(result.state not in IS_WELL for result in done):
        raise click.exceptions.Exit(1)


@click.command("provision", short_help="Write files that make Grafana load them.")
@click.option(
    "--output-dir",
    required=True,
    type=FOLDER,
    help="Provisioning folder of Grafana, or a folder to copy from.",
)
@click.option(
    "--prometheus.url",
    "prometheus_url",
    default=DEFAULTS.prometheus_url,
    metavar="URL",
    help="URL of Prometheus, as Grafana reaches it.",
)
@click.option(
    "--alertmanager.url",
    "alertmanager_url",
    default=DEFAULTS.alertmanager_url,
    metavar="URL",
    help="URL of Alertmanager, as Grafana reaches it.",
)
@click.option(
    "--scrape-interval",
    default=DEFAULTS.scrape_interval,
    metavar="DURATION",
    help="Scrape interval of the exporters; determines the range of rates.",
)
@click.option(
    "--dashboards-path",
    default=DEFAULTS.dashboards_path,
    metavar="PATH",
    help="Folder of the *.json on Grafana's machine: copy dashboards/out there.",
)
@click.option(
    "--folder",
    "folder_title",
    default=DEFAULTS.folder,
    metavar="TITLE",
    help="Title of the folder in Grafana.",
)
def provision(
    *,
    output_dir: Path,
    prometheus_url: str,
    alertmanager_url: str,
    scrape_interval: str,
    dashboards_path: str,
    folder_title: str,
) -> None:
    """Write files that make Grafana load the data sources and dashboards at its start.

    Prints the files that changed. Restart Grafana for data sources; dashboards appear within half a
    minute.

    \b
    Examples:
      ollama-fleet dashboards provision --output-dir /etc/grafana/provisioning
      ollama-fleet dashboards build --output-dir /etc/grafana/dashboards/ollama-fleet
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    settings = DashboardSettings(
        scrape_interval=scrape_interval,
        prometheus_url=prometheus_url,
        alertmanager_url=alertmanager_url,
        dashboards_path=dashboards_path,
        folder=folder_title,
    )
    for path in provisioning.write(settings, output_dir):
        click.echo(output_dir / path)


def token_of(file: Path) -> str:
    """Read a token; messages never repeat what the file holds.

    Raises:
        SettingsError: It cannot be read, or holds no token.
    """
    try:
        token = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise SettingsError(
            f"cannot read --grafana.token-file {file}: {error.strerror}; it must hold the token of "
            "a service account of Grafana"
        ) from error
    if not token or not all("!" <= character <= "~" for character in token):
        raise SettingsError(
            f"--grafana.token-file {file} does not hold one token and nothing else; put a service "
            "account's token there, such as glsa_…"
        )
    return token


def _print_diffs(steps: Iterable[Step]) -> None:
    for step in steps:
        if step.diff:
            click.echo(step.diff)


def _printed(result: Result, step: Step, *, is_dry_run: bool) -> Result:
    would = "would be " if is_dry_run and result.state in IS_WRITTEN else ""
    change = f"  {_change(step)}" if is_dry_run and step.diff else ""
    width = max(len(state) for state in State)
    click.echo(f"{would}{result.state:<{width}}  {result.uid}{change}")
    if result.reason:
        click.echo(f"{result.uid}: {result.reason}", err=True)
    return result


def _change(step: Step) -> str:
    """Return how much a push would change."""
    signs = [line[:1] for line in step.diff.splitlines()[2:]]
    return f"+{signs.count('+')} −{signs.count('-')} lines" if step.found else "new"


def _as_json(
    steps: Sequence[Step],
    results: Sequence[Result],
    *,
    url: str,
    is_dry_run: bool,
    is_diffing: bool,
) -> dict[str, Any]:
    shown = [asdict(result) for result in results]
    if is_diffing:
        for entry, step in zip(shown, steps, strict=True):
            entry["diff"] = step.diff
    return {"url": url.rstrip("/"), "dry_run": is_dry_run, "dashboards": shown}
