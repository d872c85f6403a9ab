"""See which mutants of the rules no promtool test notices.

Each mutant is the rules with one of them changed. Many share a promtool run: the changed rule, all
that rests on it and the cases that look at these are copied, under names that carry the mutant's
number. What promtool reports as failed names the copy, and so the mutant that is found out.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from tests.alerts.mutation import Mutant
from tests.alerts.promtool import CASES, NAME, Rule, TestFile, foundations, run, write

MUTANTS_PER_RUN = 24
THREADS = 3
EVALUATION_ERROR = ", err: "
MARK = re.compile(r"__m(\d+)\b")

Numbered = Mapping[int, Mutant]


@dataclass(frozen=True, slots=True)
class Renaming:
    """Gives a mutant's rules names of their own."""

    names: frozenset[str]
    mark: str

    def text(self, text: str) -> str:
        """Return a text with the mark behind each of the names in it."""
        return NAME.sub(lambda match: match[0] + self.mark * (match[0] in self.names), text)

    def rule(self, rule: Rule) -> Rule:
        """Return a rule under its new name, resting on others under theirs."""
        key = "alert" if rule.is_alert else "record"
        expression = self.text(rule.body["expr"])
        return replace(rule, body={**rule.body, key: rule.name + self.mark, "expr": expression})

    def test(self, test: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return a test's cases that look at what is renamed, looking at the new names."""
        alerts = [
            {**case, "alertname": case["alertname"] + self.mark}
            for case in test.get("alert_rule_test", ())
            if case["alertname"] in self.names
        ]
        expressions = [
            self._expression(case)
            for case in test.get("promql_expr_test", ())
            if self.names.intersection(NAME.findall(case["expr"]))
        ]
        return {"alert_rule_test": alerts, "promql_expr_test": expressions}

    def _expression(self, case: Mapping[str, Any]) -> dict[str, Any]:
        samples = [
            {**sample, "labels": self.text(sample["labels"])}
            for sample in case.get("exp_samples") or ()
        ]
        return {**case, "expr": self.text(case["expr"]), "exp_samples": samples}


class Laboratory:
    """Runs mutants against the tests that can see them."""

    def __init__(
        self, rules: Sequence[Rule], tests: Sequence[TestFile], *, promtool: Path, folder: Path
    ) -> None:
        self._rules = rules
        self._promtool = promtool
        self._folder = folder
        self._runs = count()
        self._seen_by = {test: _seen_by(test, rules) for file in tests for test in file.split()}
        self._recorded = frozenset(rule.name for rule in rules if not rule.is_alert)

    def tests_of(self, rule: Rule) -> list[TestFile]:
        """Return the tests that can see a rule, those first that find out most for the time."""
        seeing = [test for test, seen in self._seen_by.items() if rule.name in seen]
        return sorted(seeing, key=lambda test: self._cost(test) / self._promise(test, rule))

    def _cost(self, test: TestFile) -> float:
        return len(self._seen_by[test]) * test.n_evaluations

    def _promise(self, test: TestFile, rule: Rule) -> int:
        """Return how much a test finds out, roughly.

        That is most where it looks at the rule by name, feeds it itself with what others would
        record, of several rules of the name so picks out this one, and expects something.
        """
        recorded = rule.mentioned & self._recorded
        is_fed = bool(recorded) and recorded <= test.fed
        return (
            (10 if rule.name in test.mentioned else 1)
            * (10 if is_fed else 1)
            * (5 if test.expects_something else 1)
        )

    def survivors(self, mutants: Sequence[Mutant]) -> list[Mutant]:
        """Return the mutants that no test notices, in their order.

        In each round, every mutant that is left meets the next of the tests that can see it.
        """
        alive = dict(enumerate(mutants))
        tests = {number: self.tests_of(mutant.rule) for number, mutant in alive.items()}
        with ThreadPoolExecutor(THREADS) as pool:
            for place in range(max(map(len, tests.values()), default=0)):
                meetings: dict[TestFile, list[int]] = defaultdict(list)
                for number in alive:
                    for test in tests[number][place : place + 1]:
                        meetings[test].append(number)
                # The longest first: otherwise one would run alone at the end.
                longest_first = sorted(meetings, key=self._cost, reverse=True)
                batches = _batches({test: meetings[test] for test in longest_first}, alive)
                for killed in pool.map(self._meet, *batches):
                    for number in killed:
                        del alive[number]
        return list(alive.values())

    def _meet(self, test: TestFile, mutants: Numbered) -> set[int]:
        """Return the numbers of the mutants that a test file finds out."""
        result = self._run(test, mutants)
        killed = {int(number) for number in MARK.findall(result.stdout)}
        if bool(killed) != bool(result.returncode):
            raise RuntimeError(f"promtool on copies of {test.id}: {result.stdout}")
        left = {number: mutant for number, mutant in mutants.items() if number not in killed}
        if left and EVALUATION_ERROR in result.stdout:
            # A rule that cannot be evaluated ends a test before the other mutants are looked at.
            return killed | self._meet(test, left)
        return killed

    def _run(self, test: TestFile, mutants: Numbered) -> subprocess.CompletedProcess[str]:
        """Run copies of a test against copies of the rules that it sees."""
        renamings = {
            number: Renaming(self._resting_on(mutant.rule, test), f"__m{number}")
            for number, mutant in mutants.items()
        }
        document = _copied_tests(test.document, renamings.values())
        fed = test.fed
        rules = [rule for rule in self._copied_rules(mutants, renamings) if rule.name not in fed]
        needed = foundations(TestFile(test.path, document).mentioned, rules)
        folder = self._folder / str(next(self._runs))
        folder.mkdir()
        tests = write(folder, [rule for rule in rules if rule.name in needed], document)
        return run(self._promtool, tests)

    def _resting_on(self, rule: Rule, test: TestFile) -> frozenset[str]:
        """Return the names of the rule and of all that a test sees and that rest on it."""
        return frozenset(
            name for name in self._seen_by[test] if rule.name in foundations([name], self._rules)
        )

    def _copied_rules(self, mutants: Numbered, renamings: Mapping[int, Renaming]) -> list[Rule]:
        """Return all rules, and behind each its copies: changed where it is the mutant's."""
        rules = []
        for rule in self._rules:
            rules.append(rule)
            for number, renaming in renamings.items():
                if rule.name in renaming.names:
                    mutant = mutants[number]
                    is_changed = rule is mutant.rule
                    rules.append(
                        renaming.rule(replace(rule, body=mutant.body) if is_changed else rule)
                    )
        return rules


def _seen_by(test: TestFile, rules: Sequence[Rule]) -> frozenset[str]:
    """Return the names of the rules that a test sees at work: not those whose series it feeds."""
    fed = test.fed
    return foundations(test.mentioned, [rule for rule in rules if rule.name not in fed])


def _batches(
    meetings: Mapping[TestFile, Sequence[int]], mutants: Numbered
) -> tuple[list[TestFile], list[Numbered]]:
    """Return test files and, beside each, mutants for one run; a file may come several times."""
    tests: list[TestFile] = []
    batches: list[Numbered] = []
    for test, numbers in meetings.items():
        for start in range(0, len(numbers), MUTANTS_PER_RUN):
            tests.append(test)
            batches.append({n: mutants[n] for n in numbers[start : start + MUTANTS_PER_RUN]})
    return tests, batches


def _copied_tests(document: Mapping[str, Any], renamings: Iterable[Renaming]) -> dict[str, Any]:
    """Return the tests, without any that looks at nothing that is renamed."""
    tests = []
    for test in document["tests"]:
        cases: dict[str, list[Any]] = {kind: [] for kind in CASES}
        for renaming in renamings:
            for kind, copies in renaming.test(test).items():
                cases[kind] += copies
        if any(cases.values()):
            tests.append({**test, **cases})
    return {**document, "tests": tests}
