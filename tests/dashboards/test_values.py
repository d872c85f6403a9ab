"""What each query makes of given series, by promtool: a mistake of a sign or a side shows here."""

from __future__ import annotations

import ast
import inspect
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from dashboards.queries import fleet, instance, models, nodes, pipeline
from tests.alerts import promtool
from tests.dashboards.values import (
    case,
    fleet_cases,
    instance_cases,
    model_cases,
    node_cases,
    pipeline_cases,
    provisioner_cases,
    traffic_cases,
)

CASES = (
    *fleet_cases.CASES,
    *model_cases.CASES,
    *node_cases.CASES,
    *instance_cases.CASES,
    *pipeline_cases.CASES,
    *provisioner_cases.CASES,
    *traffic_cases.CASES,
)


@pytest.fixture(scope="module")
def failures(promtool_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Run all cases at once; return what promtool says of those that failed."""
    path = tmp_path_factory.mktemp("values") / "tests.yml"
    path.write_text(json.dumps(case.document(CASES)))
    result = promtool.run(promtool_binary, path)
    found = case.failures(result.stdout)
    assert bool(found) == bool(result.returncode), result.stdout[:2000]
    return found


def test_every_query_has_the_value_that_it_promises(failures: Mapping[str, str]) -> None:
    assert {} == failures


def test_names_of_cases_are_told_apart() -> None:
    counts = Counter(one.name for one in CASES)

    assert [] == [name for name, count in counts.items() if count > 1]


@pytest.mark.parametrize("module", [fleet, models, nodes, instance, pipeline])
def test_every_query_has_a_case(module: object) -> None:
    asked = {
        node.attr
        for path in Path(case.__file__).parent.glob("*_cases.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if module.__name__.endswith(f".{node.value.id}")  # type: ignore[attr-defined]
    }
    public = {
        name
        for name, found in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and found.__module__ == module.__name__  # type: ignore[attr-defined]
    }

    assert set() == public - asked
