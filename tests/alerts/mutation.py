"""Change a rule in every small way that matters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import count
from typing import Any

from ollama_fleet.durations import duration_text, parse_duration_s
from tests.alerts.promtool import Rule

EVALUATION_INTERVAL_S = 60.0
"""The longest that a file of tests has; so far apart the durations must differ to be seen."""

TOKEN = re.compile(
    r"""
      (?P<untouched> "[^"]*" | \{[^}]*\} | \[[^]]*\] | offset\s+\w+ )
    | (?P<word> [a-zA-Z_:][\w:]* )
    | (?P<number> \d+(?:\.\d+)? )
    | (?P<comparison> == | != | <= | >= | < | > )
    | (?P<other> \s+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
COMPARISONS = {
    "<": (">", "<="),
    ">": ("<", ">="),
    "<=": (">=", "<"),
    ">=": ("<=", ">"),
    "==": ("!=",),
    "!=": ("==",),
}
WORDS = {
    "and": "unless",
    "unless": "and",
    "or": "unless",
    "max": "min",
    "sum": "max",
    "floor": "ceil",
    "ceil": "floor",
    "min_over_time": "max_over_time",
    "max_over_time": "min_over_time",
}
SEVERITIES = {"critical": "warning", "warning": "critical", "info": "warning", "none": "info"}
PERCENT_FROM = 100
"""From this on an integer is moved by 1 %; a smaller one by 1, which is the least it can be."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule changed in one place."""

    rule: Rule
    change: str
    body: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.change}"


def mutants(rule: Rule, beside: Rule | None = None) -> Iterator[Mutant]:
    """Yield every mutant of a rule, or those that change what another rule has not as well."""
    known: Mapping[str, Any] = {} if beside is None else beside.body
    for change, expression in _expressions(rule.body["expr"], known.get("expr", "")):
        yield Mutant(rule, change, {**rule.body, "expr": expression})
    for key in ("for", "keep_firing_for"):
        if key in rule.body and rule.body[key] != known.get(key):
            yield from _durations(rule, key)
    if rule.is_alert and rule.body["labels"] != known.get("labels"):
        severity = rule.body["labels"]["severity"]
        labels = {**rule.body["labels"], "severity": SEVERITIES[severity]}
        yield Mutant(
            rule, f"severity {severity} -> {labels['severity']}", {**rule.body, "labels": labels}
        )


def _durations(rule: Rule, key: str) -> Iterator[Mutant]:
    before = rule.body[key]
    for step_s in (-EVALUATION_INTERVAL_S, EVALUATION_INTERVAL_S):
        after = duration_text(max(0.0, parse_duration_s(before) + step_s))
        yield Mutant(rule, f"{key} {before} -> {after}", {**rule.body, key: after})


def _expressions(expression: str, beside: str) -> Iterator[tuple[str, str]]:
    """Yield each change of an expression and what comes of it."""
    seen, tokens = count(1), list(TOKEN.finditer(expression))
    texts, known = ([match[0] for match in TOKEN.finditer(text)] for text in (expression, beside))
    blocks = SequenceMatcher(None, known, texts, autojunk=False).get_matching_blocks()
    same = {place for block in blocks for place in range(block.b, block.b + block.size)}
    for place, match in enumerate(tokens):
        if place in same:
            continue
        before = match[0]
        for after in _replacements(str(match.lastgroup), before):
            whole = expression[: match.start()] + after + expression[match.end() :]
            yield f"{next(seen)}. {_place(expression, match)} -> {after}", whole


def _place(expression: str, match: re.Match[str]) -> str:
    """Return the token with a little of what is around it."""
    start, end = max(0, match.start() - 25), match.end() + 90
    before, after = expression[start : match.start()], expression[match.end() : end]
    return " ".join(f"{before}«{match[0]}»{after}".split())


def _replacements(kind: str, text: str) -> tuple[str, ...]:
    if kind == "comparison":
        return COMPARISONS[text]
    if kind == "number":
        return _numbers(text)
    if kind != "word":
        return ()
    return (WORDS[text],) if text in WORDS else ()


def _numbers(text: str) -> tuple[str, ...]:
    if text == "0":
        return ("1",)
    if text.isdecimal() and int(text) < PERCENT_FROM:
        return str(int(text) - 1), str(int(text) + 1)
    return f"{float(text) * 0.99:.12g}", f"{float(text) * 1.01:.12g}"
