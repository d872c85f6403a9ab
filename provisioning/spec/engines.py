"""What each kind of LLM server needs unless the specification says otherwise.

In:   the engine's name.
Out:  how it is started, seen to be healthy, and warmed up.
Stock Ollama has no health page; its version page answers in a millisecond, also while it generates.
llama-server answers 503 on its health page until its model is loaded, so it needs no warm-up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from provisioning.model import RequestsPage, WarmUp


class Preset(StrEnum):
    """Warm-ups that go by a name."""

    PULL = "pull"
    """Fetch the model where it is missing, then load it."""
    LOAD = "load"
    """Load a model that is there already."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Engine:
    """The defaults of one server kind."""

    health_path: str = ""
    """Empty: the specification has to say it."""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    warm_up: Preset = Preset.NONE
    requests: RequestsPage | None = None
    """None: it does not say how many it has, as stock Ollama, so a drain lasts its whole time."""


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "auto": Engine(),
        "fleet": Engine(
            health_path="/health",
            requests=RequestsPage("/api/metrics", ("requests_running", "requests_queued")),
        ),
        "llamacpp": Engine(
            health_path="/health",
            # Only with its option --metrics; without, it answers 501, and its drain lasts its time.
            requests=RequestsPage(
                "/metrics", ("llamacpp:requests_processing", "llamacpp:requests_deferred")
            ),
        ),
        "ollama": Engine(
            health_path="/api/version",
            command=("ollama", "serve"),
            environment=MappingProxyType(
                {
                    "OLLAMA_HOST": "{address}",
                    "OLLAMA_NUM_PARALLEL": "1",
                    "OLLAMA_MAX_LOADED_MODELS": "1",
                }
            ),
            warm_up=Preset.PULL,
        ),
    }
)


def warm_up_of(engine: str, preset: Preset, model: str) -> tuple[WarmUp, ...]:
    """Return the requests of a preset.

    Raises:
        ValueError: The engine has no such preset.
    """
    if preset is Preset.NONE:
        return ()
    if engine != "ollama":
        raise ValueError(f"engine {engine} has no warm-up `{preset}`; list its requests, or `none`")
    # Not streamed: a stream answers 200 before it knows whether the pull succeeds.
    pull = WarmUp("/api/pull", json.dumps({"model": model, "stream": False}), timeout_s=0.0)
    load = WarmUp(
        "/api/generate",
        json.dumps({"model": model, "stream": False, "keep_alive": -1}),
        timeout_s=0.0,
    )
    return (pull, load) if preset is Preset.PULL else (load,)


def preset_of(engine: str, model: str, requests: tuple[WarmUp, ...]) -> Preset | None:
    """Return the preset that stands for these requests, if one does."""
    usable = Preset if engine == "ollama" else (Preset.NONE,)
    return next((one for one in usable if requests == warm_up_of(engine, one, model)), None)
