"""`warehouse explain`: the label of a bad batch is found, and none in noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from exporter.warehouse.cli import warehouse
from exporter.warehouse.explain import NODE, Explanation, Subject, explanations
from exporter.warehouse.schema import INSTANCE_HOURS
from exporter.warehouse.storage import Warehouse

N_NODES, ON_NODE, N_LABELS = 60, 10, 11
BAD = ("bios", "2.1")
IsOutlier = Callable[[np.random.Generator, str, int], bool]


def labels_of(random: np.random.Generator, node: int) -> dict[str, str]:
    """Return labels of no consequence, and a BIOS that one node in ten has."""
    others = {f"l{k}": f"v{random.integers(0, 2 + k)}" for k in range(N_LABELS)}
    others["vendor"] = f"{node % 5}"  # of all machines with the BIOS, and of others
    return {**others, "bios": "2.1" if node % 10 == 3 else "2.0"}


def fleet(seed: int, is_outlier: IsOutlier) -> list[Subject]:
    """Return instances; each node has a mixture of models and quantisations."""
    random = np.random.default_rng(seed)
    found = []
    for node in range(N_NODES):
        labels = labels_of(random, node)
        for one in range(ON_NODE):
            own = {**labels, "model": f"m{random.integers(0, 3)}", "version": f"{one % 2}"}
            is_one = is_outlier(random, own["model"], node)
            found.append(Subject("", f"i{node}-{one}", f"n{node}", own, is_one))
    return found


def values(found: list[Explanation]) -> list[tuple[str, str]]:
    return [(one.value.label, one.value.text) for one in found]


def test_in_noise_nothing_is_found() -> None:
    """Neither where one instance in ten is an outlier, nor where one node in ten is as a whole."""
    alarms = sum(map(_false_alarms, range(40)))

    assert 4 >= alarms  # of 80


def _false_alarms(seed: int) -> int:
    slow = {*np.random.default_rng(1000 + seed).choice(N_NODES, 6, replace=False)}
    of_instances = explanations(fleet(seed, lambda random, _, __: random.random() < 0.1))
    of_nodes = explanations(fleet(seed, lambda _, __, node: node in slow))
    return bool(of_instances) + any(one.value.label != NODE for one in of_nodes)


@pytest.mark.parametrize("seed", range(5))
def test_a_bad_batch_is_found_by_its_label_alone(seed: int) -> None:
    found = explanations(
        fleet(seed, lambda random, _, node: random.random() < (0.9 if node % 10 == 3 else 0.01))
    )

    assert [BAD] == values(found)
    (bios,) = found
    assert 6 == bios.n_nodes
    assert bios.support > 0.8
    assert bios.lift > 5
    assert bios.p_value < 0.001


def test_one_slow_node_is_named_and_none_of_its_labels() -> None:
    found = explanations(fleet(1, lambda _, __, node: node == 7))

    assert [(NODE, "n7")] == values(found)


def test_what_differs_within_nodes_is_compared_within_them() -> None:
    """Three nodes say nothing by their number; a model that fails on each of them does."""
    everywhere = fleet(
        2, lambda random, model, _: random.random() < (0.6 if model == "m1" else 0.02)
    )
    three = [one for one in everywhere if one.node in {"n0", "n1", "n2"}]

    assert [("model", "m1")] == values(explanations(three))
    assert [("model", "m1")] == values(explanations(everywhere))


def test_values_of_the_same_instances_are_shown_as_one() -> None:
    subjects = [
        Subject(
            one.cluster,
            one.instance_id,
            one.node,
            {**one.labels, "kernel": f"of {one.labels['bios']}"},
            one.is_outlier,
        )
        for one in fleet(3, lambda _, __, node: node % 10 == 3)
    ]

    (found,) = explanations(subjects)

    assert {BAD, ("kernel", "of 2.1")} == {tuple(found.value), *map(tuple, found.same_as)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The batch is 30 % slower; instances of even numbers on it also fail."""
    path, random = str(tmp_path_factory.mktemp("warehouse")), np.random.default_rng(5)
    labels = [labels_of(random, node) for node in range(N_NODES)]
    store = Warehouse(path)
    for hour in range(3):
        moment = datetime(2026, 5, 4, hour, tzinfo=UTC)
        store.add(
            INSTANCE_HOURS,
            moment,
            [
                {
                    "hour": moment,
                    "cluster": "",
                    "instance_id": f"i{node}-{one}",
                    "node": f"n{node}",
                    "model": "m:8b-q4_0",
                    "engine": "ollama",
                    "version": "1",
                    "hardware": "",
                    "labels": sorted(labels[node].items()),
                    "uptime_ratio": 0.9 if node % 10 == 3 and one % 2 == 0 else 1.0,
                    "tokens_per_second_median": 42
                    * (0.7 if node % 10 == 3 else 1.0)
                    * random.normal(1, 0.05),
                }
                for node in range(N_NODES)
                for one in range(ON_NODE)
            ],
        )
    return path


@pytest.mark.parametrize(("option", "n"), [("--slow", 60), ("--failing", 30)])
def test_a_bad_batch_in_a_warehouse_is_explained(place: str, option: str, n: int) -> None:
    arguments = ["explain", "--warehouse", place, option]

    text = CliRunner().invoke(warehouse, arguments)
    parsed = json.loads(CliRunner().invoke(warehouse, [*arguments, "--json"]).stdout)

    assert 0 == text.exit_code, text.output
    assert "bios = 2.1" in text.stdout
    assert [BAD] == [(one["label"], one["value"]) for one in parsed["explanations"]]
    assert abs(len(parsed["outliers"]) - n) <= 3
    assert N_NODES * ON_NODE == parsed["instances"]


def test_a_past_that_is_too_short_for_ageing_is_refused(place: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(warehouse, ["explain", "--warehouse", place, "--ageing"])

    assert 1 == done.exit_code
    assert "needs months" in done.stderr
