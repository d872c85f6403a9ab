"""A server that plays the part of Grafana's HTTP API that a push uses, with state and moods.

It keeps what Grafana keeps: folders, dashboards with versions and messages, who saved them. What it
refuses and how follows Grafana's source, `pkg/services/dashboards/errors.go`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "glsa_test_1234567890"  # noqa: S105 - of no Grafana
BODIES: dict[str, Any] = {
    "html": "<html>Welcome</html>",
    "array": [],
    "object": {"dashboard": [], "meta": None, "uid": 7},
}
RAW = {
    "drop": b"",
    "garbage": b"\x00\xff\x17 what?\r\n\r\n",
    "half": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
}
Reply = tuple[int, Any]


@dataclass(kw_only=True)
class Stored:
    content: dict[str, Any]
    folder_uid: str
    version: int = 1
    messages: list[str] = field(default_factory=list)
    changed_by: str = "sa-ollama-fleet"
    is_provisioned: bool = False


@dataclass(kw_only=True)
class State:
    """What this Grafana holds, how it behaves, and what it was asked."""

    folders: dict[str, str] = field(default_factory=dict)
    dashboards: dict[str, Stored] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """`GET /api/health`, in the order of arrival."""
    moods: list[str] = field(default_factory=list)
    """For the next requests, one each: see `_Handler.misbehave`."""
    only: str = ""
    """Moods are for requests that begin with this."""
    migrates: bool = False
    """Whether documents are stored in another form than they were sent, as from version 12 on."""
    is_new: bool = True
    """Whether versions come with an object around them."""
    refusal: Reply | None = None
    """What every save is answered with, if anything."""
    hang: threading.Event = field(default_factory=threading.Event)
    """Hanging requests wait for this."""
    sockets: list[socket.socket] = field(default_factory=list)

    def save_as_person(self, uid: str, **changes: Any) -> None:
        stored = self.dashboards[uid]
        stored.content = {**stored.content, **changes}
        stored.version += 1
        stored.messages.append("")
        stored.changed_by = "alice"

    def writes(self) -> list[str]:
        return [request for request in self.requests if request.startswith("POST")]


@dataclass
class Running:
    url: str
    state: State


@contextmanager
def grafana(*, context: ssl.SSLContext | None = None) -> Iterator[Running]:
    state = State()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False
    scheme = "http"
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # handshakes may fail
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Running(f"{scheme}://127.0.0.1:{server.server_port}", state)
    finally:
        state.hang.set()
        server.shutdown()
        for one in state.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"
    timeout = 100
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.state.sockets.append(self.connection)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.respond("GET", None)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.respond("POST", json.loads(self.rfile.read(length)))

    def respond(self, method: str, body: Any) -> None:
        request = f"{method} {self.path}"
        self.state.requests.append(request)
        if self.state.moods and request.startswith(self.state.only):
            self.misbehave(self.state.moods.pop(0), method, body)
        else:
            self.reply(*self.answer(method, body))

    def misbehave(self, mood: str, method: str, body: Any) -> None:
        """Do as a mood says; the words are those of the tests."""
        match mood.split():
            case ["well"]:
                self.reply(*self.answer(method, body))
            case ["meanwhile"]:
                self.state.save_as_person(body["dashboard"]["uid"], title="mine")
                self.reply(*self.answer(method, body))
            case ["save", "and", "drop"]:
                self.answer(method, body)
                self.close_connection = True
            case ["status", code]:
                echo = f"busy with {self.headers['Authorization']}"
                self.reply(int(code), {"message": echo}, {"Retry-After": "0"})
            case ["login"]:
                self.reply(302, "", {"Location": "https://sso.example.org/login?secret=1"})
            case [word] if word in BODIES:
                self.reply(200, BODIES[word])
            case [word]:
                self.break_off(word)

    def break_off(self, mood: str) -> None:
        """Answer in a way that ends the connection."""
        self.close_connection = True
        if mood == "hang":
            self.state.hang.wait(30)
        else:
            self.wfile.write(RAW[mood])

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        data = text.encode()
        self.send_response(status)
        kind = "text/html" if isinstance(body, str) else "application/json"
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, method: str, body: Any) -> Reply:
        path = self.path.partition("?")[0]
        if path == "/api/health":
            return 200, {"database": "ok", "version": "13.2.0"}
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        match method, path.split("/")[2:]:
            case "GET", ["folders", uid]:
                return self.folder(uid)
            case "POST", ["folders"]:
                return self.create_folder(body)
            case "GET", ["dashboards", "uid", uid]:
                return self.dashboard(uid)
            case "GET", ["dashboards", "uid", uid, "versions"]:
                return self.versions(uid)
            case "POST", ["dashboards", "db"]:
                return self.save(body)
            case _:
                return 404, {"message": "Not found"}

    def folder(self, uid: str) -> Reply:
        if uid not in self.state.folders:
            return 404, {"message": "folder not found", "status": "not-found"}
        return 200, {"uid": uid, "title": self.state.folders[uid]}

    def create_folder(self, body: dict[str, str]) -> Reply:
        if body["uid"] in self.state.folders:
            return 409, {"message": "a folder with the same UID already exists"}
        self.state.folders[body["uid"]] = body["title"]
        return 200, body

    def dashboard(self, uid: str) -> Reply:
        if uid not in self.state.dashboards:
            return 404, {"message": "Dashboard not found"}
        stored = self.state.dashboards[uid]
        meta = {
            "version": stored.version,
            "updatedBy": stored.changed_by,
            "folderUid": stored.folder_uid,
            "provisioned": stored.is_provisioned,
        }
        content = {**stored.content, "id": 17, "version": stored.version}
        return 200, {"meta": meta, "dashboard": content}

    def versions(self, uid: str) -> Reply:
        messages = self.state.dashboards[uid].messages
        versions = [
            {"version": number, "message": message}
            for number, message in enumerate(messages, start=1)
        ]
        newest_first = versions[::-1]
        return 200, {"versions": newest_first} if self.state.is_new else newest_first

    def save(self, body: dict[str, Any]) -> Reply:
        if self.state.refusal:
            return self.state.refusal
        content = dict(body["dashboard"])
        content.pop("id")
        version, uid = content.pop("version"), content["uid"]
        if body["folderUid"] and body["folderUid"] not in self.state.folders:
            return 400, {"message": "folder not found"}
        stored = self.state.dashboards.get(uid)
        if stored is not None and stored.is_provisioned:
            return 400, {"message": "Cannot save provisioned dashboard"}
        if stored is not None and stored.version != version and not body["overwrite"]:
            message = "The dashboard has been changed by someone else"
            return 412, {"status": "version-mismatch", "message": message}
        if self.state.migrates:
            content["schemaVersion"] = 42
        new = Stored(
            content=content,
            folder_uid=body["folderUid"],
            version=stored.version + 1 if stored else 1,
            messages=[*(stored.messages if stored else []), body["message"]],
        )
        self.state.dashboards[uid] = new
        return 200, {"uid": uid, "version": new.version, "status": "success"}
