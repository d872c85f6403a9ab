"""Make of what grafanalib 0.7.1 writes what Grafana 10.4 to 13 accept.

grafanalib is of January 2024 and knows Grafana 8 and older best. Each step below is for something
that it really writes; tests/dashboards/test_finalise.py shows what, defect by defect.
"""

from __future__ import annotations

import zlib
from typing import Any

from dashboards.kit.fields import Json

SCHEMA_VERSION = 39
"""Of Grafana 10.4. Later ones take it from there, and have little to do; 12, which grafanalib
writes, is older than some of them still read."""

LEGACY_ROOT = (
    "__inputs", "gnetId", "hideControls", "id", "rows", "sharedCrosshair", "style",
)  # fmt: skip
LEGACY_TIME_PICKER = ("nowDelay", "time_options")
LEGACY_PANEL = (
    "cacheTimeout", "cards", "color", "columns", "dataFormat", "editable", "error", "fontSize",
    "heatmap", "height", "hideTimeOverride", "hideZeroBuckets", "highlightCards", "legend",
    "mappings", "minSpan", "reverseYBuckets", "span", "tooltip", "xAxis", "xBucketNumber",
    "xBucketSize", "yAxis", "yBucketBound", "yBucketNumber", "yBucketSize",
)  # fmt: skip
LEGACY_TARGET = ("intervalFactor", "metric", "query", "step", "target")
LEGACY_VARIABLE = ("auto", "auto_count", "auto_min", "tagValuesQuery", "tagsQuery", "useTags")
THRESHOLD = ("color", "value")
HEADING = ("collapsed", "gridPos", "id", "panels", "title", "type")
MAX_ID = 2**31 - 1


def panel_id(title: str) -> int:
    """Return the id of a panel, which stays the same when others are added: links name it."""
    return zlib.crc32(title.encode()) % MAX_ID + 1


def finalise(document: Json) -> Json:
    """Return the dashboard as Grafana wants it."""
    whole: Json = _pruned(document)
    _drop(whole, LEGACY_ROOT)
    _drop(whole["timepicker"], LEGACY_TIME_PICKER)
    whole["schemaVersion"] = SCHEMA_VERSION
    whole["editable"] = False
    whole["templating"]["list"] = [_variable(one) for one in whole["templating"]["list"]]
    whole["panels"] = [_panel(panel) for panel in whole["panels"]]
    return whole


def _pruned(value: Any) -> Any:
    """Return the value without nulls, but for the base of thresholds, which is written so."""
    if isinstance(value, dict):
        if value.get("id") == "thresholds":
            # A property of an override.
            return {**value, "value": _thresholds(value["value"])}
        return {
            key: _thresholds(item) if key == "thresholds" else _pruned(item)
            for key, item in value.items()
            if item is not None
        }
    return [_pruned(item) for item in value] if isinstance(value, list) else value


def _thresholds(value: Any) -> Any:
    """Return thresholds whose steps are a list, the lowest with null for a value."""
    if not isinstance(value, dict):
        return value
    steps = value.get("steps") or []
    fixed = [{key: step.get(key) for key in THRESHOLD} for step in steps]
    for step in fixed:
        step["value"] = None if step["value"] == "null" else step["value"]
    return {**value, "steps": fixed}


def _variable(variable: Json) -> Json:
    _drop(variable, LEGACY_VARIABLE)
    if "value" not in variable.get("current", {}):
        variable.pop("current", None)
    return variable


def _panel(panel: Json) -> Json:
    panel["id"] = panel_id(panel["title"])
    if panel["type"] == "row":
        return _heading(panel)
    _move_table_fields(panel)
    _drop(panel, LEGACY_PANEL)
    _unless_repeated(panel)
    _fields(panel)
    panel["options"] = panel.get("options") or {}
    panel["targets"] = [_target(target) for target in panel["targets"]]
    return panel


def _heading(panel: Json) -> Json:
    kept = {key: panel[key] for key in HEADING}
    # A heading has the text of a panel sometimes: its id is made of something else.
    kept["id"] = panel_id(f"heading {panel['title']}")
    kept["panels"] = [_panel(one) for one in panel["panels"]]
    return kept


def _move_table_fields(panel: Json) -> None:
    """Bring a table's fields to where Grafana looks for them since version 8."""
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    if "displayMode" in custom:
        custom["cellOptions"] = {"type": custom.pop("displayMode")}
    if panel["type"] == "table":
        defaults.setdefault("color", panel.get("color"))
        defaults.setdefault("mappings", panel.get("mappings"))


def _unless_repeated(panel: Json) -> None:
    if not panel.get("repeat"):
        _drop(panel, ("repeat", "repeatDirection", "maxPerRow"))


def _fields(panel: Json) -> None:
    panel["fieldConfig"].setdefault("overrides", [])
    defaults = panel["fieldConfig"]["defaults"]
    if not defaults.get("thresholds", {}).get("steps"):
        defaults.pop("thresholds", None)
    for key in [key for key, value in defaults.items() if value in ("", {})]:
        del defaults[key]


def _target(target: Json) -> Json:
    _drop(target, LEGACY_TARGET)
    if not target.get("interval"):
        target.pop("interval", None)
    return {**target, "range": not target["instant"], "editorMode": "code"}


def _drop(value: Json, keys: tuple[str, ...]) -> None:
    for key in keys:
        value.pop(key, None)
