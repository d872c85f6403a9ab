"""Read the runbooks, and find what they name that does not exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import promql_parser
import yaml

from alerts import explain, rulebook
from alerts.errors import AlertsError
from alerts.model import Alert
from alerts.series import ALL_SERIES
from alerts.settings import Settings
from exporter.catalogue import Kind
from exporter.engines import ENGINE_NAMES
from exporter.instances import FILTER_KEYS, InstanceView
from exporter.landing import PATHS
from exporter.model import Condition, Outcome, State, Status
from exporter.settings import SETTINGS
from ollama_fleet.cli import main
from provisioning.cli.settings import OPTIONS
from provisioning.model import Phase
from provisioning.spec import schema
from provisioning.spec.document import keys_of
from tests.conftest import ROOT

FOLDER = ROOT / "alerts" / "runbooks"
SECTIONS = (schema.Fleet, schema.Pool, schema.Limits, schema.Rotation)
OTHERS_OPTIONS = {"--metrics"}
"""Of llama-server, which is none of our programs."""
OTHERS_WORDS = {
    *("for", "keep_firing_for", "instance", "webhook"),
    *("sample_limit", "body_size_limit", "scrape_timeout"),
    *("out_of_memory", "overloaded", "other"),
    "powersave",
}
"""Of rules and scrape jobs, types of errors, a governor of Linux."""
SCRAPE_LABELS = {"__name__", "cluster", "job", "instance", "le", "alertname"}

FENCE = re.compile(r"(?m)^( *)```(\w+)\n(.*?)^ *```$", re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
SERIES = re.compile(r"(?<![\w:-])(?:[a-z_]+:)?ollama_[a-z]\w*(?::\w+)?(\$?)")
DOTTED = re.compile(r"[a-z]+(?:\.[a-z_-]+)+")
STATED = re.compile(r"`([a-z]+(?:\.[a-z_-]+)+)` \(([^()]+)\)")
ALERT = re.compile(r"\bOllama[A-Z]\w*")


@dataclass(frozen=True, slots=True)
class Runbook:
    """One page."""

    name: str
    text: str

    @classmethod
    def read(cls, path: Path) -> Runbook:
        return cls(path.stem, path.read_text(encoding="utf-8"))

    @property
    def headings(self) -> list[str]:
        return re.findall(r"(?m)^#+ .*$", self.prose)

    @property
    def summary(self) -> str:
        """Return the line below the title."""
        return self.text.splitlines()[2]

    @property
    def prose(self) -> str:
        return FENCE.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        return SPAN.findall(self.prose)

    def blocks(self, language: str) -> list[str]:
        """Return the code blocks in a language, without the lists' indentation."""
        return [
            re.sub(f"(?m)^{indent}", "", body)
            for indent, found, body in FENCE.findall(self.text)
            if found == language
        ]

    @property
    def script(self) -> str:
        """Return all shell blocks, which a reader pastes into one shell."""
        return "\n".join(self.blocks("sh"))

    @property
    def queries(self) -> list[str]:
        """Return the PromQL: an empty line or a comment begins a query; and promtool's."""
        parts = (
            part for body in self.blocks("promql") for part in re.split(r"(?m)\n\n|^(?=#)", body)
        )
        return [part.strip() for part in parts if part.strip()] + list(_asked(self.script))


def read_all() -> list[Runbook]:
    return [Runbook.read(path) for path in sorted(FOLDER.iterdir())]


@cache
def alerts_by_name() -> dict[str, list[Alert]]:
    by_name: dict[str, list[Alert]] = {}
    for group in rulebook.groups(Settings()):
        for alert in group.alerts:
            by_name.setdefault(alert.name, []).append(alert)
    return by_name


def _commands(script: str, program: str) -> Iterator[list[str]]:
    """Yield the words of each call of a program, up to a pipe or the end of the line."""
    for line in re.sub(r"\\\n\s*", "", script).splitlines():
        words = shlex.split(line, comments=True) if line.strip().startswith(program) else []
        yield from [words[: words.index("|")] if "|" in words else words] if words else []


