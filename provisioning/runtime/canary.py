"""Choose what a canary sends to an instance, so that no model is loaded or unloaded; pure."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import msgspec

from provisioning.spec.defaults import COMPLETIONS

PROMPT = "Hi"
N_TOKENS = 4
LOADED_PATH = "/api/ps"
"""Of Ollama: the models that are loaded."""
BODY_BY_PATH = {
    "/completion": json.dumps({"prompt": PROMPT, "n_predict": N_TOKENS}),
    COMPLETIONS: json.dumps({"prompt": PROMPT, "max_tokens": N_TOKENS}),
}
"""Bodies for servers with one model."""
NEVER_S = 4_102_444_800.0
"""2100. Ollama writes that a model never expires as a time centuries ahead."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for a body that is not the expected JSON, or is nested without end."""


class LoadedModel(msgspec.Struct, frozen=True):
    """A model that Ollama lists as loaded."""

    name: Annotated[str, msgspec.Meta(max_length=256)]
    expires_at: str
    digest: Annotated[str, msgspec.Meta(max_length=256)] = ""
    context_length: int = 0
    """0: not said, as before Ollama 0.6."""

    @property
    def expires_at_s(self) -> float | None:
        """Return when it is unloaded, in seconds since 1970 UTC; None: never, or unknown."""
        return None if self.is_pinned else self._time_s

    @property
    def is_pinned(self) -> bool:
        """Return whether it is never unloaded."""
        return self._time_s is not None and self._time_s >= NEVER_S

    @property
    def _time_s(self) -> float | None:
        try:
            return datetime.fromisoformat(self.expires_at).timestamp()
        except (ValueError, OverflowError):
            return None


class _Loaded(msgspec.Struct):
    models: tuple[LoadedModel, ...]


class _Shown(msgspec.Struct):
    model_info: dict[str, Any] = {}


def loaded_model(body: bytes, model: str) -> LoadedModel | None:
    """Return a model from the list of loaded ones; None: it is not loaded."""
    try:
        models = msgspec.json.decode(body, type=_Loaded).models
    except UNREADABLE:
        return None
    return next((one for one in models if whole_name(one.name) == whole_name(model)), None)


def trained_context(body: bytes) -> int | None:
    """Return the context that a model was trained with, by what `/api/show` answers.

    0: the model has none. None: the answer does not say.
    """
    try:
        shown = msgspec.json.decode(body, type=_Shown).model_info
    except UNREADABLE:
        return None
    lengths = (length for key, length in shown.items() if key.endswith(".context_length"))
    return next((length for length in lengths if isinstance(length, int)), 0)


def ollama_body(loaded: LoadedModel, keep_alive: str | int, *, n_trained: int) -> str:
    """Return the body of the canary."""
    options = {"num_predict": N_TOKENS}
    if loaded.context_length and not 0 < n_trained <= loaded.context_length:
        # Ollama reloads a model for another `num_ctx` than the one that it was loaded for. A model
        # with its full trained context was mostly loaded for a longer default: then send none.
        options["num_ctx"] = loaded.context_length
    request = {"model": loaded.name, "prompt": PROMPT, "raw": True, "stream": False}
    return json.dumps({**request, "keep_alive": keep_alive, "options": options})


def whole_name(model: str) -> str:
    """Return a model's name with its tag: `tiny` is `tiny:latest`."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"
