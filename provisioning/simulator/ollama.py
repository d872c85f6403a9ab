"""The pages and endpoints of stock Ollama, as real servers of three releases were measured.

In:   a Request and the InstanceState that was called.
Out:  a Page for the GETs that Ollama has, an Endpoint for what its models are asked for, a whole
      Response for everything else.
Stock Ollama has neither /health nor /metrics nor /api/metrics: those are 404 like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from provisioning.simulator.access import Access
from provisioning.simulator.asking import Deed
from provisioning.simulator.fleet import InstanceState
from provisioning.simulator.generate import OLLAMA
from provisioning.simulator.golang import encode_json, timestamp
from provisioning.simulator.models import Loaded
from provisioning.simulator.openai import OPENAI
from provisioning.simulator.pages import Answer, Endpoint, Page, not_allowed, not_found
from provisioning.simulator.spec import Hardware, Model
from provisioning.simulator.store import details, tags_entry, v1_entry
from provisioning.simulator.wire import JSON, JSON_UTF8, TEXT_UTF8, Request, Response

PS_PATH = "/api/ps"
STATUS_PATH = "/api/status"
V1_MODEL = "/v1/models/"
CONTEXT_LENGTH = 4096
RUNTIME_BYTES = 1_900_000_000
"""What a loaded model needs beyond its weights."""


class OllamaSite:
    """Ollama mode."""

    metrics_path = PS_PATH

    def __init__(self) -> None:
        self._ps_while_loading = Page(JSON_UTF8, _nothing_loaded)
        self._access = Access()
        self._page_by_path: Mapping[str, Page] = {
            "/": Page(TEXT_UTF8, _root),
            "/api/version": Page(JSON_UTF8, _version),
            PS_PATH: Page(JSON_UTF8, _ps),
            "/api/tags": Page(JSON_UTF8, _tags),
            STATUS_PATH: Page(JSON_UTF8, _status),
            "/v1/models": Page(JSON, _v1_models),
        }

    def admit(self, request: Request, state: InstanceState) -> Request | Response:
        """Let a request of a local page to a local host pass, or refuse it."""
        return self._access.admit(request, state.instance.release)

    def find(self, request: Request, state: InstanceState) -> Answer:
        """Return what a request that was admitted is answered by."""
        release, path = state.instance.release, request.path
        methods = _methods(path)
        if not methods or (path == STATUS_PATH and not release.has_status):
            return not_found()
        if request.method not in methods:
            return not_allowed(", ".join(methods)) if release.refuses_methods else not_found()
        if path.startswith(V1_MODEL):
            return SHOW_V1
        return self._page_by_path.get(path) or ENDPOINTS[path]

    def loading(self, request: Request, state: InstanceState) -> Answer:
        """As `find`; a model that is still loading is not listed by /api/ps."""
        found = self.find(request, state)
        return self._ps_while_loading if found is self._page_by_path[PS_PATH] else found


ENDPOINTS: Mapping[str, Endpoint] = MappingProxyType(
    {
        "/api/generate": Endpoint(Deed.GENERATE, OLLAMA),
        "/api/chat": Endpoint(Deed.CHAT, OLLAMA),
        "/api/embed": Endpoint(Deed.EMBED, OLLAMA),
        "/api/embeddings": Endpoint(Deed.EMBEDDINGS, OLLAMA),
        "/api/show": Endpoint(Deed.SHOW, OLLAMA),
        "/api/pull": Endpoint(Deed.PULL, OLLAMA),
        "/api/copy": Endpoint(Deed.COPY, OLLAMA),
        "/api/delete": Endpoint(Deed.DELETE, OLLAMA),
        "/v1/chat/completions": Endpoint(Deed.CHAT, OPENAI),
        "/v1/completions": Endpoint(Deed.GENERATE, OPENAI),
        "/v1/embeddings": Endpoint(Deed.EMBED, OPENAI),
    }
)
SHOW_V1 = Endpoint(Deed.SHOW, OPENAI)
METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict.fromkeys(ENDPOINTS, ("POST",))
    | dict.fromkeys(("/", "/api/version", "/api/tags"), ("HEAD", "GET"))
    | dict.fromkeys((PS_PATH, STATUS_PATH, "/v1/models"), ("GET",))
    | {"/api/delete": ("DELETE",)}
)
"""By path, in the order in which Ollama lists them."""


def _methods(path: str) -> tuple[str, ...]:
    """Return the methods of a path, none for an unknown one."""
    name = path.removeprefix(V1_MODEL)
    return ("GET",) if name and name != path and "/" not in name else METHODS.get(path, ())


def _root(state: InstanceState, now_s: float) -> bytes:
    return b"Ollama is running"


def _version(state: InstanceState, now_s: float) -> bytes:
    return encode_json({"version": state.instance.release.version})


def _status(state: InstanceState, now_s: float) -> bytes:
    return encode_json({"cloud": {"disabled": True, "source": "env"}})


def _nothing_loaded(state: InstanceState, now_s: float) -> bytes:
    return encode_json({"models": []})


def _ps(state: InstanceState, now_s: float) -> bytes:
    own = Loaded(state.instance.model)
    loaded = [own] if state.models is None else state.models.loaded(now_s)
    return encode_json({"models": [_ps_entry(one, state, now_s) for one in loaded]})


def _ps_entry(loaded: Loaded, state: InstanceState, now_s: float) -> dict[str, object]:
    model = loaded.model
    size = model.size_bytes + RUNTIME_BYTES
    vram_ratio = 1.0 - state.cpu_ratio if state.instance.hardware is Hardware.GPU else 0.0
    entry = {
        "name": model.name,
        "model": model.name,
        "size": size,
        "digest": model.digest,
        "details": details(model),
        "expires_at": timestamp(loaded.expires_s(now_s)),
        "size_vram": int(size * vram_ratio),
    }
    if state.instance.release.ps_has_context_length:
        entry["context_length"] = CONTEXT_LENGTH
    return entry


def _tags(state: InstanceState, now_s: float) -> bytes:
    return encode_json({"models": [tags_entry(model, state) for model in _installed(state)]})


def _v1_models(state: InstanceState, now_s: float) -> bytes:
    entries = [v1_entry(model, state) for model in _installed(state)]
    return encode_json({"object": "list", "data": entries or None}) + b"\n"


def _installed(state: InstanceState) -> tuple[Model, ...]:
    return state.instance.installed if state.models is None else state.models.installed
