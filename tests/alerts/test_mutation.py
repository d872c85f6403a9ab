"""Would the tests of the rules notice if a rule were wrong? Each rule is made wrong to find out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alerts import config
from tests.alerts import limits
from tests.alerts.laboratory import Laboratory
from tests.alerts.mutation import Mutant, mutants
from tests.alerts.promtool import RULES, Rule, TestFile, read_rules, read_tests

pytestmark = pytest.mark.nightly

HARMLESS = {
    r"«sum» by \(cluster\) \(fleet:ollama_instances:sum\{status=\"healthy\"\}.* -> max": (
        "a cluster has one such series; the sum only takes its status off"
    ),
    r"«sum» by \(cluster, model\) \(model:ollama_instances:sum\{.*status=\"healthy\"\}.* -> max": (
        "a model has one such series; the sum only takes its status off"
    ),
    r"«sum» by \(cluster\) \(fleet:ollama_instance_conditions:sum\{condition=.* -> max": (
        "a cluster has one such series; the sum only takes its condition off"
    ),
    r"^OllamaFleetModelUnloadsHigh: .*«ceil».* -> floor": (
        "twice a number of instances is a whole number"
    ),
    r"^OllamaFleet(\w+Missing|\w+Stale|\w+Low): .*«max» by \(cluster, shard\).* -> min": (
        "that a shard is there counts, not what it says"
    ),
    r"^OllamaFleetCanaryStopped: .*«sum» by \(cluster, shard\).* -> max": (
        "no number of canaries is negative: there are some when the largest is above zero"
    ),
    r"^fleet:ollama_instances_drained:delta: .*«sum».* -> max": (
        "a cluster has one such series; the sum only takes its status off"
    ),
    r"^fleet:ollama_instances_drained:delta: .*, 0\) «<» .* -> <=": (
        "of two equal numbers either is the smaller"
    ),
    r"^fleet:ollama_instances_drained:delta: .*«0»\) -> 1$": (
        "where no instance left, the first part has given 0 already"
    ),
    r"^OllamaFleet(AllDrained|DrainedLong): .*«sum».* -> max": (
        "a cluster has one such series; the sum only takes its status off"
    ),
    r"^Ollama(FleetExporter|GatewayAll)Down: .*«(max|max_over_time)».*\[1h\]\)\) unless.* -> min": (
        "that a target was there counts, not whether it answered"
    ),
    r"^OllamaFleetCapacityLow: .* «<» 14400 and .* -> <=": (
        "no number of samples has a mean that reaches the floor at that second, to the last bit"
    ),
    r"^OllamaFleetCapacityLow: .* «>» 0\.25 \* avg_over_time.* -> >=": (
        "no loss is a quarter of its mean to the last bit"
    ),
    r"^OllamaProvisionerStoreUnavailable: .*«sum».*store_errors_total.* -> max": (
        "no number of failures is negative: there are some when the largest is above zero"
    ),
}
"""Patterns of mutants that mean the same as the rule, each with the reason."""


def _is_harmless(mutant: Mutant) -> bool:
    return any(re.search(pattern, str(mutant)) for pattern in HARMLESS)


@pytest.mark.timeout(600)
def test_every_small_change_of_a_rule_makes_a_test_fail(
    promtool_binary: Path, tmp_path: Path
) -> None:
    rules = read_rules()
    laboratory = Laboratory(rules, read_tests(), promtool=promtool_binary, folder=tmp_path)

    survivors = laboratory.survivors(
        [mutant for rule in rules for mutant in mutants(rule) if not _is_harmless(mutant)]
    )

    assert not survivors, "\n".join(["", *map(str, survivors)])


@pytest.mark.parametrize("profile", config.PROFILES)
def test_every_small_change_that_a_profile_makes_is_seen_by_its_tests(
    profile: str, promtool_binary: Path, tmp_path: Path
) -> None:
    rules = read_rules(RULES / profile)
    tests = limits.tests_of(profile)
    laboratory = Laboratory(rules, tests, promtool=promtool_binary, folder=tmp_path)
    found = [mutant for pair in limits.differing(rules) for mutant in mutants(*pair)]

    survivors = laboratory.survivors([one for one in found if not _is_harmless(one)])

    assert not survivors, "\n".join(["", *map(str, survivors)])


def test_every_exception_is_of_a_mutant_that_there_is() -> None:
    every = "\n".join(str(mutant) for rule in read_rules() for mutant in mutants(rule))

    assert [] == [pattern for pattern in HARMLESS if not re.search(pattern, every, re.MULTILINE)]


RECORDED = Rule("g", {"record": "level:things:sum", "expr": "sum by (a) (max by (a, b) (things))"})
ALERT = Rule(
    "g",
    {
        "alert": "TooFewThings",
        "expr": 'level:things:sum{a=~"<9"} < 7 and level:things:sum offset 5m >= 200',
        "for": "1m",
        "labels": {"severity": "critical"},
    },
)


def _laboratory(promtool: Path, folder: Path, *tests: dict[str, Any]) -> Laboratory:
    document = {"evaluation_interval": "15s", "tests": list(tests)}
    file = TestFile(folder / "file.yml", document)
    return Laboratory([RECORDED, ALERT], [file], promtool=promtool, folder=folder)


def _test(eval_time: str, *exp_alerts: dict[str, Any], **values_by_series: str) -> dict[str, Any]:
    case = {"eval_time": eval_time, "alertname": "TooFewThings", "exp_alerts": list(exp_alerts)}
    return {
        "interval": "15s",
        "input_series": [
            {"series": f'things{{a="<9",b="{name[0]}",replica="{name[1:]}"}}', "values": values}
            for name, values in values_by_series.items()
        ],
        "alert_rule_test": [case],
    }


def test_what_no_test_looks_at_survives(promtool_binary: Path, tmp_path: Path) -> None:
    """The alert is shown to fire, but not when, how close to its limit, or of what sum."""
    fires = _test("7m", {"exp_labels": {"severity": "critical", "a": "<9"}}, b0="400x11 5x40")
    laboratory = _laboratory(promtool_binary, tmp_path, fires)

    survivors = laboratory.survivors([*mutants(RECORDED), *mutants(ALERT)])

    assert [
        "-> max", "-> min", "-> <=", "-> 6", "-> 8", "-> >", "-> 198", "-> 202",
        "-> 0s", "-> 2m",
    ] == [f"-> {mutant.change.rpartition(' -> ')[2]}" for mutant in survivors]  # fmt: skip
