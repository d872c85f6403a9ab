"""What is written about requests: everything but prompts, keys and queries."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.provisioning.gateway.answers import END, Instance, instances, lines
from tests.provisioning.gateway.nginx import (
    DEADLINE_S,
    Gateway,
    Listed,
    running_gateway,
    wait_until,
)
from tests.provisioning.gateway.test_keys import new_key

MARKER = "sesame-4711"
LAST = (
    '{"response":"","done":true,"done_reason":"stop","total_duration":9,"load_duration":7000000,'
    '"prompt_eval_count":2,"eval_count":3,"eval_duration":1000000}'
)
PROMPT = {"model": "m:1", "prompt": MARKER}


def raw(gateway: Gateway, head: str, body: bytes = b"") -> None:
    """Send bytes as they are, and read until the gateway closes."""
    address = urlsplit(gateway.url)
    with socket.create_connection((str(address.hostname), address.port)) as client:
        client.sendall(head.replace("\n", "\r\n").encode() + body)
        client.settimeout(DEADLINE_S)
        with suppress(OSError):
            while client.recv(65_536):
                pass


def entries(file: Path) -> list[dict[str, Any]]:
    """Return the lines of the access log."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_access_log_tells_all_of_a_request_but_its_prompt(tmp_path: Path) -> None:
    file, keys = tmp_path / "access.log", tmp_path / "keys.json"
    key = new_key(keys, 'Ann "A" Müller')
    instance = Instance((0.05, lines(LAST), END))
    listed = [Listed(instance.port, id="gpu-1", node="rack1", loaded=("m:1",))]
    sections: dict[str, Any] = {"keys": {"file": str(keys)}, "log": {"access_file": str(file)}}
    headers = {"Authorization": f"Bearer {key}"}

    with instances(instance), running_gateway(tmp_path, listed, **sections) as gateway:
        _, of_answer, body = gateway.ask(f"/api/generate?q={MARKER}", PROMPT, headers)
        gateway.ask("/api/generate", {"model": "none", "prompt": MARKER}, headers)
        wait_until(lambda: len(entries(file)) == 2)
        answered, refused = sorted(entries(file), key=lambda entry: int(entry["status"]))

    assert answered["bytes"] > len(body)
    assert 0.05 <= answered["first_token_s"] <= answered["duration_s"] + 0.01
    for name in ("time", "bytes", "duration_s", "first_token_s", "queue_s"):
        del answered[name]
    assert {
        "request_id": of_answer["X-Request-Id"],
        "client": "127.0.0.1",
        "method": "POST",
        "status": 200,
        "outcome": 200,
        "developer": 'Ann "A" Müller',
        "endpoint": "/api/generate",
        "model": "m:1",
        "instance": "gpu-1",
        "node": "rack1",
        "tries": 1,
        "prompt_tokens": 2,
        "generated_tokens": 3,
        "generation_s": 0.001,
        "load_s": 0.007,
        "done_reason": "stop",
    } == answered
    assert (404, "model_unknown") == (refused["status"], refused["rejected"])


def test_no_log_holds_a_prompt_a_key_or_a_query(tmp_path: Path) -> None:
    """Whatever goes wrong: refused, cut off, timed out, too large, malformed, left."""
    file, keys = tmp_path / "access.log", tmp_path / "keys.json"
    key = new_key(keys, "ann")
    gone = Instance((END,))
    gone.close()
    of_model = {
        "good:1": Instance((lines(LAST), END)),
        "cut:1": Instance((lines(LAST),)),
        "liar:1": Instance((lines(f'{{"error":"{MARKER}","done_reason":"{MARKER}"}}'), END)),
        "slow:1": Instance((0.5, lines(LAST), END)),
        "odd:1": Instance((b"x" * 40_000, END), headers=b"X: " + b"y" * 20_000 + b"\r\n"),
        "busy:1": Instance((b"{}", END), status=503),
        "gone:1": gone,
    }
    listed = [Listed(one.port, loaded=(model,)) for model, one in of_model.items()]
    sections: dict[str, Any] = {
        "keys": {"file": str(keys)},
        "log": {"access_file": str(file)},
        "requests": {
            "answer_timeout": "300ms",
            "max_body": "10kB",
            "wait": "0s",
            "body_timeout": "1s",
        },
    }
    query = f"/api/generate?key={key}&prompt={MARKER}"
    head = f"POST {query} HTTP/1.1\nHost: {MARKER}\nAuthorization: Bearer {key}\n"
    head += "Connection: close\n"

    with instances(*of_model.values()), running_gateway(tmp_path, listed, **sections) as gateway:

        def post(document: object) -> None:
            body = json.dumps(document).encode()
            raw(gateway, f"{head}Content-Length: {len(body)}\n\n", body)

        for model in of_model:
            post({"model": model, "prompt": MARKER})
        post({"model": MARKER, "prompt": MARKER})
        post(MARKER)
        post({"model": "good:1", "prompt": MARKER * 2000})
        raw(gateway, head.replace("/api/generate", f"/{MARKER}") + "\n")
        raw(gateway, head.replace(key, key + MARKER) + "\n")
        raw(gateway, head + "Content-Length: 100\n\n", MARKER.encode())
        raw(gateway, head + "Content-Length: none\n\n")
        raw(gateway, head.replace("HTTP/1.1", "HTTP/9") + "\n")
        raw(gateway, f"{MARKER} {query} HTTP/1.1\n\n")
        raw(gateway, f"POST {query}{'z' * 40_000} HTTP/1.1\n\n")
        raw(gateway, head + f"X: {MARKER * 4000}\n\n")
        raw(gateway, head + f"Transfer-Encoding: chunked\n\n{MARKER}\n")
        wait_until(lambda: len(entries(file)) >= 17)
        logged = file.read_text() + gateway.log.read_text()

    assert MARKER not in logged
    assert key not in logged
    reasons = {entry.get("rejected") for entry in entries(file)}
    assert {"unauthorised", "model_unknown", "bad_request", "too_large"} <= reasons
    assert {"cut_off", "error"} <= {entry.get("fault") for entry in entries(file)}
