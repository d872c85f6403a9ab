"""Every fault of settings and specifications is in our words, none in pydantic's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from alerts import config
from alerts.errors import SettingsError
from alerts.settings import Settings
from provisioning.spec.schema import Fleet, Pool, Workload
from tests.provisioning.spec.documents import document, node, pool, problems_of

BAD: tuple[Any, ...] = (
    None,
    "",
    "x",
    "~",
    -1,
    0,
    1.5,
    10**30,
    True,
    [],
    [1],
    ["x"],
    [{}],
    {},
    {"x": 1},
    {"file": 1},
)
FOREIGN = re.compile(
    r"Field required|[Ii]nput should|Value error|String should|[Vv]alid (string|integer|number|"
    r"boolean|tuple|dictionary|list)|should (be|have|match)|[Uu]nable to|instance of|"
    r"Extra inputs|finite number\b.*\btype"
)
MAX_DEPTH = 4


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def keys(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every setting."""
    for name, field in model.model_fields.items():
        path = (*above, field.alias or name)
        yield path
        for inner in _models(field.annotation) if len(path) < MAX_DEPTH else ():
            yield from keys(inner, path)


def nested(path: tuple[str, ...], value: object) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def settings_faults(path: Path, content: object) -> list[str]:
    path.write_text(json.dumps(content))
    try:
        config.load(path)
    except SettingsError as error:
        return [problem.message for problem in error.problems]
    return []


def test_no_fault_of_the_alerts_settings_is_in_foreign_words(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"

    told = {
        fault
        for key in keys(Settings)
        for bad in BAD
        for fault in settings_faults(path, nested(key, bad))
    }

    assert 30 < len(told)
    assert [] == [fault for fault in told if FOREIGN.search(fault)]


@pytest.mark.parametrize("section", ["", "nodes", "pools"])
def test_no_fault_of_a_specification_is_in_foreign_words(section: str) -> None:
    sections: dict[str, tuple[type[BaseModel], ...]] = {"": (Fleet,), "pools": (Pool, Workload)}
    models = sections.get(section) or tuple(_models(Fleet.model_fields["nodes"].annotation))
    made = {"": document, "nodes": node, "pools": pool}[section]

    def changed(key: tuple[str, ...], bad: object) -> Any:
        whole = made(**nested(key, bad))
        return document(**{section: [whole]}) if section else whole

    texts = [changed(key, bad) for model in models for key in keys(model) for bad in BAD]
    told = {fault for text in texts for fault in problems_of(json.dumps(text))}

    assert 30 < len(told)
    assert [] == [fault for fault in told if FOREIGN.search(fault)]
