"""Specifications for tests: a small one, and changes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from provisioning.errors import SpecError
from provisioning.model import Fleet
from provisioning.spec import read_fleet

FOLDER = Path("nowhere")


def node(**changes: Any) -> dict[str, Any]:
    document = {"name": "n1", "runtime": "simulated", "cpus": 8, "memory": "64GiB"}
    return {**document, **changes}


def pool(**changes: Any) -> dict[str, Any]:
    return {"name": "llama", "model": "llama3.1:8b", "count": 4, **changes}


def document(**changes: Any) -> dict[str, Any]:
    return {"name": "lab", "nodes": [node()], "pools": [pool()], **changes}


def fleet_of(*, folder: Path = FOLDER, **changes: Any) -> Fleet:
    return read_fleet(_yaml(document(**changes)), source="fleet.yml", folder=folder)


def _yaml(document: dict[str, Any]) -> str:
    # JSON is YAML; PyYAML would write aliases for what is there twice.
    return json.dumps(document)


def faults_of(text: str) -> list[str]:
    """Return the problems of a text; none where it is a good one."""
    try:
        read_fleet(text, source="fleet.yml", folder=FOLDER)
    except SpecError as error:
        return list(error.problems)
    return []


def faults(**changes: Any) -> str:
    """Return the problems of a changed document as one text."""
    return "\n".join(faults_of(_yaml(document(**changes))))
