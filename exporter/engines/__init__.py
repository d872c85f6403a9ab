"""One file and one name in `MODULES` per server kind: what to ask, and how to read the answers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from exporter.model import AUTO

if TYPE_CHECKING:
    from exporter.engines.base import Engine

MODULES = (
    "fleet",
    "ollama",
    "llamacpp",
    "vllm",
    "sglang",
    "tgi",
)
"""In the order in which `auto` tries them."""

ENGINES: tuple[Engine, ...] = tuple(
    [import_module(f"exporter.engines.{name}").ENGINE for name in MODULES]
)
ENGINE_NAMES = (AUTO, *(engine.name for engine in ENGINES))
"""What an inventory may give as `engine`."""
