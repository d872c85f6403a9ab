"""The commands `ollama-fleet alerts …`: make the rules, list and explain them, try them out.

Data goes to stdout, words to stderr. Exit status: 0 all well; 1 drift, bad settings, or rules that
a Prometheus refuses; 2 wrong options, or a Prometheus that cannot be asked.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from alerts import archive, config, explain, merging, report, rulebook
from alerts import backtest as backtesting
from alerts import build as building
from alerts import check as checking
from alerts import tune as tuning
from alerts.check import Answer
from alerts.errors import AlertsError, CheckError
from alerts.settings import Settings
from ollama_fleet.colours import red
from ollama_fleet.generated import GeneratedError
from ollama_fleet.options import (
    FILE,
    FOLDER,
    Choice,
    Duration,
    FailingGroup,
    json_option,
    prometheus_option,
)

CONFIG_FILE_VARIABLE = "OLLAMA_FLEET_ALERTS_CONFIG_FILE"
Command = Callable[..., None]
FAILURES = (AlertsError, GeneratedError)


def settings_options(command: Command) -> Command:
    """Give a command the options that change the settings."""
    file = click.option(
        "--config.file",
        "config_file",
        type=FILE,
        envvar=CONFIG_FILE_VARIABLE,
        help=f"YAML file with settings. [env: {CONFIG_FILE_VARIABLE}]",
    )
    changes = click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one setting, such as thresholds.healthy_instances=9900. Repeatable.",
    )
    profile = click.option(
        "--profile",
        type=Choice(config.PROFILES),
        help="Settings for a kind of fleet, which --config.file and --set change.",
    )
    return profile(file(changes(command)))


@click.group(
    cls=FailingGroup,
    failures=FAILURES,
    unasked=CheckError,
    short_help="Build, explain and check the alert rules.",
)
def alerts() -> None:
    """Build, explain and check the alert rules.

    The settings are defaults, changed by --profile, by --config.file, and by --set.

    \b
    Examples:
      ollama-fleet alerts build --profile small --output-dir /etc/prometheus/ollama-fleet
      ollama-fleet alerts build --set fleet.size=10000 --set thresholds.tokens_per_second=400000
      ollama-fleet alerts check --prometheus.url http://127.0.0.1:9090
      ollama-fleet alerts backtest --prometheus.url http://127.0.0.1:9090 --profile small
      ollama-fleet alerts tune --prometheus.url http://127.0.0.1:9090 > proposed.yml
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@alerts.command("build")
@settings_options
@click.option(
    "--output-dir",
    type=FOLDER,
    default=Path("alerts"),
    help="Where to write rules/*.yml, alertmanager.yml and templates/*.tmpl.",
)
@click.option(
    "--rules-only",
    "is_rules_only",
    is_flag=True,
    help="Write the rule files alone, straight into the output folder.",
)
@click.option("--check", "is_check", is_flag=True, help="Write nothing; fail if something differs.")
def build(
    *,
    profile: str | None,
    config_file: Path | None,
    changes: tuple[str, ...],
    output_dir: Path,
    is_rules_only: bool,
    is_check: bool,
) -> None:
    """Write the rule files and Alertmanager's configuration."""
    settings = config.load(config_file, changes, profile=profile)
    if is_check:
        building.check(settings, output_dir, is_rules_only=is_rules_only)
        click.echo(f"{output_dir} is as the settings make it", err=True)
        return
    for path in building.write(settings, output_dir, is_rules_only=is_rules_only):
        click.echo(output_dir / path)
    _warn_of_placeholders(settings)


def _warn_of_placeholders(settings: Settings) -> None:
    """Say which links of the alerts lead nowhere: whoever is woken needs them."""
    if missing := settings.links.placeholders:
        options = " ".join(f"--set {key}=URL" for key in missing)
        click.echo(
            f"runbook or dashboard links of the alerts are placeholders: {options}", err=True
        )


@alerts.command("merge")
@settings_options
@click.argument("existing", type=FILE)
@click.option(
    "--output",
    type=FILE,
    help="Write to this file, which may be the same, instead of stdout; templates go beside it.",
)
def merge(
    *,
    profile: str | None,
    config_file: Path | None,
    changes: tuple[str, ...],
    existing: Path,
    output: Path | None,
) -> None:
    """Merge our routing into an existing alertmanager.yml.

    Our routes become the first of the root route; our receivers, inhibitions, time intervals and
    templates join theirs. All of these name our alerts only. Everything else stays as it is. What
    an earlier merge added is replaced.
    """
    settings = config.load(config_file, changes, profile=profile)
    text, mode = merging.read(existing)
    made = merging.merged(text, settings, source=str(existing))
    if not settings.routing.page:
        click.echo("routing.page has no receiver: pages of these alerts go nowhere", err=True)
    if output is None:
        click.echo(made, nl=False)
        return
    for path in building.write_merged(made, output, mode=mode):
        click.echo(path)


