"""What Grafana calls field configuration: overrides, mappings, thresholds; plain JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.kit import colours

Json = dict[str, Any]
LABEL = re.compile(r"\{\{\w+\}\}")
"""As a legend names it."""


def override(name: str, properties: Mapping[str, Any]) -> Json:
    """Return how one series or column differs from the others of its panel.

    A name with labels, `{{label}}`, stands for all series of that legend.
    """
    return {
        "matcher": _matcher(name),
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _matcher(name: str) -> Json:
    if not LABEL.search(name):
        return {"id": "byName", "options": name}
    # A space needs no escape there.
    parts = (re.escape(part).replace("\\ ", " ") for part in LABEL.split(name))
    return {"id": "byRegexp", "options": f"/^{'.*'.join(parts)}$/"}


def fixed(colour: str) -> Json:
    """Return the colour of a series that always has the same."""
    return {"mode": "fixed", "fixedColor": colour}


def coloured(name: str, colour: str) -> Json:
    """Return an override that gives a series its colour."""
    return override(name, {"color": fixed(colour)})


def limit_line(name: str) -> Json:
    """Return how a threshold is drawn: dashed, red, on top of what is stacked."""
    return override(
        name,
        {
            "color": fixed(colours.LIMIT),
            "custom.lineStyle": {"fill": "dash", "dash": [10, 10]},
            "custom.lineWidth": 2,
            "custom.fillOpacity": 0,
            "custom.stacking": {"mode": "none", "group": "limit"},
        },
    )


def band(upper: str, lower: str, colour: str) -> Json:
    """Return how a series is filled down to another one."""
    return override(
        upper,
        {
            "color": fixed(colour),
            "custom.fillBelowTo": lower,
            "custom.fillOpacity": 20,
            "custom.lineWidth": 1,
        },
    )


def by_status() -> list[Json]:
    """Return the fixed colour of each status."""
    return [coloured(status, colour) for status, colour in colours.STATUSES.items()]


def by_outcome() -> list[Json]:
    """Return the fixed colour of each outcome of a canary."""
    return [coloured(outcome, colour) for outcome, colour in colours.CANARY_OUTCOMES.items()]


def steps(*above: tuple[float, str], base: str = colours.GOOD) -> list[Json]:
    """Return thresholds: the base colour, and from each value on another one."""
    return [
        {"color": base, "value": None},
        *({"color": colour, "value": value} for value, colour in above),
    ]


def turning(name: str, value: float, colour: str) -> Json:
    """Return an override that makes a figure green, and another colour from a value on."""
    return override(name, {"thresholds": {"mode": "absolute", "steps": steps((value, colour))}})


def mapping(texts: Mapping[str, tuple[str, str]]) -> list[Json]:
    """Return how values are written: (text, colour) by value."""
    options = {
        value: {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def coloured_cell(texts: Mapping[str, tuple[str, str]]) -> Json:
    """Return how a table's cell is written and coloured by its value."""
    return {"mappings": mapping(texts), "custom.cellOptions": {"type": "color-text"}}


def transformation(name: str, options: Mapping[str, Any]) -> Json:
    """Return one step of what Grafana does to results before it shows them."""
    return {"id": name, "options": dict(options)}


def joined_table(
    labels: Sequence[str], names: Mapping[str, str], hidden_labels: Sequence[str] = ()
) -> list[Json]:
    """Return how instant results become one table: a row per set of labels, a column per query.

    Args:
        labels: Columns that come first, in this order.
        names: The queries' column names by refId, the leading one first: where only it has
            results, Grafana calls its column `Value`.
        hidden_labels: Labels and values that are no columns.
    """
    leading = next(iter(names))
    renamed = {f"Value #{ref_id}": name for ref_id, name in names.items()}
    order = [*labels, *renamed, "Value"]
    return [
        transformation("merge", {}),
        transformation(
            "organize",
            {
                "excludeByName": dict.fromkeys(["Time", *hidden_labels], True),
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": {**renamed, "Value": names[leading]},
            },
        ),
    ]
