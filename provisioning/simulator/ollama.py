"""The endpoints of stock Ollama, as real servers of three releases were measured."""

from __future__ import annotations

import html
import posixpath
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from types import MappingProxyType

from ollama_fleet.urls import is_address
from provisioning.simulator.completion import OLLAMA, OPENAI, AnswerWriter
from provisioning.simulator.endpoints import (
    UNKNOWN,
    ErrorWriter,
    ModelJob,
    Operation,
    RequestError,
    encode_json,
    timestamp,
)
from provisioning.simulator.fleet import InstanceState
from provisioning.simulator.fleet_api import Answer, Endpoint, Page, not_allowed, not_found
from provisioning.simulator.instance import Loaded, ModelStore, canonical
from provisioning.simulator.spec import MODELS, Hardware, Model, Release
from provisioning.simulator.wire import HTML_UTF8, JSON, JSON_UTF8, TEXT_UTF8, Request, Response

LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:.*)?|(app|file|tauri|vscode-webview)://.*"
)
FORBIDDEN = Response(HTTPStatus.FORBIDDEN, None, b"")
NO_HOST = Response(
    HTTPStatus.BAD_REQUEST, TEXT_UTF8, b"400 Bad Request: missing required Host header"
)
ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


class Access:
    """The checks, for the machine that this is."""

    def __init__(self) -> None:
        self._hostname = socket.gethostname()

    def admit(self, request: Request, release: Release) -> Request | Response:
        """Let a request pass, or return what it is refused with."""
        if request.host is None and request.version == "1.1":
            return NO_HOST
        if (path := _clean(request.path)) != request.path:
            return _moved(request, path)
        if (origin := _foreign_origin(request)) is not None:
            return self._admit_page(request, release, origin)
        return self._admit_host(request, release)

    def _admit_page(self, request: Request, release: Release, origin: str) -> Request | Response:
        """ModelJob for the origin of a script's page first, then for the host that it called."""
        if not LOCAL_ORIGIN.fullmatch(origin):
            return FORBIDDEN
        allowed = ("Access-Control-Allow-Origin", origin)
        if request.method == "OPTIONS":
            return Response(HTTPStatus.NO_CONTENT, None, b"", (*PREFLIGHT, allowed))
        return self._admit_host(replace(request, echoes=(("Vary", "Origin"), allowed)), release)

    def _admit_host(self, request: Request, release: Release) -> Request | Response:
        name = _name_of(request.host or "")
        if is_address(name):
            return request
        if not self._is_local(name, release):
            return FORBIDDEN
        is_asked_for_methods = request.method == "OPTIONS"
        return Response(HTTPStatus.NO_CONTENT, None, b"") if is_asked_for_methods else request

    def _is_local(self, name: str, release: Release) -> bool:
        hostname = self._hostname
        if release.ignores_case_of_host:
            name, hostname = name.lower(), hostname.lower()
        return name in {"", "localhost", hostname} or name.endswith(LOCAL_SUFFIXES)


def _foreign_origin(request: Request) -> str | None:
    """Return the origin that is asked from, unless it is the server's own."""
    own = {f"http://{request.host}", f"https://{request.host}", ""}
    return None if request.origin in own else request.origin


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _clean(path: str) -> str:
    """Return a path without empty and dotted steps; a slash at its end stays."""
    if "//" not in path and "/." not in path:
        return path
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return f"{cleaned}/" if path.endswith("/") and cleaned != "/" else cleaned


def _moved(request: Request, path: str) -> Response:
    link = f'<a href="{html.escape(path)}">Moved Permanently</a>.\n\n'
    has_body = request.method in {"GET", "HEAD"}
    return Response(
        HTTPStatus.MOVED_PERMANENTLY,
        HTML_UTF8 if has_body else None,
        link.encode("latin-1") if has_body else b"",
        (("Location", path),),
    )


SHOWN_CONTEXT_LENGTH = 131_072
EMBEDDING_LENGTH = 4096
"""As the models' files say; made-up vectors are shorter."""
REGISTRY: Mapping[str, Model] = MappingProxyType({canonical(model.name): model for model in MODELS})
MAX_INSTALLED = 100
"""In one instance's store: copies are what a client can make without end."""
NAME = re.compile(r"([\w.:-]{1,350}/)?([\w-]{1,80}/)?\w[\w.-]{0,79}(:\w[\w.-]{0,79})?", re.ASCII)
"""Of a model, as Ollama's types/model/name.go allows: host, namespace, model, tag."""
NO_SUCH_MODEL = "pull model manifest: file does not exist"
DONE = Response(HTTPStatus.OK, None, b"")


def find_model(models: ModelStore, job: ModelJob, refusals: ErrorWriter) -> Model:
    """Return the installed model that is meant, or raise RequestError."""
    model = models.find(job.name)
    if model is None:
        message = UNKNOWN[job.deed].format(job.name)
        raise RequestError(refusals.failure(HTTPStatus.NOT_FOUND, message))
    return model


