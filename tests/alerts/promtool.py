"""Read the built rules and their promtool tests, and run promtool."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ollama_fleet.durations import parse_duration_s

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "alerts" / "rules"
TESTS = Path(__file__).resolve().parent / "rules"
SCENARIOS = TESTS / "scenarios"
ARTICLE = "article"
"""The set of rules with the article's figures: a folder of the rules, and of the tests."""

NAME = re.compile(r"[a-zA-Z_:][\w:]*")
RULE_FILE = "rules.yml"
CASES = ("alert_rule_test", "promql_expr_test")
INT_TAG = "tag:yaml.org,2002:int"


class _Loader(yaml.CSafeLoader):
    """Reads YAML as promtool does: `0x9` is a nought and nine repetitions, no hexadecimal."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != INT_TAG]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT_TAG, re.compile(r"[-+]?\d+$"), list("-+0123456789"))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as the rule file has it."""

    group: str
    body: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return the name of the alert or of the recorded series; several rules may share it."""
        return str(self.body.get("alert") or self.body["record"])

    @property
    def is_alert(self) -> bool:
        return "alert" in self.body

    @property
    def read(self) -> frozenset[str]:
        """Return every name in the expression: series, functions, labels."""
        return frozenset(NAME.findall(self.body["expr"]))

    @property
    def mentioned(self) -> frozenset[str]:
        """Return the same, and every name in what its text asks for."""
        asked = self.body.get("annotations", {}).get("description", "")
        return self.read.union(NAME.findall(asked))


@dataclass(frozen=True, slots=True, eq=False)
class TestFile:
    """A file of promtool tests."""

    __test__ = False

    path: Path
    document: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        return self.path.relative_to(TESTS).with_suffix("").as_posix()

    @property
    def is_scenario(self) -> bool:
        return self.path.parent == SCENARIOS

    def cases(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """Yield all cases of a kind: `alert_rule_test` or `promql_expr_test`."""
        for test in self.document["tests"]:
            yield from test.get(kind, ())

    @property
    def mentioned(self) -> frozenset[str]:
        """Return every name in the file's cases: alerts, series, functions, labels."""
        names = {case["alertname"] for case in self.cases("alert_rule_test")}
        for case in self.cases("promql_expr_test"):
            names.update(NAME.findall(case["expr"]))
        return frozenset(names)

    @property
    def fed(self) -> frozenset[str]:
        """Return the names of the series that the file feeds to the rules."""
        series = (
            each["series"] for test in self.document["tests"] for each in test["input_series"]
        )
        return frozenset(re.split(r"[{\s]", text, maxsplit=1)[0] for text in series)

    @property
    def n_evaluations(self) -> float:
        """Return how often rules have to be evaluated until the last case."""
        times = (parse_duration_s(case["eval_time"]) for kind in CASES for case in self.cases(kind))
        return 1 + max(times, default=0.0) / parse_duration_s(self.document["evaluation_interval"])

    @property
    def expects_something(self) -> bool:
        """Return whether an alert must fire or a series be there, rather than nothing."""
        return any(case.get("exp_alerts") for case in self.cases("alert_rule_test")) or any(
            case.get("exp_samples") for case in self.cases("promql_expr_test")
        )

    def split(self) -> Iterator[TestFile]:
        """Yield each test as a file of its own."""
        for test in self.document["tests"]:
            yield TestFile(self.path, {**self.document, "tests": [test]})


def read_rules(folder: Path = RULES) -> tuple[Rule, ...]:
    """Return all rules of one set, in the order of files, groups and rules."""
    return tuple(
        Rule(group["name"], body)
        for path in sorted(folder.glob("*.yml"))
        for group in read_groups(path.read_text())
        for body in group["rules"]
    )


def read_groups(text: str) -> list[dict[str, Any]]:
    """Return the groups of a rule file; libyaml takes a tenth of the time that PyYAML takes."""
    groups: list[dict[str, Any]] = yaml.load(text, yaml.CSafeLoader)["groups"]
    return groups


def read_tests() -> tuple[TestFile, ...]:
    """Return the files of all alerts, then those of the scenarios, each by name."""
    paths = [*sorted(TESTS.glob("*.yml")), *sorted(SCENARIOS.glob("*.yml"))]
    return tuple(map(read_test, paths))


def read_test(path: Path) -> TestFile:
    """Return one file of tests."""
    return TestFile(path, yaml.load(path.read_text(), _Loader))  # noqa: S506


def foundations(names: Iterable[str], rules: Iterable[Rule]) -> frozenset[str]:
    """Return the names of those rules which the names are of or rest on, directly or not."""
    mentioned: dict[str, set[str]] = {}
    for rule in rules:
        mentioned.setdefault(rule.name, set()).update(rule.mentioned)
    found: set[str] = set()
    waiting = set(names) & mentioned.keys()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= (mentioned[name] & mentioned.keys()) - found
    return frozenset(found)


def write(folder: Path, rules: Sequence[Rule], document: Mapping[str, Any]) -> Path:
    """Write tests, and beside them the rules in one file; return the path of the tests.

    Groups are evaluated in the order of the rules: promtool by itself would take any order.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for rule in rules:
        groups.setdefault(rule.group, []).append(rule.body)
    rule_file = {"groups": [{"name": name, "rules": bodies} for name, bodies in groups.items()]}
    test_file = {**document, "rule_files": [RULE_FILE], "group_eval_order": list(groups)}
    path = folder / "tests.yml"
    # JSON is YAML as well, and quicker to write.
    (folder / RULE_FILE).write_text(json.dumps(rule_file))
    path.write_text(json.dumps(test_file))
    return path


def run(promtool: Path, tests: Path) -> subprocess.CompletedProcess[str]:
    """Run `promtool test rules`; what failed is in `stdout`, its verdict in `returncode`."""
    return subprocess.run(
        [promtool, "test", "rules", tests],
        # Takes a third less of the processor, for more than the 80 MB: promtool makes much garbage.
        env={**os.environ, "GOMAXPROCS": "1", "GOGC": "1000"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
