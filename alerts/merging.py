"""Merge our routing into an existing Alertmanager configuration, and leave its own lines alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alerts import routing
from alerts.errors import MergeError
from alerts.rulefile import BANNER, dumped
from alerts.settings import Settings
from ollama_fleet import yaml_lines
from ollama_fleet.files import UnreadableFileError, read_regular
from ollama_fleet.yaml_lines import InvalidDocumentError

BEGIN = "# BEGIN ollama-fleet: made by `ollama-fleet alerts merge`, which replaces these lines"
END = "# END ollama-fleet"
ROUTE, ROUTES = "route", "routes"
NAMED = {"receivers": "receiver", "time_intervals": "time interval"}
NAMED_BEFORE = {"time_intervals": ("time_intervals", "mute_time_intervals")}
"""Lists whose names must not be the same."""
MAX_FILE_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Insertion:
    """Lines of ours, and before which line of theirs they go."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Existing:
    """The operator's configuration, without what an earlier merge added."""

    source: str
    text: str
    root: yaml.MappingNode
    route: yaml.MappingNode
    content: Mapping[str, Any]

    def fault(self, message: str, node: yaml.Node | None = None) -> MergeError:
        """Return the error, with the line of the node."""
        place = self.source if node is None else f"{self.source}:{_line(node) + 1}"
        return MergeError(f"{place}: {message}")


def read(path: Path) -> tuple[str, int]:
    """Return the text of a file, and its permissions.

    Raises:
        MergeError: It cannot be read.
    """
    try:
        body, status = read_regular(path, MAX_FILE_BYTES)
        return body.decode(), status.st_mode & 0o777
    except UnreadableFileError as error:
        raise MergeError(f"{path} {error}") from error
    except UnicodeDecodeError as error:
        raise MergeError(str(yaml_lines.not_utf8(error, str(path)))) from error


def merged(text: str, settings: Settings, *, source: str) -> str:
    """Return a configuration with our routes as the first of its root, and what they need.

    What an earlier merge added is replaced; everything else stays as it is, comments as well.

    Raises:
        MergeError: The text is no configuration of Alertmanager, or has names or a form that do
            not go with ours.
    """
    existing = _existing(_without_ours(text, source), source)
    options = {"cluster_label": settings.prometheus.cluster_label}
    routes = routing.subtree(settings.routing, **options)
    lists = routing.lists(settings.routing, **options)
    _check_names(existing, lists)
    insertions = [_insertion(existing, existing.route, ROUTES, routes)]
    insertions += [_insertion(existing, existing.root, key, ours) for key, ours in lists.items()]
    made = _inserted(existing.text, insertions)
    _check_meaning(existing, made, routes, lists)
    return made


def _without_ours(text: str, source: str) -> str:
    """Return a text without the lines between our marks."""
    kept, begun = [], 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        mark = line.strip()
        if mark == (END if not begun else BEGIN):
            raise MergeError(f"{source}:{number}: `{mark}` is not expected here: remove the marks")
        if mark == BEGIN:
            begun = number
        elif mark == END:
            begun = 0
        elif not begun:
            kept.append(line)
    if begun:
        raise MergeError(f"{source}:{begun}: `{END}` is missing: remove the lines of ours by hand")
    return "".join(kept)


def _existing(text: str, source: str) -> Existing:
    if text.startswith(BANNER):
        raise MergeError(
            f"{source}: was made by `ollama-fleet alerts build`, which overwrites it; merge into a "
            "configuration of your own"
        )
    try:
        content = yaml_lines.parse(text.encode(), source).content
        root = yaml_lines.compose(text.encode(), source)
    except InvalidDocumentError as error:
        raise MergeError(str(error)) from error
    route = _child(root, ROUTE) if isinstance(root, yaml.MappingNode) else None
    if not isinstance(root, yaml.MappingNode) or not isinstance(route, yaml.MappingNode):
        raise MergeError(f"{source}: is no configuration of Alertmanager: it has no `{ROUTE}`")
    existing = Existing(source, text, root, route, content)
    for node in (root, route):
        if node.flow_style:
            raise existing.fault("write one key a line, not {…}, so that ours can be added", node)
    return existing


def _check_names(existing: Existing, lists: Mapping[str, Sequence[Any]]) -> None:
    for key, what in NAMED.items():
        ours = {item["name"] for item in lists.get(key, ())}
        for place in NAMED_BEFORE.get(key, (key,)):
            theirs = existing.content.get(place) or ()
            names = {str(item.get("name")) for item in theirs if isinstance(item, dict)}
            if taken := sorted(ours & names):
                node = _child(existing.root, place)
                raise existing.fault(f"has a {what} {taken[0]} that is not ours: rename it", node)


def _insertion(
    existing: Existing, parent: yaml.MappingNode, key: str, ours: Sequence[Any]
) -> Insertion:
    """Return where a list of ours begins a list of theirs, or is a list of its own."""
    found = next((pair for pair in parent.value if pair[0].value == key), None)
    column = parent.value[0][0].start_mark.column
    if found is None:
        # A new key of the root comes after what may end the file, a list whose items are all ours.
        end = len(existing.text.splitlines()) + 1
        line = end if parent is existing.root else _line(parent.value[0][0])
        return Insertion(line, _marked(dumped({key: list(ours)}), column))
    name, value = found
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        column = value.start_mark.column
    elif value.value != "":
        raise existing.fault(
            f"write `{key}` with one `- …` a line, so that ours can be added", name
        )
    return Insertion(_line(name) + 1, _marked(dumped(list(ours)), column))


def _marked(text: str, column: int) -> str:
    return textwrap.indent(f"{BEGIN}\n{text}{END}\n", " " * column)


def _inserted(text: str, insertions: Sequence[Insertion]) -> str:
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    for each in sorted(insertions, key=lambda each: each.line, reverse=True):
        lines.insert(each.line, each.text)
    return "".join(lines)


def _check_meaning(
    existing: Existing, made: str, routes: Sequence[Any], lists: Mapping[str, Sequence[Any]]
) -> None:
    """See whether the text says what theirs and ours say together."""
    route = existing.content[ROUTE]
    wanted = {
        **existing.content,
        **{key: [*ours, *(existing.content.get(key) or ())] for key, ours in lists.items()},
        ROUTE: {**route, ROUTES: [*routes, *(route.get(ROUTES) or ())]},
    }
    try:
        is_whole = yaml_lines.parse(made.encode(), existing.source).content == wanted
    except InvalidDocumentError:
        is_whole = False
    if not is_whole:
        raise existing.fault(
            "its form leaves no place for ours: write each list with one `- …` a line below its "
            "key, and end the file with its last key"
        )


def _child(parent: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for name, value in parent.value if name.value == key), None)


def _line(node: yaml.Node) -> int:
    """Return the line of a node, from 0 on."""
    return int(node.start_mark.line)