def respond(
    job: ModelJob, model: Model, models: ModelStore, state: InstanceState, answers: AnswerWriter
) -> Response:
    """Do what is asked to an installed model."""
    match job.deed:
        case Operation.COPY:
            return copy(job, model, models, answers)
        case Operation.DELETE:
            models.delete(model)
            return DONE
        case _:
            return show(job, model, state, is_openai=answers.is_openai)


def show(job: ModelJob, model: Model, state: InstanceState, *, is_openai: bool) -> Response:
    """Describe a model."""
    if is_openai:
        entry = v1_entry(model, state) | {"id": job.name}
        return Response(HTTPStatus.OK, JSON, encode_json(entry) + b"\n")
    body: dict[str, object] = {
        "modelfile": f'# Modelfile generated by "ollama show"\n\nFROM {model.name}\n',
        "template": "{{ .Prompt }}",
        "details": details(model),
        "model_info": {
            "general.architecture": model.family,
            f"{model.family}.context_length": SHOWN_CONTEXT_LENGTH,
            f"{model.family}.embedding_length": EMBEDDING_LENGTH,
        },
    }
    if state.instance.release.show_has_capabilities:
        body["capabilities"] = ["completion"]
    body["modified_at"] = timestamp(state.life.start_s)
    return Response(HTTPStatus.OK, JSON_UTF8, encode_json(body))


def copy(job: ModelJob, model: Model, models: ModelStore, refusals: ErrorWriter) -> Response:
    """Give a model one more name."""
    if not NAME.fullmatch(job.destination):
        message = f'destination "{job.destination}" is invalid'
        raise RequestError(refusals.failure(HTTPStatus.BAD_REQUEST, message))
    if len(models.installed) >= MAX_INSTALLED:
        message = f"the simulation keeps at most {MAX_INSTALLED} models in a store: delete one"
        raise RequestError(refusals.failure(HTTPStatus.INTERNAL_SERVER_ERROR, message))
    models.copy(model, job.destination)
    return DONE


def pull(job: ModelJob, models: ModelStore) -> list[dict[str, object]]:
    """Install a model; return the progress, with an error at its end where it fails."""
    progress: list[dict[str, object]] = [{"status": "pulling manifest"}]
    model = REGISTRY.get(canonical(job.name))
    if model is None:
        return [*progress, {"error": NO_SUCH_MODEL}]
    models.install(model)
    size, digest = model.size_bytes, f"sha256:{model.digest}"
    layer = {"status": f"pulling {model.digest[:12]}", "digest": digest, "total": size}
    ends = ("verifying sha256 digest", "writing manifest", "success")
    progress += [layer, layer | {"completed": size}]
    progress += [{"status": status} for status in ends]
    return progress


def tags_entry(model: Model, state: InstanceState) -> dict[str, object]:
    """Return what `/api/tags` says about a model."""
    said = details(model)
    entry: dict[str, object] = {
        "name": model.name,
        "model": model.name,
        "modified_at": timestamp(state.life.start_s),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": said,
    }
    if state.instance.release.tags_have_capabilities:
        said |= {"context_length": SHOWN_CONTEXT_LENGTH, "embedding_length": EMBEDDING_LENGTH}
        entry["capabilities"] = ["completion"]
    return entry


def v1_entry(model: Model, state: InstanceState) -> dict[str, object]:
    """Return what `/v1/models` says about a model."""
    return {
        "id": model.name,
        "object": "model",
        "created": int(state.life.start_s),
        "owned_by": "library",
    }


def details(model: Model) -> dict[str, object]:
    """Return what every endpoint says about a model."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": "Q4_0",
    }


PS_PATH = "/api/ps"
STATUS_PATH = "/api/status"
V1_MODEL = "/v1/models/"
CONTEXT_LENGTH = 4096
RUNTIME_BYTES = 1_900_000_000
"""What a loaded model needs beyond its weights."""


class OllamaRouter:
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
        "/api/generate": Endpoint(Operation.GENERATE, OLLAMA),
        "/api/chat": Endpoint(Operation.CHAT, OLLAMA),
        "/api/embed": Endpoint(Operation.EMBED, OLLAMA),
        "/api/embeddings": Endpoint(Operation.EMBEDDINGS, OLLAMA),
        "/api/show": Endpoint(Operation.SHOW, OLLAMA),
        "/api/pull": Endpoint(Operation.PULL, OLLAMA),
        "/api/copy": Endpoint(Operation.COPY, OLLAMA),
        "/api/delete": Endpoint(Operation.DELETE, OLLAMA),
        "/v1/chat/completions": Endpoint(Operation.CHAT, OPENAI),
        "/v1/completions": Endpoint(Operation.GENERATE, OPENAI),
        "/v1/embeddings": Endpoint(Operation.EMBED, OPENAI),
    }
)
SHOW_V1 = Endpoint(Operation.SHOW, OPENAI)
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
    own = Loaded(state.instance.model, state.instance.keep_alive_s)
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
