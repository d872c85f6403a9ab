"""`ollama-fleet dashboards push`: what it prints where, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dashboards.cli import dashboards
from dashboards.transport import Bounds
from tests.dashboards.grafana_server import TOKEN, Running, grafana

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = [sys.executable, "-c", "from dashboards.cli import dashboards; dashboards()", "push"]


@pytest.fixture
def server() -> Iterator[Running]:
    with grafana() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "dashboards"
    folder.mkdir()
    for uid in ("a", "b"):
        write(folder, uid)
    return folder


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def options(server: Running, folder: Path, token_file: Path) -> list[str]:
    return ["--url", server.url, "--token-file", str(token_file), "--input-dir", str(folder)]


def write(folder: Path, uid: str, **changes: Any) -> None:
    content = {"uid": uid, "title": uid, "panels": [], **changes}
    (folder / f"{uid}.json").write_text(json.dumps(content))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(dashboards, ["push", *arguments])


def test_each_dashboard_gets_a_line(options: list[str]) -> None:
    result = run(*options)

    assert (0, "") == (result.exit_code, result.stderr)
    assert ["created    a", "created    b"] == result.stdout.splitlines()
    assert ["unchanged  a", "unchanged  b"] == run(*options).stdout.splitlines()


def test_the_chosen_ones_alone_are_pushed(options: list[str], server: Running) -> None:
    run(*options, "b")

    assert ["b"] == list(server.state.dashboards)


def test_a_conflict_fails_and_says_what_helps(
    options: list[str], server: Running, folder: Path
) -> None:
    run(*options)
    server.state.save_as_person("a", title="mine")
    write(folder, "b", refresh="1m")

    result = run(*options)

    assert 1 == result.exit_code
    assert ["conflict   a", "updated    b"] == result.stdout.splitlines()
    assert result.stderr.startswith("a: version 2 was saved by alice, not by a push; ")
    assert 0 == run(*options, "--overwrite").exit_code
    assert "a" == server.state.dashboards["a"].content["title"]


def test_a_dry_run_writes_nothing_and_shows_the_differences(
    options: list[str], server: Running, folder: Path
) -> None:
    run(*options, "a")
    write(folder, "a", refresh="1m")
    server.state.requests.clear()

    result = run(*options, "--dry-run")

    assert [] == server.state.writes()
    assert 0 == result.exit_code
    assert '\n+  "refresh": "1m",\n' in result.stdout
    assert f"--- /dev/null\n+++ {folder}/b.json\n" in result.stdout
    assert ["would be updated    a", "would be created    b"] == result.stdout.splitlines()[-2:]


def test_a_dry_run_fails_where_a_push_would(options: list[str], server: Running) -> None:
    run(*options)
    server.state.save_as_person("a", title="mine")

    result = run(*options, "--dry-run")

    assert 1 == result.exit_code
    assert '-  "title": "mine"' in result.stdout
    assert "conflict   a\nunchanged  b\n" in result.stdout


def test_json_is_one_object(options: list[str], server: Running) -> None:
    run(*options)
    server.state.save_as_person("a", title="mine")

    result = run(*options, "--json")

    told = json.loads(result.stdout)
    assert 1 == result.exit_code
    assert (server.url, False) == (told["url"], told["dry_run"])
    assert ["conflict", "unchanged"] == [entry["state"] for entry in told["dashboards"]]
    assert "alice" in told["dashboards"][0]["reason"]
    assert "diff" not in told["dashboards"][0]


def test_json_of_a_dry_run_holds_the_differences(options: list[str], server: Running) -> None:
    run(*options, "b")

    told = json.loads(run(*options, "--json", "--dry-run").stdout)

    assert told["dry_run"]
    assert [True, False] == [bool(entry["diff"]) for entry in told["dashboards"]]
    assert ["b"] == list(server.state.dashboards)


def test_nothing_is_sent_if_one_file_is_wrong(
    options: list[str], server: Running, folder: Path
) -> None:
    write(folder, "b", panels=None)

    result = run(*options)

    assert 1 == result.exit_code
    assert "1 problem in the dashboards; nothing was sent" in result.stderr
    assert [] == server.state.requests


def test_what_is_no_grafana_is_told(options: list[str], server: Running) -> None:
    server.state.moods = ["login"]

    result = run(*options)

    assert 1 == result.exit_code
    assert "a redirect to https://sso.example.org/login" in result.stderr
    assert "secret" not in result.stderr


def test_address_and_token_may_come_from_the_environment(
    server: Running, folder: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_FLEET_GRAFANA_URL", server.url)
    monkeypatch.setenv("OLLAMA_FLEET_GRAFANA_TOKEN_FILE", str(token_file))

    assert 0 == run("--input-dir", str(folder)).exit_code
    assert ["a", "b"] == list(server.state.dashboards)


@pytest.mark.parametrize("missing", ["--url", "--token-file"])
def test_address_and_token_are_required(options: list[str], missing: str) -> None:
    at = options.index(missing)

    result = run(*options[:at], *options[at + 2 :])

    assert 2 == result.exit_code
    assert missing in result.stderr


@pytest.mark.parametrize(
    "held", [b"", b" \n", b"two words", b"two\nlines", b"\xff", "glsa_é".encode(), b"a\x00b"]
)
def test_a_file_that_holds_no_token_is_told_without_what_it_holds(
    options: list[str], token_file: Path, held: bytes
) -> None:
    token_file.write_bytes(held)

    result = run(*options)

    assert 1 == result.exit_code
    assert "does not hold one token and nothing else" in result.stderr
    assert "two" not in result.stderr


def test_a_token_file_that_is_not_there_is_told(options: list[str], token_file: Path) -> None:
    token_file.unlink()

    assert "No such file or directory; it must hold the token" in run(*options).stderr


def test_the_token_shows_nowhere(options: list[str], server: Running) -> None:
    server.state.moods = ["status 500"] * 2 + ["status 401"]
    server.state.only = "GET /api/dash"

    result = run(*options)

    assert TOKEN not in result.output
    assert "status 401 busy with Bearer [token]" in result.stderr


def test_the_dashboards_that_come_with_the_package_are_the_default(
    server: Running, token_file: Path
) -> None:
    made = sorted(path.stem for path in (ROOT / "dashboards" / "out").glob("*.json"))

    run("--url", server.url, "--token-file", str(token_file))

    assert made == sorted(server.state.dashboards)


# As a process


def test_a_pipe_gets_results_and_no_progress(options: list[str]) -> None:
    done = subprocess.run(
        [*PROGRAM, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (0, "created    a\ncreated    b\n", "") == (done.returncode, done.stdout, done.stderr)


def read_to_its_end(terminal: int) -> str:
    """Return all that was written to a terminal which everybody else has closed."""
    shown = b""
    with contextlib.suppress(OSError):  # its end is an error
        while piece := os.read(terminal, 10_000):
            shown += piece
    return shown.decode()


def test_a_terminal_gets_progress(options: list[str]) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*PROGRAM, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, check=False
        )
    finally:
        os.close(theirs)
    shown = read_to_its_end(ours)
    os.close(ours)

    assert 0 == done.returncode
    assert "[1/2] a\r\n[2/2] b\r\n" == shown


def test_a_failure_ends_with_status_1_and_one_message(options: list[str], server: Running) -> None:
    server.state.moods = ["html"]

    done = subprocess.run(
        [*PROGRAM, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("Error: cannot ask for Grafana's health at http://127.0.0.1:")
    assert 1 == len(done.stderr.splitlines())


def saves(server: Running) -> list[str]:
    return [request for request in server.state.writes() if "dashboards" in request]


def interrupt(
    options: list[str], server: Running, *, n_saves: int
) -> subprocess.CompletedProcess[str]:
    """Press Ctrl-C once the moods are used up and so many saves arrived; return how it ended."""
    process = subprocess.Popen(
        [*PROGRAM, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while server.state.moods or len(saves(server)) < n_saves:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    return subprocess.CompletedProcess(PROGRAM, process.returncode, stdout, stderr)


def test_a_push_that_is_interrupted_says_what_is_there_and_what_is_not(
    options: list[str], server: Running, folder: Path
) -> None:
    """The second of four dashboards hangs; the third is there already."""
    for uid in ("c", "d"):
        write(folder, uid)
    run(*options, "c")
    server.state.requests.clear()
    server.state.only, server.state.moods = "POST /api/dashboards", ["well", "hang"]

    done = interrupt(options, server, n_saves=2)

    assert 130 == done.returncode
    assert [
        "created    a", "failed     b", "unchanged  c", "not tried  d",
    ] == done.stdout.splitlines()  # fmt: skip
    assert done.stderr.startswith("b: interrupted while it was sent: Grafana may have saved it")
    assert done.stderr.endswith("d: interrupted before its turn came\n")
    assert ["a", "c"] == sorted(server.state.dashboards)


def test_a_push_that_is_interrupted_while_it_reads_has_written_nothing(
    options: list[str], server: Running
) -> None:
    server.state.only, server.state.moods = "GET /api/dashboards", ["hang"]

    done = interrupt(options, server, n_saves=0)

    assert (1, "") == (done.returncode, done.stdout)
    assert "Aborted!" in done.stderr
    assert [] == server.state.writes()


def test_the_retries_of_the_command_are_few() -> None:
    """A person waits for it: 4 tries of at most 0.5, 1 and 2 s between them."""
    assert (4, 0.5) == (Bounds().tries, Bounds().first_wait_s)
