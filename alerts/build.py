"""Make the files that Prometheus and Alertmanager load, or see whether they are as made.

In:   Settings and a folder.
Out:  rules/*.yml, alertmanager.yml and templates/*.tmpl in it, byte for byte the same for the same
      settings. Fails with BuildError; a file is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from alerts import routing, rulebook
from alerts.errors import BuildError
from alerts.rulefile import BANNER, as_yaml, rule_file
from alerts.settings import Settings

RULES = "rules"
TEMPLATES = "templates"
ALERTMANAGER = "alertmanager.yml"
TEMPLATE_BANNER = "{{- /*\nMade by `ollama-fleet alerts build`."
OURS = ((RULES, "*.yml"), (TEMPLATES, "*.tmpl"))
"""Folders that hold nothing but what is made here."""


def files(settings: Settings) -> dict[str, str]:
    """Return the text of each file, by its path below the output folder."""
    groups = rulebook.groups(settings)
    rules = {f"{RULES}/{group.name}.yml": rule_file(group, settings) for group in groups}
    document = routing.document(settings.routing, cluster_label=settings.prometheus.cluster_label)
    return {**rules, ALERTMANAGER: as_yaml(document), **_templates()}


def _templates() -> dict[str, str]:
    folder = resources.files("alerts") / TEMPLATES
    return {
        f"{TEMPLATES}/{item.name}": item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".tmpl")
    }


def write(settings: Settings, folder: Path) -> tuple[str, ...]:
    """Write the files that differ, remove those of ours that are no longer made; return which.

    Raises:
        BuildError: A file cannot be written or removed, or one of that name is not ours.
    """
    made = files(settings)
    if others := [path for path in made if _is_others(folder / path)]:
        raise BuildError(
            f"{', '.join(str(folder / path) for path in others)}: not made by this command, so "
            "left alone, and nothing written; choose another --output-dir, or move it away"
        )
    changed = [path for path, text in made.items() if _text_of(folder / path) != text]
    orphans = _orphans(made, folder)
    for path in (*changed, *orphans):
        try:
            _bring_about(folder / path, made.get(path))
        except OSError as error:
            raise BuildError(
                f"cannot write {folder / path}: {error.strerror}; choose another --output-dir, or "
                "make room there and make it writable"
            ) from error
    return (*changed, *orphans)


def _bring_about(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        _write_whole(path, text)


def check(settings: Settings, folder: Path) -> None:
    """See whether the folder holds what `write` would write, and no more.

    Raises:
        BuildError: Files are missing, differ, or are left over; names each.
    """
    made = files(settings)
    faults = [fault for path, text in made.items() if (fault := _fault(folder / path, text))]
    faults += [f"{folder / path} is left over: nothing makes it" for path in _orphans(made, folder)]
    if faults:
        raise BuildError(
            "\n  ".join(["the alerts are not as the settings make them", *faults])
            + "\nRun `ollama-fleet alerts build` with the same settings."
        )


def _fault(path: Path, text: str) -> str:
    found = _text_of(path)
    if found is None:
        return f"{path} is missing"
    if not found.strip():
        return f"{path} is empty"
    return "" if found == text else f"{path} differs"


def _orphans(made: Mapping[str, str], folder: Path) -> list[str]:
    found = (
        path.relative_to(folder).as_posix()
        for name, pattern in OURS
        for path in sorted((folder / name).glob(pattern))
    )
    return [path for path in found if path not in made and not _is_others(folder / path)]


def _is_others(path: Path) -> bool:
    """Return whether a file is there that this command has not made."""
    text = _text_of(path)
    return bool(text) and not str(text).startswith((BANNER, TEMPLATE_BANNER))


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
