"""Write the tables of docs/reference/ from the code: `python -m tests.reference` (`make docs`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click
import msgspec

from alerts import rulebook
from alerts.model import Alert
from alerts.series import PROVISIONER_SERIES
from alerts.settings import Settings
from dashboards.collection import boards
from dashboards.settings import DashboardSettings
from exporter import catalogue
from exporter.engines import ENGINES
from exporter.settings import SETTINGS
from exporter.warehouse import schema
from ollama_fleet.cli import COMMANDS, LazyGroup
from ollama_fleet.clock import SystemClock
from ollama_fleet.durations import duration_text
from provisioning.api.routes import OPERATIONS
from provisioning.cli.settings import OPTIONS
from provisioning.gateway.settings import Limit
from provisioning.gateway.settings import Settings as GatewaySettings
from provisioning.metrics import Metrics
from tests.exporter.engines.bodies import ANSWERS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
BANNER = "<!-- Written by `make docs` from the code; do not edit. -->"
Row = Iterable[str]


def pages() -> Mapping[str, str]:
    """Return the text of each page by its file name."""
    return {
        "series.md": _page("Series", _series()),
        "settings.md": _page("Settings", _settings()),
        "alerts.md": _page("Alerts", _alerts()),
        "dashboards.md": _page("Dashboards", _dashboards()),
        "engines.md": _page("Engines", _engines()),
        "commands.md": _page("Commands", _commands()),
        "warehouse.md": _page("Tables of the warehouse", _warehouse()),
        "api.md": _page("The provisioner's API", _api()),
    }


def _page(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"# {title}", "", BANNER, "", *lines]).rstrip() + "\n"


def _table(headers: Row, rows: Iterable[Row]) -> Iterator[str]:
    headers = list(headers)
    for row in (headers, ["---"] * len(headers), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _code(text: object) -> str:
    return f"`{text}`" if text not in ("", None) else "–"


def _labels(names: Iterable[str]) -> str:
    return ", ".join(map(_code, names)) or "–"


def _series() -> Iterator[str]:
    headers = ("series", "type", "labels", "meaning")
    for title, prefixes in (
        ("Fleet, models and nodes", ("ollama_fleet_", "ollama_model_", "ollama_node_")),
        (
            "Instances (with `--metrics.per-instance`, which is on up to 50,000 instances)",
            ("ollama_instance_",),
        ),
        ("The exporter itself, beside `process_*` and `python_gc_*`", ("ollama_exporter_",)),
    ):
        yield from (f"## {title}", "")
        yield from _table(
            headers,
            (
                [_code(one.name), one.kind, _labels(one.labels), one.help]
                for one in catalogue.ALL_SERIES
                if one.name.startswith(prefixes)
            ),
        )
    yield from ("## The gateway", "")
    yield from _table(
        headers,
        (
            [_code(one.name), one.kind, _labels(one.labels), one.help]
            for one in catalogue.GATEWAY_SERIES
        ),
    )
    yield from ("## The provisioner", "")
    yield from _table(headers, _provisioner_series())


def _provisioner_series() -> Iterator[Row]:
    registry = Metrics(SystemClock()).registry
    help_by_name = {family.name: family.documentation for family in registry.collect()}
    for one in PROVISIONER_SERIES:
        help_text = help_by_name[one.name.removesuffix("_total")]
        yield [_code(one.name), one.kind, _labels(one.labels), help_text]


GIVEN_BY = {
    "loaded models, their memory": ("loaded",),
    "installed models": ("installed",),
    "model": ("models",),
    "version": ("version",),
    "start time": ("start_time_s",),
    "speed": ("tokens_per_second", "generating_seconds_total"),
    "generated tokens": ("generated_tokens_total",),
    "prompt tokens": ("prompt_tokens_total",),
    "running requests": ("requests_running",),
    "waiting requests": ("requests_queued",),
    "errors by type": ("errors_total",),
    "request durations": ("request_duration",),
    "p99 latency of its own": ("latency_p99_s",),
    "time to first token": ("time_to_first_token",),
    "queue time": ("queue_time",),
    "KV cache usage": ("kv_cache_usage_ratio",),
}
"""Fields of Values, by what they are called for people."""


def _engines() -> Iterator[str]:
    yield from _table(
        ("engine", "requests of each poll", "requests when new or back"),
        (
            [
                _code(one.name),
                _labels(one.requests),
                _labels(one.identity_requests + one.costly_requests),
            ]
            for one in ENGINES
        ),
    )
    yield from ("What each gives, by the answers of real servers that the tests keep:", "")
    given = [msgspec.structs.asdict(one.read(ANSWERS[one.name]).values) for one in ENGINES]
    yield from _table(
        ("", *(_code(one.name) for one in ENGINES)),
        (
            [
                what,
                *(_yes(any(values[name] not in (None, ()) for name in names)) for values in given),
            ]
            for what, names in GIVEN_BY.items()
        ),
    )


def _yes(is_given: bool) -> str:
    return "yes" if is_given else "–"


def _settings() -> Iterator[str]:
    yield from ("## ollama-fleet exporter", "")
    yield from _table(
        ("option and key", "environment variable", "default", "meaning"),
        (
            [
                _code(s.name),
                _code(s.variable),
                _code(s.default),
                f"{s.help}{' Needs a restart.' if s.needs_restart else ''}",
            ]
            for s in SETTINGS
        ),
    )
    yield from ("## ollama-fleet provisioner run", "")
    yield from _table(
        ("option", "environment variable", "default", "meaning"),
        (
            [_code(o.name), _code(o.variable), _code(o.shown_default or o.default), o.help]
            for o in OPTIONS
        ),
    )
    yield from ("## ollama-fleet alerts (the file `alerts.yml`)", "")
    yield from _table(("key", "default", "meaning"), _alert_settings())
    yield from ("## ollama-fleet gateway (its settings file)", "")
    yield from _table(("key", "default", "meaning"), _gateway_settings())


def _gateway_settings() -> Iterator[Row]:
    values = GatewaySettings().model_dump(mode="json")
    for section, of_section in GatewaySettings.model_fields.items():
        fields = getattr(of_section.annotation, "model_fields", None)
        if fields is None:
            inner = Limit.model_fields if section == "limits" else {}
            shown = "" if inner else json.dumps(values[section])
            yield [_code(section), _code(shown), of_section.description or ""]
            for name, field in inner.items():
                default = json.dumps(values[section]["default"][name])
                yield [_code(f"{section}.ENGINE.{name}"), _code(default), field.description or ""]
            continue
        for name, field in fields.items():
            shown = _shown(values[section][name])
            yield [_code(f"{section}.{name}"), _code(shown), field.description or ""]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _alert_settings() -> Iterator[Row]:
    values = Settings().model_dump(mode="json", by_alias=True)
    for section in Settings.model_fields:
        if isinstance(getattr(Settings(), section), dict):
            yield [_code(section), "–", Settings.model_fields[section].description or ""]
        fields = getattr(type(getattr(Settings(), section)), "model_fields", {})
        for name, field in fields.items():
            value = values[section][name]
            shown = "" if value in (None, [], ()) else value
            yield [_code(f"{section}.{name}"), _code(shown), field.description or ""]


def _alerts() -> Iterator[str]:
    yield from ("`critical` pages, `warning` opens a ticket, `info` is only shown.", "")
    yield from _table(
        ("alert", "severity", "for", "summary"),
        (
            [
                f"[{name}](../../alerts/runbooks/{name}.md)",
                _distinct(str(one.severity) for one in variants),
                _distinct(duration_text(one.for_s) if one.for_s else "–" for one in variants),
                variants[0].summary,
            ]
            for name, variants in _alerts_by_name().items()
        ),
    )


def _alerts_by_name() -> Mapping[str, list[Alert]]:
    by_name: dict[str, list[Alert]] = {}
    for group in rulebook.groups(Settings()):
        for alert in group.alerts:
            by_name.setdefault(alert.name, []).append(alert)
    return by_name


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _dashboards() -> Iterator[str]:
    return _table(
        ("dashboard", "uid", "answers"),
        (
            [
                f"[{board.title}](../../dashboards/out/{board.uid}.json)",
                _code(board.uid),
                board.description,
            ]
            for board in boards(DashboardSettings())
        ),
    )


def _warehouse() -> Iterator[str]:
    yield from (f"Schema version {schema.VERSION}, in each file's metadata.", "")
    for one in schema.TABLES:
        yield from (f"## {one.name}", "", f"{one.meaning.capitalize()}.", "")
        yield from _table(
            ("column", "type", "meaning"),
            ([_code(c.name), _code(c.type), c.meaning] for c in one.columns),
        )


IN_SETTINGS = {"ollama-fleet exporter", "ollama-fleet provisioner run"}
"""Commands whose options are on the page of settings."""


def _commands() -> Iterator[str]:
    """Yield what `--help` says of each command; `--help` itself has the examples."""
    root = click.Context(LazyGroup("ollama-fleet"), info_name="ollama-fleet")
    found = [one for name in COMMANDS for one in _below(_context(root, name))]
    yield from _table(
        ("command", "what it does"),
        ([_anchored(one.command_path), one.command.get_short_help_str(200)] for one in found),
    )
    for context in found:
        yield from _command(context)


def _anchored(path: str) -> str:
    return f"[`{path}`](#{path.replace(' ', '-')})"


def _context(parent: click.Context, name: str) -> click.Context:
    command = parent.command.get_command(parent, name)  # type: ignore[attr-defined]
    return click.Context(command, parent, info_name=name, **command.context_settings)


def _below(context: click.Context) -> Iterator[click.Context]:
    if not isinstance(context.command, click.Group):
        yield context
        return
    if context.command.invoke_without_command:
        yield context
    for name in context.command.list_commands(context):
        yield from _below(_context(context, name))


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from (f"## {context.command_path}", "", "```text", usage, "```", "")
    if context.command_path in IN_SETTINGS:
        yield from ("Its options: [settings](settings.md).", "")
        return
    yield from _table(("option", "meaning"), _options(context))


def _options(context: click.Context) -> Iterator[Row]:
    for parameter in context.command.params:
        record = parameter.get_help_record(context)
        if record and isinstance(parameter, click.Option) and "--version" not in parameter.opts:
            yield [_code(record[0]), record[1].replace("<", "&lt;")]


def _api() -> Iterator[str]:
    return _table(
        ("request", "token", "answer"),
        (
            [_code(f"{one.method} {one.path}"), "yes" if one.needs_token else "–", one.summary]
            for one in OPERATIONS
        ),
    )


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
