"""Name, type, labels and help of every series that ollama-fleet publishes or records."""

from __future__ import annotations

from types import ModuleType

from exporter.catalogue import fleet, gateway, instance, own, rules
from exporter.catalogue.fleet import *  # noqa: F403
from exporter.catalogue.gateway import *  # noqa: F403
from exporter.catalogue.instance import *  # noqa: F403
from exporter.catalogue.own import *  # noqa: F403
from exporter.catalogue.rules import *  # noqa: F403
from exporter.catalogue.series import *  # noqa: F403
from exporter.catalogue.series import Series


def _series_of(module: ModuleType) -> tuple[Series, ...]:
    """Return the series that a module defines, in its order."""
    return tuple([value for value in vars(module).values() if isinstance(value, Series)])


FLEET_SERIES = _series_of(fleet)
INSTANCE_SERIES = _series_of(instance)
EXPORTER_SERIES = _series_of(own)
GATEWAY_SERIES = _series_of(gateway)
RULE_SERIES = _series_of(rules)
ALL_SERIES = FLEET_SERIES + INSTANCE_SERIES + EXPORTER_SERIES + GATEWAY_SERIES + RULE_SERIES
