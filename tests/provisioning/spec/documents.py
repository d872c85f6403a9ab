"""Specifications for tests: a small one, and changes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from provisioning.errors import SpecError
from provisioning.spec.document import read_fleet
from provisioning.spec.schema import Fleet

FOLDER = Path("nowhere")


def node(**changes: Any) -> dict[str, Any]:
    document = {"name": "n1", "runtime": "simulated", "cpus": 8, "memory": "64GiB"}
    return {**document, **changes}


def pool(**changes: Any) -> dict[str, Any]:
    return {"name": "llama", "model": "llama3.1:8b", "count": 4, **changes}


def document(**changes: Any) -> dict[str, Any]:
    return {"name": "lab", "nodes": [node()], "pools": [pool()], **changes}


def _yaml(document: dict[str, Any]) -> str:
    """Return the document as JSON, which is YAML; PyYAML would write aliases."""
    return json.dumps(document, ensure_ascii=False)


def fleet_of(*, folder: Path = FOLDER, **changes: Any) -> Fleet:
    return read_fleet(_yaml(document(**changes)), source="fleet.yml", folder=folder)


def problems_of(text: str, *, folder: Path = FOLDER) -> list[str]:
    """Return the problems of a text; none where it is a good one."""
    try:
        read_fleet(text, source="fleet.yml", folder=folder)
    except SpecError as error:
        return list(error.problems)
    return []


def problems(*, folder: Path = FOLDER, **changes: Any) -> str:
    """Return the problems of a changed document as one text."""
    return "\n".join(problems_of(_yaml(document(**changes)), folder=folder))
