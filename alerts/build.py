"""Make the files that Prometheus and Alertmanager load, or see whether they are as made."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from alerts import routing, rulebook
from alerts.rulefile import BANNER, as_yaml, rule_file
from alerts.settings import Settings
from ollama_fleet import generated
from ollama_fleet.files import write_whole
from ollama_fleet.generated import GeneratedError, Output

RULES = "rules"
TEMPLATES = "templates"
ALERTMANAGER = "alertmanager.yml"
TEMPLATE_BANNER = "{{- /*\nMade by `ollama-fleet alerts build`."
OURS = ((RULES, "*.yml"), (TEMPLATES, "*.tmpl"))
"""Folders that hold nothing but what is made here."""
RULES_ALONE = ((".", "*.yml"),)


def files(settings: Settings) -> dict[str, str]:
    """Return the text of each file, by its path below the output folder."""
    rules = {f"{RULES}/{name}": text for name, text in rule_files(settings).items()}
    document = routing.document(settings.routing, cluster_label=settings.prometheus.cluster_label)
    return {**rules, ALERTMANAGER: as_yaml(document), **_templates()}


def rule_files(settings: Settings) -> dict[str, str]:
    """Return the text of each rule file, by its name."""
    return {f"{group.name}.yml": rule_file(group, settings) for group in rulebook.groups(settings)}


def _templates() -> dict[str, str]:
    folder = resources.files("alerts") / TEMPLATES
    return {
        f"{TEMPLATES}/{item.name}": item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".tmpl")
    }


def write(settings: Settings, folder: Path, *, is_rules_only: bool = False) -> tuple[str, ...]:
    """Write the files that differ, remove those of ours that are no longer made; return which.

    Raises:
        GeneratedError: A file cannot be written or removed, or one of that name is not ours.
    """
    return generated.write(output(settings, is_rules_only=is_rules_only), folder)


def check(settings: Settings, folder: Path, *, is_rules_only: bool = False) -> None:
    """See whether the folder holds what `write` would write, and no more.

    Raises:
        GeneratedError: Files are missing, differ, or are left over; names each.
    """
    generated.check(output(settings, is_rules_only=is_rules_only), folder)


def output(settings: Settings, *, is_rules_only: bool = False) -> Output:
    """Return everything that the command makes under these settings."""
    made = rule_files(settings) if is_rules_only else files(settings)
    folders = RULES_ALONE if is_rules_only else OURS
    return Output(what="alerts", made=made, folders=folders, is_ours=_is_ours)


def write_merged(text: str, path: Path, *, mode: int) -> tuple[Path, ...]:
    """Write a merged alertmanager.yml, and the templates beside it; return what was written.

    Raises:
        GeneratedError: A file cannot be written, or a template of that name is not ours.
    """
    beside = Output(what="alerts", made=_templates(), folders=(), is_ours=_is_ours)
    written = generated.write(beside, path.parent)
    try:
        # It may hold secrets: nobody may read it who could not read the one that it was made from.
        write_whole(path, text.encode(), mode=mode)
    except OSError as error:
        raise GeneratedError(
            f"cannot write {path}: {error.strerror}; choose another --output"
        ) from error
    return (*(path.parent / name for name in written), path)


def _is_ours(text: str) -> bool:
    return text.startswith((BANNER, TEMPLATE_BANNER))
