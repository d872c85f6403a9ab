"""Read dashboards with grafana-foundation-sdk, whose models are made from Grafana's own schema.

In:   the JSON of a dashboard.
Out:  what the models do not know: it is missing, or another, in what they write back.

The models read what they know by name, and pass texts and numbers on unchecked: what a key may hold
is for @grafana/schema to say, see test_typescript.py. Fails with whatever a model raises where the
shape is wrong.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from grafana_foundation_sdk.cog import runtime
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins

from tests.dashboards.expansion import panels

with warnings.catch_warnings():
    # It would rather read version 2 of the schema, which Grafana does not take from files.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.models.dashboard import Dashboard, FieldConfig

Json = Mapping[str, Any]

register_default_plugins()


def unknown(document: Json) -> list[str]:
    """Return the place of everything in a dashboard that Grafana's schema does not have."""
    written = _plain(Dashboard.from_json(dict(document)))
    return [*differences(document, written), *_unknown_properties(document)]


def _plain(model: object) -> Any:
    return json.loads(JSONEncoder().encode(model))


def differences(given: Any, written: Any, place: str = "") -> Iterator[str]:
    """Yield the places of what is given and not written back as it was; more may be written."""
    match given, written:
        case dict(), dict():
            yield from (f"{place}.{key}" for key in given.keys() - written.keys())
            for key in given.keys() & written.keys():
                yield from differences(given[key], written[key], f"{place}.{key}")
        case list(), list() if len(given) == len(written):
            for index, (one, other) in enumerate(zip(given, written, strict=True)):
                yield from differences(one, other, f"{place}[{index}]")
        case _ if given != written:
            yield place


def _unknown_properties(document: Json) -> Iterator[str]:
    """Yield what no field of that type of panel has; Grafana would ignore it."""
    for panel in panels(document):
        for name, value in _properties(panel["fieldConfig"]):
            if not _is_known(panel["type"], name, value):
                yield f"{panel['title']}: {panel['type']} has no {name}"


def _properties(fields: Json) -> Iterator[tuple[str, Any]]:
    for name, value in fields["defaults"].get("custom", {}).items():
        yield f"custom.{name}", value
    for override in fields["overrides"]:
        yield from ((each["id"], each["value"]) for each in override["properties"])


def _is_known(panel_type: str, name: str, value: Any) -> bool:
    read: Any = FieldConfig.from_json
    if name.startswith("custom."):
        panel = runtime.panelcfg_config(panel_type)
        read = panel and panel.field_config_from_json_hook
    given = {name.removeprefix("custom."): value}
    return bool(read) and not [*differences(given, _plain(read(given)))]


def has_model(panel_type: str) -> bool:
    """Return whether options of a type of panel are looked at."""
    return runtime.panelcfg_config(panel_type) is not None
