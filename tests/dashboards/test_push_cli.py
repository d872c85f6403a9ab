"""`ollama-fleet dashboards push`: what it prints where, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dashboards.cli import dashboards
from tests.dashboards.grafana_server import TOKEN, Running, grafana

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def server() -> Iterator[Running]:
    with grafana() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda duration_s: None)


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
    return [
        "--grafana.url",
        server.url,
        "--grafana.token-file",
        str(token_file),
        "--input-dir",
        str(folder),
    ]


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


def test_a_dry_run_writes_nothing_and_sums_up_what_would_change(
    options: list[str], server: Running, folder: Path
) -> None:
    run(*options, "a")
    write(folder, "a", refresh="1m", tags=["x"])
    server.state.requests.clear()

    result = run(*options, "--dry-run")

    assert [] == server.state.writes()
    assert 0 == result.exit_code
    assert [
        "would be updated    a  +4 −0 lines",
        "would be created    b  new",
    ] == result.stdout.splitlines()


def test_a_dry_run_says_how_much_of_a_conflict_differs(options: list[str], server: Running) -> None:
    run(*options)
    server.state.save_as_person("a", title="mine")

    result = run(*options, "a", "--dry-run")

    assert (1, "conflict   a  +1 −1 lines\n") == (result.exit_code, result.stdout)


def test_a_diff_shows_the_differences_and_writes_nothing_either(
    options: list[str], server: Running, folder: Path
) -> None:
    run(*options, "a")
    write(folder, "a", refresh="1m")
    server.state.requests.clear()

    result = run(*options, "--diff")

    assert [] == server.state.writes()
    assert '\n+  "refresh": "1m",\n' in result.stdout
    assert f"--- /dev/null\n+++ {folder}/b.json\n" in result.stdout
    assert "would be created    b  new" == result.stdout.splitlines()[-1]


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


def test_json_of_a_diff_holds_the_differences(options: list[str], server: Running) -> None:
    run(*options, "b")

    told = json.loads(run(*options, "--json", "--diff").stdout)

    assert told["dry_run"]
    assert [True, False] == [bool(entry["diff"]) for entry in told["dashboards"]]
    assert '"diff"' not in run(*options, "--json", "--dry-run").stdout
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


@pytest.mark.parametrize("missing", ["--grafana.url", "--grafana.token-file"])
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

    run("--grafana.url", server.url, "--grafana.token-file", str(token_file))

    assert made == sorted(server.state.dashboards)