def _asked(script: str) -> Iterator[str]:
    for words in _commands(script, "promtool"):
        yield words[-1].replace("$window", "1h")


@cache
def _labels_by_series() -> dict[str, frozenset[str]]:
    """Return the labels that each series may have, by the names that queries may use."""
    labels: dict[str, frozenset[str]] = {}
    for series in ALL_SERIES:
        names = [series.name]
        if series.kind is Kind.HISTOGRAM:
            names = [f"{series.name}{suffix}" for suffix in ("", "_bucket", "_count", "_sum")]
        labels |= dict.fromkeys(names, frozenset(series.labels))
    for group in rulebook.groups(Settings()):
        for rule in group.recordings:
            grouped = re.findall(r"(?:by|group_left) \(([^()]*)\)", rule.expr)
            told = {name.strip() for names in grouped for name in names.split(",")}
            read = [labels[name] for name in labels if explain.mentions(rule.expr, name)]
            known = labels.get(rule.name, frozenset())
            labels[rule.name] = known.union(told, *read)
    return labels


def series_faults(text: str) -> list[str]:
    """Find series that nobody publishes or records; a name before `$` may go on."""
    known = _labels_by_series()
    return [
        f"there is no series {match[0]}"
        for match in SERIES.finditer(text)
        if match[0] not in known
        and not (match[1] and any(name.startswith(match[0][:-1]) for name in known))
    ]


def query_faults(query: str) -> list[str]:
    """Find what does not parse, and labels and statuses that a series cannot have."""
    try:
        expression = promql_parser.parse(query)
    except ValueError as error:
        return [f"{query!r} is no PromQL: {error}"]
    return [fault for selector in selectors(expression) for fault in _selector_faults(selector)]


def selectors(expression: Any) -> list[promql_parser.VectorSelector]:
    """Return the selectors of an expression, each once."""
    nodes: list[Any] = []
    promql_parser.walk(expression, nodes.append)
    nodes += [n.vector_selector for n in nodes if isinstance(n, promql_parser.MatrixSelector)]
    found = {n.prettify(): n for n in nodes if isinstance(n, promql_parser.VectorSelector)}
    return list(found.values())


def _selector_faults(selector: promql_parser.VectorSelector) -> Iterator[str]:
    labels = _labels_by_series().get(selector.name or "")
    for matcher in selector.matchers.matchers:
        if labels is not None and matcher.name not in labels | SCRAPE_LABELS:
            yield f"{selector.name} has no label {matcher.name}"
        if matcher.name == "status" and not set(matcher.value.split("|")) <= set(Status):
            yield f"there is no status {matcher.value}"


def alert_faults(text: str) -> list[str]:
    return [f"there is no alert {n}" for n in ALERT.findall(text) if n not in alerts_by_name()]


@cache
def _defaults() -> dict[str, str]:
    """Return every setting's default as one would write it: the alerts', then the exporter's."""
    defaults: dict[str, str] = {setting.name: setting.default for setting in SETTINGS}
    for section, values in Settings().model_dump(mode="json").items():
        if section != "alerts":
            defaults |= {f"{section}.{k}": str(v).removesuffix(".0") for k, v in values.items()}
    return defaults


def setting_faults(text: str) -> list[str]:
    """Find settings that do not exist, and defaults that are stated and not so."""
    defaults = _defaults()
    named = [span for span in SPAN.findall(text) if DOTTED.fullmatch(span)]
    unknown = [name for name in named if name not in defaults and not name.endswith(".yml")]
    return [f"there is no setting {name}" for name in unknown] + [
        f"{name} is {defaults[name]} by default, not {told}"
        for name, told in STATED.findall(text)
        if name in defaults and defaults[name] != told
    ]


