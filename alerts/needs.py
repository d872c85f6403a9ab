"""Find out what an expression lacks to give a result."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable

from alerts import sources
from alerts.model import Recording
from alerts.sources import Gap, Present

TOKEN = re.compile(
    r'\{(?:"(?:\\.|[^"\\])*"|[^"}])*\}'  # matchers
    r'|"(?:\\.|[^"\\])*"'
    r"|\[[^]]*\]"
    r"|[\d.]\w*"  # numbers and durations
    r"|[a-zA-Z_:][\w:]*"
    r"|[(),]"
)
LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
ABSENT = frozenset({"absent", "absent_over_time"})
"""Functions that give a result where there is no series."""
OPENING, CLOSING = "()"
SET_OPERATORS = frozenset({"or", "and", "unless"})
NOTHING: frozenset[Gap] = frozenset()

Lacks = Callable[[str, str], frozenset[Gap]]
"""Returns what a selector lacks, by its name and its matchers."""


class Needs:
    """Says what expressions lack in one Prometheus, the recording rules below them included."""

    def __init__(self, recordings: Iterable[Recording], present: Present) -> None:
        self._present = present
        self._rules_by_name: dict[str, list[Recording]] = {}
        for rule in recordings:
            self._rules_by_name.setdefault(rule.name, []).append(rule)
        self._recorded: dict[str, frozenset[Gap]] = {}

    def lacking(self, expression: str) -> frozenset[Gap]:
        """Return the series that are not there; empty if the expression may give a result."""
        return _either(deque(TOKEN.findall(expression)), self._of_selector)

    def _of_selector(self, name: str, matchers: str) -> frozenset[Gap]:
        own = frozenset(sources.gaps(name, matchers, self._present))
        return own | self._of_recording(name)

    def _of_recording(self, name: str) -> frozenset[Gap]:
        if name not in self._recorded:
            rules = self._rules_by_name.get(name, ())
            self._recorded[name] = _alternatives([self.lacking(rule.expr) for rule in rules])
        return self._recorded[name]


def _alternatives(found: list[frozenset[Gap]]) -> frozenset[Gap]:
    return NOTHING.union(*found) if all(found) else NOTHING


def _either(tokens: deque[str], lacks: Lacks) -> frozenset[Gap]:
    found = [_both(tokens, lacks)]
    while tokens and tokens[0] == "or":
        tokens.popleft()
        found.append(_both(tokens, lacks))
    return _alternatives(found)


def _both(tokens: deque[str], lacks: Lacks) -> frozenset[Gap]:
    """Read what is combined by `and` and `unless`, which bind alike."""
    found = _operand(tokens, lacks)
    while tokens and tokens[0] in ("and", "unless"):
        is_needed = tokens.popleft() == "and"
        right = _operand(tokens, lacks)
        found |= right if is_needed else NOTHING
    return found


def _operand(tokens: deque[str], lacks: Lacks) -> frozenset[Gap]:
    """Read up to the next set operator or the end of the brackets: all of it is needed."""
    found = NOTHING
    while tokens and tokens[0] not in SET_OPERATORS and tokens[0] not in (CLOSING, ","):
        token = tokens.popleft()
        if token in LABEL_LISTS:
            while tokens.popleft() != CLOSING:
                pass
        elif token == OPENING:
            found |= _within(tokens, lacks)
        elif token in ABSENT:
            tokens.popleft()
            _within(tokens, lacks)
        else:
            found |= lacks(token, tokens[0] if tokens and tokens[0][0] == "{" else "")
    return found


def _within(tokens: deque[str], lacks: Lacks) -> frozenset[Gap]:
    """Read what is in brackets that have been opened: an expression, or several arguments."""
    found = _either(tokens, lacks)
    while tokens.popleft() == ",":
        found |= _either(tokens, lacks)
    return found
