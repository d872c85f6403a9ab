"""The pages of stock Ollama, as real servers of three releases were measured to answer.

In:   a Request and the InstanceState that was called.
Out:  a Page for the GETs that Ollama has, a whole Response for everything else.
Stock Ollama has neither /health nor /metrics nor /api/metrics: those are 404 like any other.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus

from provisioning.sim.fleet import InstanceState
from provisioning.sim.generate import CHAT_PATH, GENERATE_PATH
from provisioning.sim.pages import Page, not_allowed, not_found
from provisioning.sim.spec import Hardware, Model
from provisioning.sim.wire import JSON_UTF8, TEXT_UTF8, Request, Response

PS_PATH = "/api/ps"
STATUS_PATH = "/api/status"
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
CONTEXT_LENGTH = 4096
KEEP_ALIVE_S = 300
RUNTIME_BYTES = 1_900_000_000
"""What a loaded model needs beyond its weights."""


class OllamaSite:
    """Ollama mode."""

    metrics_path = PS_PATH

    def __init__(self) -> None:
        self._ps_while_loading = Page(JSON_UTF8, _nothing_loaded)
        self._hostname = socket.gethostname().lower()
        self._page_by_path: Mapping[str, Page] = {
            "/": Page(TEXT_UTF8, _root),
            "/api/version": Page(JSON_UTF8, _version),
            PS_PATH: Page(JSON_UTF8, _ps),
            "/api/tags": Page(JSON_UTF8, _tags),
            STATUS_PATH: Page(JSON_UTF8, _status),
            "/v1/models": Page("application/json", _v1_models),
        }

    def find(self, request: Request, state: InstanceState) -> Page | Response:
        """Return the page for a GET or HEAD that is allowed, else what Ollama refuses with."""
        if request.host is None and request.version == "1.1":
            text = b"400 Bad Request: missing required Host header"
            return Response(HTTPStatus.BAD_REQUEST, TEXT_UTF8, text)
        if not self._is_local(request.host or ""):
            return Response(HTTPStatus.FORBIDDEN, None, b"")
        return self._find(request, state)

    def loading(self, request: Request, state: InstanceState) -> Page | Response:
        """As `find`; a model that is still loading is not listed by /api/ps."""
        found = self.find(request, state)
        return self._ps_while_loading if found is self._page_by_path[PS_PATH] else found

    def _find(self, request: Request, state: InstanceState) -> Page | Response:
        release = state.instance.release
        methods = _methods(request.path)
        page = self._page_by_path.get(request.path)
        if not methods or (request.path == STATUS_PATH and not release.has_status):
            return not_found()
        if page is not None and request.method in methods:
            return page
        return not_allowed(", ".join(methods)) if release.refuses_methods else not_found()

    def _is_local(self, host: str) -> bool:
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        else:
            name = name.rpartition(":")[0] if name.count(":") == 1 else name
        is_named = name in {"", "localhost", self._hostname} or name.endswith(LOCAL_SUFFIXES)
        return is_named or _is_address(name)


def _methods(path: str) -> tuple[str, ...]:
    """Return the methods of a path in the order in which Ollama lists them, none for unknown."""
    if path in {GENERATE_PATH, CHAT_PATH}:
        return ("POST",)
    if path in {PS_PATH, STATUS_PATH, "/v1/models"}:
        return ("GET",)
    return ("HEAD", "GET") if path in {"/", "/api/version", "/api/tags"} else ()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _root(state: InstanceState, now_s: float) -> bytes:
    return b"Ollama is running"


def _version(state: InstanceState, now_s: float) -> bytes:
    return _json({"version": state.instance.release.version})


def _status(state: InstanceState, now_s: float) -> bytes:
    return _json({"cloud": {"disabled": True, "source": "env"}})


def _nothing_loaded(state: InstanceState, now_s: float) -> bytes:
    return _json({"models": []})


def _ps(state: InstanceState, now_s: float) -> bytes:
    model = state.instance.model
    size = model.size_bytes + RUNTIME_BYTES
    entry = {
        "name": model.name,
        "model": model.name,
        "size": size,
        "digest": model.digest,
        "details": _details(model),
        "expires_at": _time(now_s + KEEP_ALIVE_S),
        "size_vram": size if state.instance.hardware is Hardware.GPU else 0,
    }
    if state.instance.release.ps_has_context_length:
        entry["context_length"] = CONTEXT_LENGTH
    return _json({"models": [entry]})


def _tags(state: InstanceState, now_s: float) -> bytes:
    model = state.instance.model
    details = _details(model)
    entry: dict[str, object] = {
        "name": model.name,
        "model": model.name,
        "modified_at": _time(state.life.start_s),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": details,
    }
    if state.instance.release.tags_have_capabilities:
        details |= {"context_length": 131_072, "embedding_length": 4096}
        entry["capabilities"] = ["completion"]
    return _json({"models": [entry]})


def _v1_models(state: InstanceState, now_s: float) -> bytes:
    entry = {
        "id": state.instance.model.name,
        "object": "model",
        "created": int(state.life.start_s),
        "owned_by": "library",
    }
    return _json({"object": "list", "data": [entry]}) + b"\n"


def _details(model: Model) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": "Q4_0",
    }


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
