"""The units that Grafana knows, by their ids; any other is shown as the text that it is."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

UNITS = frozenset(
    value
    for name, value in vars(units).items()
    if isinstance(value, str) and not name.startswith("_")
)
