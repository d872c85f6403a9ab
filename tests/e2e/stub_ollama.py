"""Answer as Ollama 0.23.0 does, as far as the provisioner asks, and write down what is asked.

It runs as a program of its own, `ollama`; the file of each process beside it begins with Ollama's
settings, then has a line of JSON for each POST. All servers share the models of a folder in HOME;
a loaded one has a child process, `ollama runner`, and generates nothing while that is stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PINNED = {"size": 1, "size_vram": 0, "expires_at": "2318-04-25T06:42:32.329310091Z"}
loaded: list[str] = []
runners: list[subprocess.Popen[bytes]] = []


class Handler(BaseHTTPRequestHandler):
    """One request; models are pulled before they are loaded."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tell the version, or the loaded models."""
        answers = {
            "/api/version": {"version": "0.23.0"},
            "/api/ps": {"models": [{"name": name, "model": name, **PINNED} for name in loaded]},
        }
        if self.path == "/":
            self._answer(200, b"Ollama is running")
        elif self.path in answers:
            self._answer(200, answers[self.path])
        else:
            self._answer(404, {"error": "404 page not found"})

    def do_POST(self) -> None:
        """Show, pull, make or load a model."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        note({"path": self.path, "body": asked})
        model = asked["model"]
        if self.path in {"/api/pull", "/api/create"}:
            file_of(model).touch()
            self._answer(200, {"status": "success"})
        elif not file_of(model).exists():
            self._answer(404, {"error": f"model '{model}' not found"})
        elif self.path == "/api/show":
            self._answer(200, {"details": {"format": "gguf"}})
        else:
            load(model)
            while "prompt" in asked and is_stopped(runners[-1].pid):
                time.sleep(0.05)
            done = {"response": "", "done": True, "done_reason": "load"}
            self._answer(200, {"model": model, **done})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing; see the file."""

    def _answer(self, status: int, body: object) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def whole_name(model: str) -> str:
    """Return a model's name with its tag."""
    return model if ":" in model else f"{model}:latest"


def file_of(model: str) -> Path:
    """Return what is there once a model is."""
    folder = Path(os.environ["HOME"]) / ".ollama" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / whole_name(model)


def load(model: str) -> None:
    """Start a runner of the model, unless it has one."""
    if whole_name(model) not in loaded:
        loaded.append(whole_name(model))
        command = (sys.executable, "-IS", __file__, "runner", "--port", "0")
        runners.append(subprocess.Popen(command))


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped, as by SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def note(what: object) -> None:
    """Write a line down."""
    with (Path(__file__).parent / f"{os.getpid()}.asked").open("a") as file:
        file.write(json.dumps(what) + "\n")


def create(model: str) -> None:
    """Have a server make a model, as `ollama create` does."""
    url = f"{os.environ['OLLAMA_HOST']}/api/create"
    body = json.dumps({"model": model}).encode()
    urllib.request.urlopen(urllib.request.Request(url, body), timeout=30).close()


def main() -> None:
    """Serve where OLLAMA_HOST says, or be what a server or a user starts besides."""
    if sys.argv[1] == "runner":
        time.sleep(3600.0)
    elif sys.argv[1] == "create":
        create(sys.argv[2])
    else:
        own = {name: value for name, value in os.environ.items() if name.startswith("OLLAMA_")}
        note({"arguments": sys.argv[1:], "environment": own})
        host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
        ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
