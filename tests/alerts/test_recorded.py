"""What rules cost does not grow with the number of instances: what they read, what they record."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from alerts import config, names, rulebook
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Condition
from exporter.engines import ENGINE_NAMES
from exporter.model import Status
from exporter.snapshot import FLEET_QUANTILES, MAX_VERSIONS
from tests.alerts import expression_lints
from tests.alerts import promql_tree as tree

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "alerts.md"
STATED = re.compile(
    r"record at most (\d+) series of the fleet, (\d+) for each model, (\d+) for each node and "
    r"(\d+) for each model and\sengine of a node"
)
SIZES: dict[str, int] = {
    "status": len(Status),
    "condition": len(Condition),
    "quantile": len(FLEET_QUANTILES),
    "source": 3,
    "version": MAX_VERSIONS + len(ENGINE_NAMES),  # each has one engine; the rare ones are `other`
}
"""Values of the labels that the number of models and nodes does not bound."""
GROWING = {
    frozenset(): 0,
    frozenset({"engine"}): 0,
    frozenset({"model"}): 1,
    frozenset({"node"}): 2,
    frozenset({"node", "model", "engine"}): 3,
}
"""Which of the stated numbers counts a recorded series, by its labels that name something."""
READ_PER_INSTANCE = {names.OVERDUE, names.OLD}
"""Ages are known of instances only."""

each_profile = pytest.mark.parametrize("profile", [None, *config.PROFILES])


@each_profile
def test_recorded_series_are_bounded_by_models_and_nodes_as_the_docs_say(
    profile: str | None,
) -> None:
    match = STATED.search(DOCS.read_text())
    assert match is not None

    recorded = n_recorded(config.load(profile=profile))

    stated = [int(number) for number in match.groups()]
    assert all(recorded[place] <= most for place, most in enumerate(stated)), recorded


def n_recorded(settings: Settings) -> Counter[int]:
    """Return how many series of a cluster are recorded at most, by the place of their number."""
    groups = rulebook.groups(settings)
    known = expression_lints.known(groups, settings)
    found: Counter[int] = Counter()
    for rule in (rule for group in groups for rule in group.recordings):
        labels = known.labels(rule.expr) - {settings.prometheus.cluster_label}
        growing = frozenset(labels - SIZES.keys())
        assert growing in GROWING, f"{rule.name}: {sorted(growing)}"
        sizes = [SIZES[label] for label in labels & SIZES.keys()]
        found[GROWING[growing]] += math.prod(sizes)
    return found


@each_profile
def test_rules_read_no_series_per_instance_but_ages_which_are_looked_at_rarely(
    profile: str | None,
) -> None:
    per_instance = {series.name for series in catalogue.INSTANCE_SERIES}
    groups = rulebook.groups(config.load(profile=profile))
    reading = {
        rule.name: group.every
        for group in groups
        for rule in group.rules
        if per_instance & {selector.name for selector in tree.selectors(rule.expr)}
    }

    assert reading.keys() == READ_PER_INSTANCE
    assert all(every >= 4 for every in reading.values())
