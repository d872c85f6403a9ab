"""List the engines that an instance can be polled with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.engines import fleet, llamacpp, ollama
from exporter.model import EngineName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.engines.base import Engine


def all_engines(*, latency_unit_s: float) -> Mapping[EngineName, Engine]:
    """Return every engine but `auto`, which is a way to choose among these."""
    return {
        EngineName.FLEET: fleet.engine(latency_unit_s=latency_unit_s),
        EngineName.OLLAMA: ollama.ENGINE,
        EngineName.LLAMACPP: llamacpp.ENGINE,
    }
