"""Play what happens to fleets through the rules, and say which alerts fire, and when first."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alerts import build, inhibition
from alerts.settings import Settings
from tests.alerts.fleets import DAY_MIN, RECENTLY_FAILED, Fleet, Steps
from tests.alerts.promtool import Rule, foundations, read_groups, run, write

OF = "cluster, alertname, severity, node, model"
FIRST = "tests:alerts_fired:first"
FIRED = 'ALERTS{alertstate="firing",severity=~"critical|warning"}'
SAMPLE = re.compile(r"\{([^}]*)\} (\d\S*?)(?=,|\s|$)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
GRACE_MIN = 1.5
"""For how long the exporter calls a failure recent."""
NAMES = re.compile(r'alertname=~?"([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """How long the scenarios of one promtool run last, and how finely they are looked at."""

    minutes: int = DAY_MIN
    before: int
    """Minutes until something happens."""
    interval_s: int = 60
    evaluation_s: int = 60

    def since(self, value: float, minutes: float = 0, *, otherwise: float = 0) -> Steps:
        """Return a value from the fault on, for some minutes or for good."""
        ends = [(minutes, value), (1, otherwise)] if minutes else [(1, value)]
        return [(self.before, otherwise), *ends]

    def killed(self, size: int, n: int, minutes: float = 0, **parts: Any) -> Fleet:
        """Return a fleet in which some instances die at once, for some minutes or for good."""
        recently = min(minutes or GRACE_MIN, GRACE_MIN)
        gauges = {RECENTLY_FAILED: self.since(n, recently)}
        statuses = {"unreachable": self.since(n, minutes)}
        return Fleet(listed=[(1, size)], statuses=statuses, gauges=gauges, **parts)

    def part(self, size: int, n: int, status: str = "unreachable") -> Mapping[str, Steps]:
        """Return the statuses of a node, or a model, that loses some of its instances."""
        return {"healthy": self.since(size - n, otherwise=size), status: self.since(n)}


@dataclass(frozen=True, slots=True)
class Fired:
    """The minute in which each alert fired first."""

    pages: dict[str, float] = field(default_factory=dict)
    tickets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens, and what is wanted: within how many minutes each alert fires.

    Nothing else may page, but for what the wanted pages mute. Where nobody is woken, no other
    tickets may come. An alert on a node or a model is named with it: `OllamaNodeInstancesDown n-3`.
    """

    name: str
    fleets: Sequence[Fleet]
    pages: Mapping[str, float] = field(default_factory=dict)
    tickets: Mapping[str, float] = field(default_factory=dict)
    may: Collection[str] = ()
    """Tickets that may come as well."""
    is_from_start: bool = False
    """Whether it is so from the first minute on."""
    has_label: bool = True
    """Whether its fleets have a `cluster` label."""

    @property
    def cluster(self) -> str:
        return self.name if self.has_label else ""

    def faults(self, fired: Fired, before: float) -> list[str]:
        """Return how what fired differs from what is wanted."""
        pages = {
            name: at for name, at in fired.pages.items() if not _is_muted(name, set(self.pages))
        }
        faults = [*_late("page", self.pages, fired.pages, before)]
        faults += _unwanted("page", pages, set(self.pages))
        faults += _late("ticket", self.tickets, fired.tickets, before)
        if not self.pages:
            faults += _unwanted("ticket", fired.tickets, {*self.tickets, *self.may})
        return faults


def _late(
    kind: str, wanted: Mapping[str, float], fired: Mapping[str, float], before: float
) -> Iterator[str]:
    for name, within in wanted.items():
        at = fired.get(name)
        if at is None:
            yield f"no {kind} {name}"
        elif not before <= at <= before + within:
            yield f"{kind} {name} after {at - before:g} minutes, wanted within {within:g}"


def _unwanted(kind: str, fired: Mapping[str, float], wanted: Collection[str]) -> Iterator[str]:
    for name, at in fired.items():
        if name not in wanted:
            yield f"{kind} {name} in minute {at:g}"


def _is_muted(page: str, wanted: set[str]) -> bool:
    """Return whether an inhibition mutes a page while one of the wanted ones fires."""
    return page not in wanted and any(
        _names(rule.targets)(page) and any(map(_names(rule.sources), wanted))
        for rule in inhibition.RULES
        if not rule.equal and 'severity="warning"' not in rule.targets
    )


