"""Lints of the expressions in rules: series, labels and functions, read from their trees."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from promql_parser import Call, MatrixSelector, VectorMatchCardinality, VectorSelector

from alerts.model import Alert, Group, Recording, Severity
from alerts.series import ALL_SERIES
from alerts.settings import LOOKBACK_SCRAPES, Settings
from exporter.catalogue import Kind, Series
from exporter.model import Status
from exporter.selfmetrics import Request
from provisioning.model import Phase
from tests.alerts import promql_tree as tree
from tests.alerts.lints import LABEL_IN_TEXT, Lint, alerts, texts

Rule = Recording | Alert

HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")
OF_PROMETHEUS = frozenset(
    {"up", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling"}
)
"""Series that Prometheus itself makes of every scrape."""
OF_COUNTERS = frozenset({"rate", "irate", "increase"})
OF_GAUGES = frozenset({"delta", "idelta", "deriv", "predict_linear"})
FRAGILE = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
"""Their series come and go from one evaluation to the next; an alert's `for` would never end."""
ABSENT = frozenset({"absent", "absent_over_time"})
QUERY, QUOTED = re.compile(r"\bquery \(printf `([^`]*)`"), re.compile(r"%\[\d\]q")
"""What an annotation asks, and where it puts the alert's labels."""
CLOSED: Mapping[str, frozenset[str]] = {
    "status": frozenset(map(str, Status)),
    "request": frozenset(map(str, Request)),
    "phase": frozenset(map(str, Phase)),
}
"""Labels that have only these values."""


def rules(groups: Sequence[Group]) -> Iterator[Rule]:
    for group in groups:
        yield from group.rules


@dataclass(frozen=True, slots=True)
class Known:
    """The series that an expression may use, with their labels."""

    recordings: Mapping[str, Recording]
    target: frozenset[str]
    """Labels that the scrape gives to every series."""

    def is_known(self, name: str) -> bool:
        return name in OF_PROMETHEUS or name in self.recordings or series(name) is not None

    def labels_of(self, selector: VectorSelector) -> frozenset[str]:
        """Return a series' labels; of an unknown one, those of its scrape."""
        name = selector.name or ""
        if recorded := self.recordings.get(name):
            return self.labels(recorded.expr) | recorded.labels.keys()
        found = series(name)
        own = found.labels if found else ()
        return self.target.union(own, ("le",) if name.endswith("_bucket") else ())

    def labels(self, text: str) -> frozenset[str]:
        """Return the labels of an expression's result."""
        return tree.labels(tree.nodes(text)[0], self.labels_of)


def known(groups: Sequence[Group], settings: Settings) -> Known:
    return Known(
        {rule.name: rule for group in groups for rule in group.recordings},
        frozenset({settings.prometheus.cluster_label, "job", "instance"}),
    )


def series(name: str) -> Series | None:
    """Return what is published under a name, or under a histogram's part of it."""
    for found in ALL_SERIES:
        parts = HISTOGRAM_PARTS if found.kind is Kind.HISTOGRAM else ("",)
        if name in {found.name + part for part in parts}:
            return found
    return None


