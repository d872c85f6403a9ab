"""One file and one line of `ENGINES` per server kind: what to ask, and how to read the answers."""

from __future__ import annotations

from exporter.engines import fleet, llamacpp, ollama, sglang, tgi, vllm
from exporter.model import AUTO

ENGINES = (
    fleet.ENGINE,
    ollama.ENGINE,
    llamacpp.ENGINE,
    vllm.ENGINE,
    sglang.ENGINE,
    tgi.ENGINE,
)
"""In the order in which `auto` tries them."""

ENGINE_NAMES = (AUTO, *(engine.name for engine in ENGINES))
"""What an inventory may give as `engine`."""