def _names(matchers: tuple[str, ...]) -> Callable[[str], bool]:
    found = NAMES.search(" ".join(matchers))
    pattern = re.compile(found[1] if found else "$^")
    return lambda alert: bool(pattern.fullmatch(alert.split()[0]))


def played(
    promtool: Path,
    folder: Path,
    play: Play,
    settings: Settings,
    scenarios: Sequence[Scenario],
    *,
    names: Collection[str] = (),
) -> dict[str, list[str]]:
    """Return the faults of each scenario, by name; `names` as of `fired`."""
    fleets = [
        replace(fleet, cluster=scenario.cluster)
        for scenario in scenarios
        for fleet in scenario.fleets
    ]
    all_fired = fired(promtool, folder, play, settings, fleets, names=names)
    return {
        each.name: each.faults(
            all_fired.get(each.cluster, Fired()), 0 if each.is_from_start else play.before
        )
        for each in scenarios
    }


def fired(
    promtool: Path,
    folder: Path,
    play: Play,
    settings: Settings,
    fleets: Sequence[Fleet],
    *,
    names: Collection[str] = (),
) -> dict[str, Fired]:
    """Return what fired, by cluster.

    Args:
        promtool: The program.
        folder: Where its files are written.
        play: How long the fleets are played.
        settings: What makes the rules.
        fleets: What happens.
        names: The alerts to look at; all of them where none are given.
    """
    rules = [*_resting_on(names, rules_of(settings)), _first(play)]
    return _read(_got(promtool, folder, play, rules, fleets, FIRST, play.minutes))


def value_of(
    promtool: Path, folder: Path, play: Play, settings: Settings, fleet: Fleet, alert: str, at: int
) -> float:
    """Return the value that an alert's description gives in a minute."""
    rules = _resting_on({alert}, rules_of(settings))
    [expression] = [str(rule.body["expr"]) for rule in rules if rule.name == alert]
    got = _got(promtool, folder, play, rules, [fleet], expression, at)
    [(_, value)] = SAMPLE.findall(got)
    return float(value)


def _got(
    promtool: Path,
    folder: Path,
    play: Play,
    rules: Sequence[Rule],
    fleets: Sequence[Fleet],
    expression: str,
    at: int,
) -> str:
    """Return what promtool gets: it says so where it should have got something else."""
    wrong = {"labels": '{nothing="there"}', "value": 0}
    test = {
        "name": "all scenarios",
        "interval": f"{play.interval_s}s",
        "input_series": [
            series for fleet in fleets for series in fleet.series(play.minutes, play.interval_s)
        ],
        "promql_expr_test": [{"expr": expression, "eval_time": f"{at}m", "exp_samples": [wrong]}],
    }
    document = {"evaluation_interval": f"{play.evaluation_s}s", "tests": [test]}
    said = run(promtool, write(folder, rules, document)).stdout
    _, is_there, got = said.partition("got:")
    assert is_there, said[-2000:]
    assert "err:" not in said, said[-2000:]
    return got


def _first(play: Play) -> Rule:
    """Return the rule that keeps when each alert fired first."""
    kept = f"last_over_time({FIRST}[{2 * play.evaluation_s}s])"
    expression = f"{kept} or 0 * group by ({OF}) ({FIRED}) + time()"
    return Rule("tests", {"record": FIRST, "expr": expression})


def _read(got: str) -> dict[str, Fired]:
    by_cluster: dict[str, Fired] = {}
    for labels_text, value in SAMPLE.findall(got):
        labels = dict(LABEL.findall(labels_text))
        of = (labels["alertname"], labels.get("node"), labels.get("model"))
        fired = by_cluster.setdefault(labels.get("cluster", ""), Fired())
        alerts = fired.pages if labels["severity"] == "critical" else fired.tickets
        alerts[" ".join(filter(None, of))] = float(value) / 60
    return by_cluster


def rules_of(settings: Settings) -> list[Rule]:
    """Return all rules that these settings make."""
    return [
        Rule(group["name"], body)
        for text in build.rule_files(settings).values()
        for group in read_groups(text)
        for body in group["rules"]
    ]


def _resting_on(names: Collection[str], rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules of some alerts and what they rest on; all rules where none are named."""
    chosen = set(names) or {rule.name for rule in rules if rule.is_alert}
    seen = foundations(chosen, rules)
    return [rule for rule in rules if rule.name in seen]