def yaml_faults(block: str) -> list[str]:
    """Find what the settings refuse."""
    try:
        settings = Settings.model_validate(yaml.safe_load(block))
        rulebook.groups(settings)
    except (ValueError, rulebook.UnfitSettingsError, AlertsError) as error:
        return [str(error)]
    return []


def command_faults(words: list[str]) -> list[str]:
    """Find commands and options that `ollama-fleet` does not have."""
    command: click.Command = main
    context = click.Context(main)
    faults = []
    for word in words[1:]:
        if word.startswith("-"):
            option = word.partition("=")[0]
            known = {name for p in command.params for name in p.opts} | {"--help"}
            faults += [] if option in known else [f"{command.name} has no option {option}"]
        elif isinstance(command, click.Group):
            inner = command.get_command(context, word)
            if inner is None and command.invoke_without_command:
                continue  # an option's value
            if inner is None:
                return [*faults, f"there is no command {word} of {command.name}"]
            command = inner
    return faults


def span_faults(span: str) -> list[str]:
    """Find words in code marks that mean nothing in this project."""
    if span.startswith("ollama-fleet "):
        return command_faults(shlex.split(span))
    if span.startswith("--"):
        option = span.split()[0]
        known = {setting.option for setting in SETTINGS} | OTHERS_OPTIONS
        known |= {f"--{option.name}" for option in OPTIONS}
        return [] if option in known else [f"there is no option {option}"]
    if span.startswith("/"):
        return path_faults(f"$EXPORTER{span}") if span != "/health" else []
    is_word = re.fullmatch(r"[a-z]+(_[a-z]+)*", span) and not SERIES.fullmatch(span)
    if is_word and span not in _vocabulary():
        return [f"`{span}` is no status, outcome, label or field"]
    return []


@cache
def _vocabulary() -> frozenset[str]:
    labels = {label for labels in _labels_by_series().values() for label in labels}
    own = {label for alerts in alerts_by_name().values() for a in alerts for label in a.labels}
    view = InstanceView.__struct_fields__
    spec = {key for section in SECTIONS for key in keys_of(section)}
    words: set[str] = {
        *Status,
        *Condition,
        *Outcome,
        *State,
        *ENGINE_NAMES,
        *Phase,
        *labels,
        *view,
        *own,
    }
    return frozenset(words | spec | OTHERS_WORDS)


def path_faults(text: str) -> list[str]:
    """Find pages of the exporter, filters and fields of /instances that do not exist."""
    pages = {"/", *PATHS}
    paths = [path for path in re.findall(r"\$EXPORTER(/[\w/-]*)", text) if path not in pages]
    filters = re.findall(r"/instances\?(\w+)=", text)
    filters += re.findall(r'/instances" --data-urlencode "(\w+)=', text)
    statuses = re.findall(r"[?&]status=\{?([\w,]+)", text)
    listed = {status for found in statuses for status in found.split(",")}
    json_fields = {
        field
        for found in re.findall(r"""/instances.*?grep -oE? '"\(?([\w|]+)\)?":""", text, re.DOTALL)
        for field in found.split("|")
    }
    return [
        *(f"the exporter has no page {path}" for path in paths),
        *(f"/instances has no filter {key}" for key in filters if key not in FILTER_KEYS),
        *(f"there is no status {status}" for status in listed - set(Status)),
        *(
            f"/instances has no field {f}"
            for f in json_fields - set(InstanceView.__struct_fields__)
        ),
    ]


def faults(page: Runbook) -> list[str]:
    """Find all that a page names and that does not exist."""
    ours = list(_commands(page.script, "ollama-fleet"))
    return [
        *series_faults(page.text),
        *alert_faults(page.text),
        *setting_faults(page.text),
        *path_faults(page.script),
        *(fault for query in page.queries for fault in query_faults(query)),
        *(fault for block in page.blocks("yaml") for fault in yaml_faults(block)),
        *(fault for words in ours for fault in command_faults(words)),
        *(fault for span in page.spans for fault in span_faults(span)),
    ]
