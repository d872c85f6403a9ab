"""Every alert has a runbook, and what a runbook names is real: series, commands, settings, pages.

`runbooks` knows what is real. That commands and queries run is tested in `test_runbook_commands`.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Callable

import promql_parser
import pytest
import yaml

from alerts import explain, rulebook
from alerts.inhibition import EXPORTERS, FLEET_ALERTS, RULES
from alerts.settings import Settings
from exporter.model import Status
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import percent
from tests.alerts import runbooks
from tests.alerts.runbooks import Runbook, alerts_by_name

HEADINGS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation", "## Escalate"]
SETUP = (
    "EXPORTER=${EXPORTER:-http://127.0.0.1:11440}; PROMETHEUS=${PROMETHEUS:-http://127.0.0.1:9090}"
)
LONGEST = 75
"""Lines that somebody reads at three in the morning."""
PAGES = runbooks.read_all()
NAMES = [page.name for page in PAGES]


def pages(check: Callable[[Runbook], None]) -> Callable[[], None]:
    """Return a test that does a check on every runbook and tells of all that fail it."""

    def test() -> None:
        faults = []
        for page in PAGES:
            try:
                check(page)
            except AssertionError as error:
                faults.append(f"{page.name}: {error}")
        assert [] == faults

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert sorted(alerts_by_name()) == NAMES
    assert {".md"} == {path.suffix for path in runbooks.FOLDER.iterdir()}


@pages
def test_headings_are_the_same_in_the_same_order(page: Runbook) -> None:
    assert [f"# {page.name}", *HEADINGS] == page.headings
    assert 25 <= len(page.text.splitlines()) <= LONGEST


@pages
def test_the_line_below_the_title_is_what_the_rule_says(page: Runbook) -> None:
    """Severities, how long the condition must hold, how long it fires on, settings in force."""
    alerts = alerts_by_name()[page.name]
    holds = dict.fromkeys(duration_text(alert.for_s) for alert in alerts if alert.for_s)
    when = f"after {', '.join(holds)}" if holds else "at once"
    when += (
        f", resolves after {duration_text(alerts[0].keep_firing_for_s)}"
        if alerts[0].keep_firing_for_s
        else ""
    )
    settings = [
        f"`{key}` ({explain.value_of(Settings(), key).removesuffix('.0')})"
        for key in alerts[0].settings
    ]

    severities = ", ".join(dict.fromkeys(str(alert.severity) for alert in alerts))
    assert f"{severities} · {when} · {', '.join(settings) or 'no threshold'}" == page.summary


def _muting() -> dict[str, set[str]]:
    """Return which alerts each alert mutes while it fires, whatever their severity."""
    muting: dict[str, set[str]] = defaultdict(set)
    everything = {
        name for name in alerts_by_name() if re.match(r"Ollama(?!Provisioner|Gateway)", name)
    }
    for rule in RULES:
        sources, targets = _named(rule.sources), _named(rule.targets)
        for source in sources:
            muting[source] |= (everything if EXPORTERS in rule.targets else targets) - {source}
    return muting


def _named(matchers: tuple[str, ...]) -> set[str]:
    found = [re.fullmatch(r'alertname=~?"([\w|]+)"', matcher) for matcher in matchers]
    return {name for match in found if match for name in match[1].split("|")}


@pages
def test_what_is_muted_meanwhile_is_what_the_inhibition_says(page: Runbook) -> None:
    muting = _muting()
    mutes = muting.get(page.name, set())
    told = {
        key: set(re.findall(r"`(\w+)`", rest))
        for key, rest in re.findall(r"(?m)^- (Mutes|Muted by): (.*)$", page.text)
    }

    if "every other alert but `Watchdog` and those on provisioners and gateways" in page.text:
        on_fleet = {name for name in alerts_by_name() if re.match(EXPORTERS.split('"')[1], name)}
        assert (on_fleet | told["Mutes"]) - {page.name, "Watchdog"} == mutes
    elif "Mutes: every alert on the fleet's figures" in page.text:
        assert set(FLEET_ALERTS) | told["Mutes"] == mutes
    else:
        assert mutes == told.get("Mutes", set())
    assert {name for name in muting if page.name in muting[name]} == told.get("Muted by", set())


@pages
def test_what_a_runbook_names_exists(page: Runbook) -> None:
    assert [] == runbooks.faults(page)


@pages
def test_a_runbook_asks_for_series_that_its_rule_reads(page: Runbook) -> None:
    """A runbook that was mixed up with another's would ask for something else."""
    groups = rulebook.groups(Settings())
    exprs = [alert.expr for alert in alerts_by_name()[page.name]]
    read = exprs + [rule.expr for expr in exprs for rule in explain.dependencies(expr, groups)]
    parsed = [promql_parser.parse(query) for query in page.queries]
    asked = {s.name for expression in parsed for s in runbooks.selectors(expression) if s.name}

    assert asked
    if page.name != "Watchdog":  # it reads none
        assert [name for name in asked if any(explain.mentions(expr, name) for expr in read)]


