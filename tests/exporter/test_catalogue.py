from __future__ import annotations

import re
from collections import Counter

import pytest

from exporter import catalogue
from exporter.catalogue import ALL_SERIES, BOUNDARIES_S, Kind, Series

NAME = re.compile(r"ollama_(fleet|model|node|instance|exporter)_[a-z0-9]+(_[a-z0-9]+)*")
LABEL = re.compile(r"[a-z][a-z0-9_]*")
OTHER_UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|kb|mb|percent)(_|$)")

each_series = pytest.mark.parametrize("series", ALL_SERIES, ids=lambda series: series.name)


@each_series
def test_units_are_base_units(series: Series) -> None:
    assert not OTHER_UNITS.search(series.name)


@each_series
def test_counters_and_only_counters_end_in_total(series: Series) -> None:
    assert (series.kind is Kind.COUNTER) == series.name.endswith("_total")


@each_series
def test_help_is_one_line_and_ends_with_a_full_stop(series: Series) -> None:
    assert series.help.endswith(".")
    assert "\n" not in series.help


def test_names_are_unique_in_both_formats() -> None:
    assert {1} == set(Counter(series.name for series in ALL_SERIES).values())
    assert {1} == set(Counter(series.family for series in ALL_SERIES).values())


def test_aggregates_carry_their_shard_first() -> None:
    assert {"shard"} == {series.labels[0] for series in catalogue.FLEET_SERIES}


def test_instance_series_carry_the_labels_of_an_instance_first() -> None:
    for series in catalogue.INSTANCE_SERIES:
        assert catalogue.INSTANCE == series.labels[: len(catalogue.INSTANCE)]


def test_boundaries_grow_and_the_alert_threshold_is_one_of_them() -> None:
    assert sorted(set(BOUNDARIES_S)) == list(BOUNDARIES_S)
    assert 0.15 in BOUNDARIES_S