@alerts.command("list")
@settings_options
@json_option
def list_alerts(
    *, profile: str | None, config_file: Path | None, changes: tuple[str, ...], is_json: bool
) -> None:
    """List the alerts: severity, how long they hold, what they say."""
    settings = config.load(config_file, changes, profile=profile)
    if is_json:
        click.echo(json.dumps(explain.as_json(settings), indent=2))
    else:
        click.echo(report.listing(settings))


def _alert_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    names = {alert.name for group in rulebook.groups(Settings()) for alert in group.alerts}
    return sorted(name for name in names if name.startswith(incomplete))


@alerts.command("explain")
@settings_options
@click.argument("name", shell_complete=_alert_names)
def explain_alert(
    *, profile: str | None, config_file: Path | None, changes: tuple[str, ...], name: str
) -> None:
    """Explain one alert: its rule, the settings in force, its runbook."""
    click.echo(explain.text(config.load(config_file, changes, profile=profile), name))


@alerts.command("check")
@settings_options
@prometheus_option
@json_option
@click.option("--all", "is_all", is_flag=True, help="Show the recording rules as well.")
@click.option("--fail-on-firing", is_flag=True, help="Exit with 1 if an alert fires now.")
def check(
    *,
    profile: str | None,
    config_file: Path | None,
    changes: tuple[str, ...],
    url: str,
    is_json: bool,
    is_all: bool,
    fail_on_firing: bool,
) -> None:
    """Check the rules against a live Prometheus.

    Shows which alerts can fire there, which never can and why, which fire now, and which differ
    from the rules that it has loaded. Each expression is evaluated once.

    Exit status: 0 all is well; 1 Prometheus refuses an expression, a rule differs from what is
    loaded, or fleets lack a label of their own; 2 Prometheus cannot be asked.
    """
    result = asyncio.run(checking.run(config.load(config_file, changes, profile=profile), url))
    if is_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        click.echo(report.checked(result, is_all=is_all, paint=red))
    is_firing = bool(result.answered(Answer.FIRES))
    if not result.is_good or (fail_on_firing and is_firing):
        click.get_current_context().exit(1)


def history_options(how_far: str) -> Callable[[Command], Command]:
    """Return what gives a command the options of those that ask Prometheus for the past."""
    since = click.option(
        "--since",
        "since_s",
        type=Duration(most_s=archive.MAX_SINCE_S),
        default="14d",
        help=how_far,
    )
    return lambda command: prometheus_option(since(json_option(command)))


def progress(words: str) -> None:
    """Show at a terminal how far it is, in one line."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{words}", err=True, nl=False)


@alerts.command("backtest")
@settings_options
@history_options("How far back to look, at most 84d.")
def backtest(
    *,
    profile: str | None,
    config_file: Path | None,
    changes: tuple[str, ...],
    url: str,
    since_s: float,
    is_json: bool,
) -> None:
    """Say how often each alert would have fired in the history that Prometheus has.

    Under the given settings: times, minutes, and pages and tickets a week. Alerts that read series
    which the loaded rules do not record like that cannot be judged.

    Exit status: 0 all is well; 1 there is no history; 2 Prometheus cannot be asked.
    """
    settings, now_s = config.load(config_file, changes, profile=profile), time.time()
    found = asyncio.run(backtesting.run(settings, url, since_s=since_s, now_s=now_s, say=progress))
    progress("")
    if is_json:
        click.echo(json.dumps(backtesting.as_json(found), indent=2))
    else:
        click.echo(report.backtested(found, since_s=since_s, now_s=now_s))


@alerts.command("tune")
@settings_options
@history_options("How far back to look: at least 3d, at most 84d; whole weeks are best.")
def tune(
    *,
    profile: str | None,
    config_file: Path | None,
    changes: tuple[str, ...],
    url: str,
    since_s: float,
    is_json: bool,
) -> None:
    """Propose thresholds from the fleet's history in Prometheus, as a settings file.

    Each comes with what was seen, and how often the present and the proposed value would have
    fired. Where the history cannot say, the present value is kept.

    Exit status: 0 all is well; 1 there is no history; 2 Prometheus cannot be asked.
    """
    settings, now_s = config.load(config_file, changes, profile=profile), time.time()
    found = asyncio.run(tuning.run(settings, url, since_s=since_s, now_s=now_s))
    if is_json:
        click.echo(json.dumps(tuning.as_json(found), indent=2))
    else:
        click.echo(tuning.as_yaml(found, since_s=since_s, now_s=now_s))