@pages
def test_settings_to_change_an_alert_are_its_own(page: Runbook) -> None:
    """What the YAML changes, the alert's rule is moved by, or it overrides this alert."""
    (block,) = page.blocks("yaml")
    own = {*alerts_by_name()[page.name][0].settings, f"alerts.{page.name}"}
    changed = {
        f"{key}.{inner}" for key, section in yaml.safe_load(block).items() for inner in section
    }

    assert changed
    if page.name != "Watchdog":
        assert [] == sorted(c for c in changed - own if not c.startswith("prometheus."))
        assert f"ollama-fleet alerts explain {page.name}" in page.text


@pages
def test_shell_blocks_begin_with_where_to_ask(page: Runbook) -> None:
    assert page.script.startswith(SETUP)


BURNS = [page for page in PAGES if page.name.endswith("BudgetBurn")]


@pytest.mark.parametrize("page", BURNS, ids=[page.name for page in BURNS])
def test_the_pairs_of_windows_are_those_of_the_rules(page: Runbook) -> None:
    expected = []
    for alert in alerts_by_name()[page.name]:
        (limit,) = set(re.findall(r"> ([\d.]+)", alert.expr))
        labels = alert.labels
        row = (labels["long_window"], labels["short_window"], percent(float(limit)), alert.severity)
        expected.append(row)

    rows = re.findall(r"(?m)^\| (\w+) \| (\w+) \| ([\d.]+%) \w+ \| (\w+) \|$", page.text)
    assert expected == rows


INVENTED = {
    "series": "`ollama_fleet_misery_total` grows.",
    "recorded series": "See `fleet:ollama_instances:misery`.",
    "alert": "OllamaFleetMisery fires as well.",
    "setting": "Raise `thresholds.misery`.",
    "exporter's setting": "Raise `poll.misery` (1s).",
    "default": "It is `thresholds.versions` (5).",
    "exporter's default": "It is `poll.interval` (11s).",
    "status": "They are `miserable`.",
    "command": "Run `ollama-fleet alerts improve`.",
    "option": "Run `ollama-fleet exporter --misery`.",
    "option by itself": "Add `--poll.misery 3s`.",
    "page": "Look at `/misery`.",
    "page in a shell": '```sh\ncurl "$EXPORTER/misery"\n```',
    "filter": '```sh\ncurl "$EXPORTER/instances?misery=1"\n```',
    "encoded filter": '```sh\ncurl "$EXPORTER/instances" --data-urlencode "misery=1"\n```',
    "status in a filter": '```sh\ncurl "$EXPORTER/instances?status={healthy,misery}"\n```',
    "field": '```sh\ncurl "$EXPORTER/instances" | grep -oE \'"(node|misery)":"x"\'\n```',
    "command in a shell": "```sh\nollama-fleet alerts improve --all\n```",
    "option in a shell": "```sh\nollama-fleet alerts list --misery\n```",
    "window of a series": '```sh\npromtool query instant x "fleet:ollama_misery:avg$window"\n```',
    "PromQL": "```promql\nsum by (node (up)\n```",
    "second query": "```promql\nup\n# more\nup{\n```",
    "label": '```promql\nrate(ollama_node_errors_total{rack="1"}[5m])\n```',
    "status in a query": '```promql\nfleet:ollama_instances:sum{status=~"healthy|misery"}\n```',
    "query of promtool": "```sh\npromtool query instant \"$PROMETHEUS\" 'sum(('\n```",
    "key": "```yaml\nthresholds: {misery: 3}\n```",
    "value": "```yaml\nthresholds: {versions: many}\n```",
    "override": "```yaml\nalerts: {OllamaFleetExporterDown: {until: 5m}}\n```",
    "overridden alert": "```yaml\nalerts: {Misery: {for: 5m}}\n```",
}


def test_what_is_invented_is_found() -> None:
    found = {
        name: len(runbooks.faults(Runbook("Invented", text))) for name, text in INVENTED.items()
    }

    assert dict.fromkeys(INVENTED, 1) == found


@pages
def test_shell_blocks_are_bash(page: Runbook) -> None:
    assert 0 == subprocess.run(["/bin/bash", "-n", "-c", page.script], check=False).returncode


def test_statuses_to_ask_for_are_named_by_the_runbooks() -> None:
    """A status that no runbook speaks of would leave its reader alone."""
    spoken = " ".join(page.text for page in PAGES)

    assert [] == [status for status in Status if status not in spoken]
