"""The commands `ollama-fleet dashboards push` and `provision`: dashboards get to Grafana.

Results go to stdout, words to stderr. Exit status: 0 every dashboard is in Grafana as it should be
(with --dry-run: a push would bring that about), or the files are there; 1 some are not, or Grafana
or a file cannot be used; 2 wrong options; 130 interrupted while it wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
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

INTERRUPTED = 130
"""As shells have it: 128 and the number of SIGINT."""
DEFAULTS = DashboardSettings()
TOKEN_VARIABLE = "OLLAMA_FLEET_GRAFANA_TOKEN_FILE"  # noqa: S105 - names a file that holds one
URL_VARIABLE = "OLLAMA_FLEET_GRAFANA_URL"


@click.command("push", short_help="Bring the dashboards into a Grafana.")
@click.argument("wanted", nargs=-1, metavar="[UID|FILE]...")
@click.option(
    "--url",
    required=True,
    envvar=URL_VARIABLE,
    help=f"Grafana's address, with its sub-path if it has one. [env: {URL_VARIABLE}]",
)
@click.option(
    "--token-file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=TOKEN_VARIABLE,
    help=f"Holds a service account's token, role Editor. [env: {TOKEN_VARIABLE}]",
)
@click.option(
    "--ca-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PEM certificates of the authority that signed Grafana's; instead of the usual ones.",
)
@click.option(
    "--folder",
    "folder_title",
    default=DEFAULTS.folder,
    show_default=True,
    metavar="TITLE",
    help="Title of the folder for new dashboards, where it has to be made. Its uid is fixed; "
    "dashboards that are there already stay in their folders.",
)
@click.option(
    "--input-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of *.json to push, instead of the dashboards that come with ollama-fleet.",
)
@click.option("--overwrite", "is_overwriting", is_flag=True, help="Replace what people changed.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Write nothing; show the differences.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
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
    is_json: bool,
) -> None:
    """Bring the dashboards into a Grafana: all, or those named by uid or file.

    What is there as wanted is left alone. What a person has saved in Grafana since the last push is
    a conflict, and replaced with --overwrite only.

    \b
    Examples:
      ollama-fleet dashboards push --url https://grafana.example.org --token-file token --dry-run
      ollama-fleet dashboards push --url http://127.0.0.1:3000 --token-file token \\
          ollama-fleet-overview
    """  # noqa: D301 - click keeps the lines after a backspace as they are
    chosen = documents.load(input_dir, wanted)
    with Transport(url, token_of(token_file), ca_file=ca_file) as transport:
        grafana = Grafana(transport)
        grafana.check()
        steps = pushing.plan(grafana, chosen, is_overwriting=is_overwriting)
        if is_dry_run:
            results, is_interrupted = pushing.planned(steps), False
        else:
            doing = pushing.carry_out(
                grafana, steps, folder_title, is_overwriting=is_overwriting, report=_progress(steps)
            )
            results, is_interrupted = _done(doing, steps)
    _show(steps, results, url=url, is_dry_run=is_dry_run, is_json=is_json)
    if is_interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    if any(result.state not in IS_WELL for result in results):
        raise click.exceptions.Exit(1)


@click.command("provision", short_help="Write files that make Grafana load them.")
@click.option(
    "--output-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Grafana's folder for such files, or another to copy from.",
)
@click.option(
    "--prometheus-url",
    default=DEFAULTS.prometheus_url,
    show_default=True,
    metavar="URL",
    help="The Prometheus that has the fleet's figures, as Grafana reaches it.",
)
@click.option(
    "--alertmanager-url",
    default=DEFAULTS.alertmanager_url,
    show_default=True,
    metavar="URL",
    help="The Alertmanager, as Grafana reaches it.",
)
@click.option(
    "--scrape-interval",
    default=DEFAULTS.scrape_interval,
    show_default=True,
    metavar="DURATION",
    help="Of the exporters' job: the range of rates depends on it.",
)
@click.option(
    "--dashboards-path",
    default=DEFAULTS.dashboards_path,
    show_default=True,
    metavar="PATH",
    help="Where Grafana's machine has the dashboards' *.json: copy dashboards/out there.",
)
@click.option(
    "--folder",
    "folder_title",
    default=DEFAULTS.folder,
    show_default=True,
    metavar="TITLE",
    help="Title of the folder in which Grafana shows them.",
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

    Tells the files that changed. Grafana wants a restart for data sources; dashboards show within
    half a minute.

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
    """Read a token; never tells what the file holds.

    Raises:
        SettingsError: It cannot be read, or holds no token.
    """
    try:
        token = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise SettingsError(
            f"cannot read --token-file {file}: {error.strerror}; it must hold the token of a "
            "service account of Grafana"
        ) from error
    if not token or not all("!" <= character <= "~" for character in token):
        raise SettingsError(
            f"--token-file {file} does not hold one token and nothing else; put a service "
            "account's token there, such as glsa_…"
        )
    return token


def _done(doing: Iterable[Result], steps: Sequence[Step]) -> tuple[tuple[Result, ...], bool]:
    """Return a result for each step, and whether a person interrupted before all were done."""
    done: list[Result] = []
    try:
        # What was added before an interruption stays.
        done.extend(doing)
    except KeyboardInterrupt:
        return (*done, *pushing.interrupted(steps[len(done) :])), True
    return tuple(done), False


def _progress(steps: Sequence[Step]) -> Callable[[Step], None]:
    """Return what tells a person at a terminal which dashboard is being saved."""

    def tell(step: Step) -> None:
        if sys.stderr.isatty():
            click.echo(f"[{steps.index(step) + 1}/{len(steps)}] {step.document.uid}", err=True)

    return tell


def _show(
    steps: Sequence[Step],
    results: Sequence[Result],
    *,
    url: str,
    is_dry_run: bool,
    is_json: bool,
) -> None:
    if is_json:
        click.echo(json.dumps(_as_json(steps, results, url=url, is_dry_run=is_dry_run), indent=2))
        return
    if is_dry_run:
        for step in steps:
            if step.diff:
                click.echo(step.diff)
    width = max(len(state) for state in State)
    for result in results:
        would = "would be " if is_dry_run and result.state in IS_WRITTEN else ""
        click.echo(f"{would}{result.state:<{width}}  {result.uid}")
    for result in results:
        if result.reason:
            click.echo(f"{result.uid}: {result.reason}", err=True)


def _as_json(
    steps: Sequence[Step], results: Sequence[Result], *, url: str, is_dry_run: bool
) -> dict[str, Any]:
    shown = [asdict(result) for result in results]
    if is_dry_run:
        for entry, step in zip(shown, steps, strict=True):
            entry["diff"] = step.diff
    return {"url": url.rstrip("/"), "dry_run": is_dry_run, "dashboards": shown}
