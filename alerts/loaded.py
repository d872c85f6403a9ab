"""Compare rules with those that a Prometheus has loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from alerts.model import Alert, Recording
from ollama_fleet.durations import duration_text
from ollama_fleet.prometheus import LoadedGroup, LoadedRule

OUR_GROUPS = "ollama-fleet-"
"""What the names of our groups begin with: a Watchdog of another group is none of ours."""
ALERTING, RECORDING = "alerting", "recording"
NOT_LOADED = "is not loaded"
SHOWN = 20
"""Characters of an expression, before and after it begins to differ."""
WORD_OR_SPACE = re.compile(r'("(?:\\.|[^"\\])*")|\s+')


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rules of our groups that a Prometheus evaluates."""

    rules: tuple[LoadedRule, ...]

    @classmethod
    def of(cls, groups: Iterable[LoadedGroup]) -> Loaded:
        """Take what is ours."""
        ours = (group for group in groups if group.name.startswith(OUR_GROUPS))
        return cls(tuple(rule for group in ours for rule in group.rules))

    def twins(self, rule: Recording | Alert) -> tuple[LoadedRule, ...]:
        """Return what is loaded of a rule: one, unless rule files are missing or loaded twice."""
        return tuple(one for one in self.rules if _is_twin(one, rule))

    def unknown(self, rules: Iterable[Recording | Alert]) -> Iterator[str]:
        """Yield the titles of loaded rules that are none of these."""
        known = [id(twin) for rule in rules for twin in self.twins(rule)]
        yield from (title(one.name, one.labels) for one in self.rules if id(one) not in known)


def difference(rule: Recording | Alert, twins: tuple[LoadedRule, ...], other_expr: str) -> str:
    """Return how a rule differs from what is loaded of it; empty if it does not.

    `other_expr` is that of a twin that means something else; empty if none does.
    """
    if not twins:
        return NOT_LOADED
    faults = [_parting(rule.expr, other_expr)] if other_expr else []
    if len(twins) > 1:
        faults.append(f"is loaded {len(twins)} times")
    if isinstance(rule, Alert):
        faults += _faults(rule, twins)
    return "; ".join(dict.fromkeys(faults))


def _faults(alert: Alert, twins: tuple[LoadedRule, ...]) -> Iterator[str]:
    for twin in twins:
        if twin.for_s != alert.for_s:
            built, loaded = duration_text(alert.for_s), duration_text(twin.for_s)
            yield f"for: {built} by the settings, {loaded} is loaded"
        if (severity := twin.labels.get("severity", "none")) != alert.severity:
            yield f"severity: {alert.severity} by the settings, {severity} is loaded"
        for label, value in alert.site_labels.items():
            if (there := twin.labels.get(label)) != value:
                yield f"label {label}: {value} by the settings, {there or 'none'} is loaded"


def _parting(ours: str, theirs: str) -> str:
    """Return where two expressions begin to differ."""
    texts = squeezed(ours), squeezed(theirs)
    pairs = enumerate(zip(*texts, strict=False))
    n_same = next((n for n, (one, other) in pairs if one != other), min(map(len, texts)))
    built, loaded = (text[max(0, n_same - SHOWN) : n_same + SHOWN] for text in texts)
    return f"expression: …{built}… by the settings, …{loaded}… is loaded"


def squeezed(expression: str) -> str:
    """Return an expression without spaces: Prometheus writes it with spaces of its own."""
    return WORD_OR_SPACE.sub(lambda found: found[1] or "", expression)


def title(name: str, labels: Mapping[str, str]) -> str:
    """Return the name of a rule, with the labels that tell it from its namesakes."""
    own = ", ".join(value for label, value in labels.items() if label != "severity")
    return f"{name} ({own})" if own else name


def _is_twin(one: LoadedRule, rule: Recording | Alert) -> bool:
    type_ = ALERTING if isinstance(rule, Alert) else RECORDING
    return (one.name, one.type) == (rule.name, type_) and rule.labels.items() <= one.labels.items()
