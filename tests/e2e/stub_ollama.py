"""Answer as Ollama does, as far as the provisioner asks it; write down what is asked.

In:   `ollama serve`, and OLLAMA_HOST; run as a program of its own, without this repository.
Out:  a file beside the program for each process: Ollama's settings, then each POST, a line of JSON.
What a real Ollama answers was measured with 0.23.0.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

pulled: list[str] = []
loaded: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """One request; models are pulled before they are loaded."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tell the version, or models."""
        answers = {
            "/api/version": {"version": "0.23.0"},
            "/api/tags": {"models": [{"name": name, "model": name} for name in pulled]},
            "/api/ps": {"models": [{"name": name, "model": name} for name in loaded]},
        }
        if self.path in answers:
            self._answer(200, answers[self.path])
        else:
            self._answer(404, {"error": "404 page not found"})

    def do_POST(self) -> None:
        """Pull a model, or load one that was pulled."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        note({"path": self.path, "body": asked})
        model = asked["model"]
        if self.path == "/api/pull":
            pulled.append(model)
            self._answer(200, {"status": "success"})
        elif model not in pulled:
            self._answer(404, {"error": f"model '{model}' not found"})
        else:
            loaded.append(model)
            done = {"response": "", "done": True, "done_reason": "load"}
            self._answer(200, {"model": model, **done})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing; see the file."""

    def _answer(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def note(what: object) -> None:
    """Write a line down."""
    with (Path(__file__).parent / f"{os.getpid()}.asked").open("a") as file:
        file.write(json.dumps(what) + "\n")


def main() -> None:
    """Serve where OLLAMA_HOST says."""
    own = {name: value for name, value in os.environ.items() if name.startswith("OLLAMA_")}
    note({"arguments": sys.argv[1:], "environment": own})
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