def known_series(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    there = known(groups, settings)
    for rule in rules(groups):
        for selector in tree.selectors(rule.expr):
            if not there.is_known(selector.name or ""):
                yield f"{rule.name}: nothing makes the series {selector.name}"


def order(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    """Find rules that use what is recorded only after them: it would be an evaluation old."""
    for group in groups:
        coming = [rule.name for rule in group.recordings]
        for rule in group.rules:
            for selector in tree.selectors(rule.expr):
                if selector.name in coming:
                    yield f"{rule.name}: uses {selector.name} before its group records it"
            if isinstance(rule, Recording):
                coming.remove(rule.name)


def jobs(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    """Find scraped series of any job: somebody else may publish the same name."""
    prometheus = settings.prometheus
    ours = {prometheus.job, prometheus.provisioner_job, prometheus.gateway_job}
    recorded = known(groups, settings).recordings
    for rule in rules(groups):
        for selector in tree.selectors(rule.expr):
            given = {one.value for one in tree.matchers(selector) if one.name == "job"}
            if selector.name not in recorded and not given & ours:
                yield f"{rule.name}: reads {selector.name} of any job"


def matched_labels(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    there = known(groups, settings)
    for rule in rules(groups):
        for selector in tree.selectors(rule.expr):
            for matcher in tree.matchers(selector):
                if matcher.name not in there.labels_of(selector):
                    yield f"{rule.name}: {selector.name} has no label {matcher.name}"


def matched_values(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for rule in rules(groups):
        for selector in tree.selectors(rule.expr):
            for matcher in tree.matchers(selector):
                for value in tree.values(matcher) if matcher.name in CLOSED else ():
                    if value not in CLOSED[matcher.name]:
                        yield f"{rule.name}: there is no {matcher.name} {value}"


def grouped_labels(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    there = known(groups, settings)
    for rule in rules(groups):
        for node in tree.aggregations(rule.expr):
            missing = (tree.grouping(node) or tree.NONE) - tree.labels(node.expr, there.labels_of)
            for label in sorted(missing):
                yield f"{rule.name}: groups by {label}, which is not there"


def joined_labels(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    there = known(groups, settings)
    for rule in rules(groups):
        for node in tree.operations(rule.expr):
            on = tree.matching(node) or tree.NONE
            left = tree.labels(node.lhs, there.labels_of)
            right = tree.labels(node.rhs, there.labels_of)
            is_right = node.modifier and node.modifier.card == VectorMatchCardinality.OneToMany
            missing = (on - (left & right)) | (tree.brought(node) - (left if is_right else right))
            for label in sorted(missing):
                yield f"{rule.name}: matches {label}, which one side has not"


def clusters(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    """Find what mixes fleets: an aggregation or a match that forgets the cluster's label."""
    label = settings.prometheus.cluster_label
    for rule in rules(groups):
        for node in tree.aggregations(rule.expr):
            if label not in (tree.grouping(node) or tree.NONE):
                yield f"{rule.name}: aggregates over {label}"
        for operation in tree.operations(rule.expr):
            on = tree.matching(operation)
            if on is not None and label not in on:
                yield f"{rule.name}: matches without {label}"


def joins(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for rule in rules(groups):
        for node in tree.operations(rule.expr):
            if tree.brought(node) and tree.matching(node) is None:
                yield f"{rule.name}: says group_left or group_right and not on which labels"


def counters(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for rule in rules(groups):
        for call in tree.calls(rule.expr):
            name = call.func.name
            if name in OF_COUNTERS and not _is_of_counter(call):
                yield f"{rule.name}: takes {name} of what is not a counter of the exporter"
            if name in OF_GAUGES and _is_of_counter(call):
                yield f"{rule.name}: takes {name} of a counter, which starts anew at times"


def _is_of_counter(call: Call) -> bool:
    """Return whether the range is of a counter as scraped; a sum hides that one started anew."""
    part = call.args[0]
    if not isinstance(part, MatrixSelector):
        return False
    found = series(part.vector_selector.name or "")
    return found is not None and found.kind in (Kind.COUNTER, Kind.HISTOGRAM)


def ranges(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    least_s = LOOKBACK_SCRAPES * settings.prometheus.scrape_interval
    for rule in rules(groups):
        for range_s in tree.ranges_s(rule.expr):
            if range_s < least_s:
                yield f"{rule.name}: looks back {range_s:g} s, less than {least_s:g} s"


def fragile(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for rule in rules(groups):
        for node in tree.aggregations(rule.expr):
            if str(node.op) in FRAGILE:
                yield f"{rule.name}: uses {node.op}, whose series come and go"


def filters(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        for node in tree.operations(alert.expr):
            if node.modifier and node.modifier.return_bool:
                yield f"{alert.name}: compares with bool, which is always there, and so fires"


def absences(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for rule in rules(groups):
        for call in tree.calls(rule.expr):
            if call.func.name in ABSENT and [s.name for s in tree.selectors(str(call))] != ["up"]:
                yield f"{rule.name}: asks for absence of what is not up; it would have no cluster"


def offsets(groups: Sequence[Group], _: Settings) -> Iterator[str]:
    for alert in alerts(groups):
        if tree.offsets_s(alert.expr) and not alert.for_s:
            yield f"{alert.name}: looks back with an offset, and fires for one odd sample of then"


def pages(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    there = known(groups, settings)
    for alert in alerts(groups):
        if alert.severity is Severity.CRITICAL and "instance_id" in there.labels(alert.expr):
            yield f"{alert.name}: pages for each instance; a rack that fails would be thousands"


def template_labels(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    there = known(groups, settings)
    for alert in alerts(groups):
        has = there.labels(alert.expr) | alert.labels.keys()
        for label in LABEL_IN_TEXT.findall(texts(alert, settings)):
            if label not in has:
                yield f"{alert.name}: tells its label {label}, which it has not"


def asked(groups: Sequence[Group], settings: Settings) -> Iterator[str]:
    """Find texts that ask for what nobody records, or for another cluster's: `query (printf …)`."""
    recorded = known(groups, settings).recordings
    cluster = settings.prometheus.cluster_label
    for alert in alerts(groups):
        for query in QUERY.findall(alert.description):
            for selector in tree.selectors(QUOTED.sub('"x"', query).replace("%%", "%")):
                if selector.name not in recorded:
                    yield f"{alert.name}: its text asks for {selector.name}, which nobody records"
                if cluster not in {one.name for one in tree.matchers(selector)}:
                    yield f"{alert.name}: its text asks for {selector.name} of every {cluster}"


LINTS: tuple[Lint, ...] = (
    known_series, order, jobs, matched_labels, matched_values, grouped_labels, joined_labels,
    clusters, joins, counters, ranges, fragile, filters, absences, offsets, pages, template_labels,
    asked,
)  # fmt: skip
