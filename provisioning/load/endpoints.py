"""What users send: requests for text as Ollama and OpenAI take them, and health checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provisioning.load.settings import Api

HEALTH = "health"
"""The name under which health checks are counted, whatever their path is."""
MODELS_PATH = "/v1/models"
"""What a gateway and every engine but `fleet` has."""
HEALTH_PATHS = {
    "fleet": "/health",
    "llamacpp": "/health",
    "ollama": "/api/version",
    "tgi": "/health",
    "vllm": "/health",
}
"""By engine. SGLang is not among them: its health check generates text."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request for text."""

    api: Api
    is_chat: bool
    model: str
    prompt: str
    n_tokens: int
    is_stream: bool

    @property
    def path(self) -> str:
        """Return the endpoint."""
        if self.api is Api.OLLAMA:
            return "/api/chat" if self.is_chat else "/api/generate"
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    @property
    def body(self) -> dict[str, Any]:
        """Return what is sent."""
        words: dict[str, Any] = {"prompt": self.prompt}
        if self.is_chat:
            words = {"messages": [{"role": "user", "content": self.prompt}]}
        return {"model": self.model, "stream": self.is_stream, **words, **self._limits}

    @property
    def _limits(self) -> dict[str, Any]:
        if self.api is Api.OLLAMA:
            return {"options": {"num_predict": self.n_tokens}}
        usage = {"stream_options": {"include_usage": True}} if self.is_stream else {}
        return {"max_tokens": self.n_tokens, **usage}


def health_path(engine: str) -> str:
    """Return the page that says whether a server of an engine lives."""
    return HEALTH_PATHS.get(engine, MODELS_PATH)
