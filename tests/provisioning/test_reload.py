"""A provisioner reads its tokens again when asked, and names files that need a restart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from ollama_fleet.tokens import Tokens
from provisioning.errors import ConflictError
from provisioning.metrics import Metrics
from provisioning.reload import OwnFiles
from tests.provisioning.test_app import client, settings
from tests.provisioning.test_metrics import Clock, samples

TOKEN = "t" * 20


def test_what_changed_is_named_and_what_needs_a_restart_is_refused_with_all_faults(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, absent = tmp_path / "client.crt", tmp_path / "absent.key"
    certificate.write_text("one")
    tokens = Tokens(tmp_path / "tokens", option="--web.token-file")
    fixed = {"nodes.certificate-file": certificate, "nodes.key-file": absent, "store.ca-file": None}
    clock = Clock()
    metrics = Metrics(clock)
    files = OwnFiles(tokens, fixed, metrics)

    assert () == files.reload().changed
    tokens.path.write_text(f"ann {TOKEN}\n")
    assert ("web.token-file",) == files.reload().changed
    assert () == files.reload().changed

    assert (1.0, 1000.0) == reloads(metrics)

    clock.now_s = 2000.0
    certificate.write_text("two")
    absent.write_text("key")
    tokens.path.write_text("short\n")
    with pytest.raises(ConflictError) as caught:
        files.reload()
    assert (0.0, 1000.0) == reloads(metrics)
    refused = caplog.records[-1]
    for text in (str(caught.value), refused.getMessage()):
        assert "nodes.certificate-file: " in text
        assert "nodes.key-file: " in text
        assert "needs a restart" in text
        assert "line 1 is no token" in text
    assert "ann" == tokens_without_reading(tokens)
    certificate.write_text("one")
    absent.unlink()
    tokens.path.write_text(f"bob {TOKEN}\n")
    assert ("web.token-file",) == files.reload().changed
    assert (1.0, 2000.0) == reloads(metrics)


def reloads(metrics: Metrics) -> tuple[float, float]:
    """Return whether the last reload succeeded, and when one last did."""
    name, found = "config_last_reload_success", samples(metrics)
    return found[f"{name}ful"], found[f"{name}_timestamp_seconds"]


def tokens_without_reading(tokens: Tokens) -> str | None:
    """Return whose the token is by what was read last."""
    tokens.path.write_text(f"ann {TOKEN}\n")
    return tokens.holder(f"Bearer {TOKEN}")


async def test_who_has_a_token_reloads_over_http(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    async with client(chosen) as session:
        with chosen.token_file.open("a") as file:
            file.write(f"ann {TOKEN}\n")
        async with session.post("/-/reload") as response:
            assert (200, {"changed": ["web.token-file"]}) == (
                response.status,
                await response.json(),
            )
        async with session.post("/-/reload", headers={"Authorization": "Bearer x"}) as response:
            assert 401 == response.status


HUNG_UP_AT_ONCE = """
import os, signal, socket, sys
passed = socket.create_server(("127.0.0.1", 0))  # as systemd passes one
if passed.fileno() != 3:
    os.dup2(passed.fileno(), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
print(passed.getsockname()[1], file=sys.stderr)
from ollama_fleet import main, signals
hold = signals.hold_hangup
def hold_and_hang_up():
    hold()
    os.kill(os.getpid(), signal.SIGHUP)
signals.hold_hangup = hold_and_hang_up
main()
"""


@contextmanager
def provisioner(folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    arguments = ("--store.url", "memory:", "--web.listen-address", "127.0.0.9:0",
                 "--state-dir", str(folder))  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", HUNG_UP_AT_ONCE, "provisioner", "run", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(folder), **variables},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_hangup_reads_the_tokens_again_and_ends_no_provisioner_that_systemd_listens_for(
    tmp_path: Path,
) -> None:
    with provisioner(tmp_path) as process:
        assert process.stderr is not None
        log = iter(process.stderr)
        port = int(next(log))
        seen = [next(line for line in log if "reloaded files=none" in line)]
        (path,) = tmp_path.rglob("provisioner.token")
        path.write_text(f"ann {TOKEN}\n")
        process.send_signal(signal.SIGHUP)
        seen.append(next(line for line in log if "reloaded" in line))
        with urlopen(f"http://127.0.0.1:{port}/-/healthy") as answer:
            assert 200 == answer.status
        path.write_text("")
        process.send_signal(signal.SIGHUP)
        seen.append(next(line for line in log if "reload refused" in line))
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(90)

    assert "files=web.token-file" in seen[1]
    assert re.search("holds no token", seen[2])
    assert TOKEN not in "".join(seen)
