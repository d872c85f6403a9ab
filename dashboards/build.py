"""Make the JSON files that Grafana loads, or see whether they are as made."""

from __future__ import annotations

import json
from pathlib import Path

from dashboards.collection import boards
from dashboards.kit.board import BANNER, document
from dashboards.settings import DashboardSettings
from ollama_fleet import generated
from ollama_fleet.generated import Output

OURS = ((".", "*.json"),)


def files(settings: DashboardSettings) -> dict[str, str]:
    """Return the text of each file, by its name."""
    return {f"{board.uid}.json": as_json(document(board)) for board in boards(settings)}


def as_json(content: object) -> str:
    """Return a dashboard as text in which a change is a change of few lines."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write(settings: DashboardSettings, folder: Path) -> tuple[str, ...]:
    """Write the files that differ, remove those of ours that are no longer made; return which.

    Raises:
        GeneratedError: A file cannot be written or removed, or one of that name is not ours.
    """
    return generated.write(output(settings), folder)


def check(settings: DashboardSettings, folder: Path) -> None:
    """See whether the folder holds what `write` would write, and none that nothing makes.

    Raises:
        GeneratedError: Files are missing, differ, or are left over; names each.
    """
    generated.check(output(settings), folder)


def output(settings: DashboardSettings) -> Output:
    """Return everything that the command makes under these settings."""
    return Output(what="dashboards", made=files(settings), folders=OURS, is_ours=_is_ours)


def _is_ours(text: str) -> bool:
    """Return whether a text is a dashboard whose description says that the command made it."""
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and BANNER in str(content.get("description", ""))
