"""What promtool says of the rules: when each alert fires and when not, and what it says then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.alerts import promtool
from tests.alerts.promtool import (
    ARTICLE,
    CASES,
    Rule,
    TestFile,
    foundations,
    read_rules,
    read_test,
    read_tests,
    run,
    write,
)

RULES = read_rules()
ARTICLE_RULES = read_rules(promtool.RULES / ARTICLE)
FILES = read_tests()
ALERTS = sorted({rule.name for rule in RULES if rule.is_alert})
ANNOTATIONS = {"summary", "description", "runbook_url", "dashboard_url"}


def _seen_by(file: TestFile, rules: Sequence[Rule] = RULES) -> list[Rule]:
    """Return the rules that a file's cases rest on: a long test of one alert needs no others."""
    is_of_all = "ALERTS" in file.mentioned and file.is_scenario
    alerts = {rule.name for rule in rules if rule.is_alert and is_of_all}
    seen = foundations(file.mentioned | alerts, rules)
    return [rule for rule in rules if rule.name in seen]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.id)
def test_promtool_finds_that_rules_keep_their_promises(
    file: TestFile, promtool_binary: Path, tmp_path: Path
) -> None:
    result = run(promtool_binary, write(tmp_path, _seen_by(file), file.document))

    assert 0 == result.returncode, result.stdout


def test_the_articles_rules_fire_at_its_three_figures(
    promtool_binary: Path, tmp_path: Path
) -> None:
    file = read_test(promtool.TESTS / ARTICLE / "thresholds.yml")
    texts = {rule.name: str(rule.body["expr"]) for rule in ARTICLE_RULES}

    result = run(promtool_binary, write(tmp_path, _seen_by(file, ARTICLE_RULES), file.document))

    assert 0 == result.returncode, result.stdout
    assert "< 9900" == texts["OllamaFleetHealthyInstancesLow"].splitlines()[1]
    assert " - 9900 >= 0" in texts["OllamaFleetCapacityLow"]
    assert texts["OllamaFleetLatencyP99High"].endswith("> 0.15")
    assert texts["OllamaFleetTokenThroughputLow"].endswith("< 400000")


def test_every_other_rule_of_the_article_is_one_that_the_tests_above_have_seen() -> None:
    """So the tests of the shipped rules hold for the article's as well."""
    differing = {rule.name for rule in ARTICLE_RULES if rule not in RULES}

    assert [rule.name for rule in RULES] == [rule.name for rule in ARTICLE_RULES]
    assert differing == {
        "OllamaFleetCapacityLow",
        "OllamaFleetHealthyInstancesLow",
        "OllamaFleetTokenThroughputLow",
        "fleet:ollama_healthy_instances:threshold",
        "fleet:ollama_tokens_per_second:threshold",
    }


def test_rules_rest_on_rules_before_them_only() -> None:
    """Otherwise they would see what these said an evaluation ago."""
    recorded = {rule.name for rule in RULES}
    before: set[str] = set()
    for rule in RULES:
        assert (rule.read & recorded) - {rule.name} <= before, rule.name
        before.add(rule.name)


def test_every_alert_has_a_file_of_tests() -> None:
    assert ALERTS == sorted(file.id for file in FILES if not file.is_scenario)


def test_every_alert_is_shown_to_fire_with_all_it_says_and_not_to_fire() -> None:
    faults = []
    for file in FILES:
        cases = [
            case.get("exp_alerts") or []
            for case in file.cases("alert_rule_test")
            if case["alertname"] == file.id
        ]
        told = [firing.get("exp_annotations", {}) for firings in cases for firing in firings]
        if not file.is_scenario:
            if not told or any(annotations.keys() != ANNOTATIONS for annotations in told):
                faults.append(f"{file.id}: not shown to fire with all it says")
            if file.id != "Watchdog" and all(cases):
                faults.append(f"{file.id}: not shown to be silent")

    assert [] == faults


def test_files_name_their_tests_the_rules_that_they_need_and_the_order_of_their_groups() -> None:
    """Without an order promtool takes any, another each time."""
    faults = []
    for file in FILES:
        groups = {rule.group for rule in _seen_by(file)}
        patterns = file.document["rule_files"]
        named = {path.stem for each in patterns for path in file.path.parent.glob(each)}
        if not groups <= named:
            faults.append(f"{file.id}: rule_files lack {groups - named}")
        if len(groups) > 1 and not groups <= set(file.document.get("group_eval_order", ())):
            faults.append(f"{file.id}: group_eval_order lacks groups")
        faults += [
            f"{file.id}: a test without a name or cases: {test}"
            for test in file.document["tests"]
            if not test.get("name") or not any(test.get(kind) for kind in CASES)
        ]

    assert [] == faults
