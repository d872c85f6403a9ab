"""What a push meets, case by case, whoever plays Grafana: a server with state, or canned answers.

The canned answers of `responses` are those of Grafana's documentation, and hold a push to the
requests that are written there; the server keeps what it is sent, over real sockets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from click.testing import CliRunner, Result
from responses import matchers

from dashboards import push as pushing
from dashboards.cli import dashboards
from dashboards.documents import Document
from dashboards.transport import Bounds, Transport
from tests.dashboards.clock import FakeClock
from tests.dashboards.grafana_server import TOKEN, State, Stored, grafana

URL = "https://grafana.example.org"
CONTENT = {"uid": "a", "title": "A", "panels": [], "schemaVersion": 39}
OLD = {**CONTENT, "title": "Old"}
OURS = pushing.message(Document("a.json", CONTENT))
OLDER = pushing.message(Document("a.json", OLD))
FOLDER = {"uid": "ollama-fleet", "title": "ollama-fleet"}
SAVED = {"id": 17, "uid": "a", "url": "/d/a/a", "status": "success", "version": 1, "slug": "a"}
CHANGED = {
    "status": "version-mismatch",
    "message": "The dashboard has been changed by someone else",
}
FAILURE = {"message": "database is locked"}


class Canned:
    """Grafana's answers, in the order in which they are asked for."""

    def __init__(self, mock: responses.RequestsMock) -> None:
        self._mock = mock
        self._mock.get(f"{URL}/api/health", json={"database": "ok", "version": "13.2.0"})

    def get(self, path: str, answer: Any, status: int = 200) -> None:
        self._mock.get(f"{URL}{path}", json=answer, status=status)

    def post(self, path: str, sent: Any, answer: Any, status: int = 200) -> None:
        expected = [matchers.json_params_matcher(sent)]
        self._mock.post(f"{URL}{path}", json=answer, status=status, match=expected)

    def silent(self, path: str) -> None:
        self._mock.get(f"{URL}{path}", body=requests.ReadTimeout("Read timed out."))

    def nothing_there(self) -> None:
        self.get("/api/dashboards/uid/a", {"message": "Dashboard not found"}, 404)

    def there(self, content: Any, message: str) -> None:
        meta = {"version": 3, "updatedBy": "alice", "folderUid": "ollama-fleet"}
        dashboard = {**content, "id": 17, "version": 3}
        self.get("/api/dashboards/uid/a", {"meta": meta, "dashboard": dashboard})
        versions = [{"version": 3, "message": message}, {"version": 2, "message": OURS}]
        self.get("/api/dashboards/uid/a/versions", {"versions": versions})

    def folder_is_created(self) -> None:
        self.get("/api/folders/ollama-fleet", {"message": "folder not found"}, 404)
        self.post("/api/folders", FOLDER, FOLDER)

    def save(self, version: int, answer: Any, status: int = 200) -> None:
        sent = {
            "dashboard": {**CONTENT, "id": None, "version": version},
            "folderUid": "ollama-fleet",
            "overwrite": False,
            "message": OURS,
        }
        self.post("/api/dashboards/db", sent, answer, status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How Grafana is, as each plays it, and how the command ends."""

    server: Callable[[State], object]
    canned: Callable[[Canned], object]
    exit_code: int = 0
    stdout: str = ""
    stderr: str = ""
    """A regular expression of all of it."""


def is_there(state: State, content: Mapping[str, Any], message: str) -> None:
    state.folders["ollama-fleet"] = "ollama-fleet"
    messages = ["", OURS, message]
    state.dashboards["a"] = Stored(
        content=dict(content),
        folder_uid="ollama-fleet",
        version=3,
        messages=messages,
        changed_by="alice",
    )


def behaves(state: State, only: str, *moods: str) -> None:
    state.only, state.moods = only, list(moods)


def created(canned: Canned) -> None:
    canned.nothing_there()
    canned.folder_is_created()
    canned.save(0, SAVED)


def updated(canned: Canned) -> None:
    canned.there(OLD, OLDER)
    canned.save(3, {**SAVED, "version": 4})


def not_there_and_not_allowed(canned: Canned) -> None:
    canned.nothing_there()
    canned.get("/api/folders/ollama-fleet", {"message": "folder not found"}, 404)
    canned.post("/api/folders", FOLDER, {"message": "Permission denied"}, 403)


def changed_meanwhile_server(state: State) -> None:
    is_there(state, OLD, OLDER)
    behaves(state, "POST /api/dashboards", "meanwhile")


def changed_meanwhile(canned: Canned) -> None:
    canned.there(OLD, OLDER)
    canned.save(3, CHANGED, 412)
    canned.there({**OLD, "title": "mine"}, "")


def fails_twice(canned: Canned) -> None:
    for _ in range(2):
        canned.get("/api/dashboards/uid/a", FAILURE, 503)
    created(canned)


def fails_for_good(canned: Canned) -> None:
    for _ in range(4):
        canned.get("/api/dashboards/uid/a", FAILURE, 503)


def is_silent(canned: Canned) -> None:
    for _ in range(4):
        canned.silent("/api/dashboards/uid/a")


def is_silent_once(canned: Canned) -> None:
    canned.silent("/api/dashboards/uid/a")
    created(canned)


READING = "GET /api/dashboards/uid/a"
CASES = {
    "created": Case(server=lambda state: None, canned=created, stdout="created    a\n"),
    "updated": Case(
        server=lambda state: is_there(state, OLD, OLDER), canned=updated, stdout="updated    a\n"
    ),
    "unchanged": Case(
        server=lambda state: is_there(state, CONTENT, OURS),
        canned=lambda canned: canned.there(CONTENT, OURS),
        stdout="unchanged  a\n",
    ),
    "version conflict": Case(
        server=lambda state: is_there(state, OLD, "my own"),
        canned=lambda canned: canned.there(OLD, "my own"),
        exit_code=1,
        stdout="conflict   a\n",
        stderr=r"a: version 3 was saved by alice, not by a push; .* --overwrite to replace it\n",
    ),
    "401": Case(
        server=lambda state: behaves(state, READING, "status 401"),
        canned=lambda canned: canned.get("/api/dashboards/uid/a", {"message": "no"}, 401),
        exit_code=1,
        stderr=r"Error: cannot read dashboard a at \S+: status 401 .*; the token is wrong .*\n",
    ),
    "403": Case(
        server=lambda state: behaves(state, "POST /api/folders", "status 403"),
        canned=not_there_and_not_allowed,
        exit_code=1,
        stderr=r"Error: cannot create folder ollama-fleet at \S+: status 403 .* role Editor.*\n",
    ),
    "412": Case(
        server=changed_meanwhile_server,
        canned=changed_meanwhile,
        exit_code=1,
        stdout="conflict   a\n",
        stderr=r"a: cannot save dashboard a at \S+: The dashboard has been changed by someone "
        r"else; somebody saved it meanwhile: look at it with --dry-run, then give --overwrite\n",
    ),
    "5xx that passes": Case(
        server=lambda state: behaves(state, READING, "status 503", "status 503"),
        canned=fails_twice,
        stdout="created    a\n",
    ),
    "5xx for good": Case(
        server=lambda state: behaves(state, READING, *["status 503"] * 4),
        canned=fails_for_good,
        exit_code=1,
        stderr=r"Error: cannot read dashboard a at \S+: status 503 .* \(4 tries\); .*\n",
    ),
    "time-out that passes": Case(
        server=lambda state: behaves(state, READING, "hang"),
        canned=is_silent_once,
        stdout="created    a\n",
    ),
    "time-out for good": Case(
        server=lambda state: behaves(state, READING, *["hang"] * 4),
        canned=is_silent,
        exit_code=1,
        stderr=r"Error: cannot read dashboard a at \S+: nothing came for 0.2 s \(4 tries\); .*\n",
    ),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(Transport, bounds=Bounds(silence_s=0.2), clock=FakeClock())
    monkeypatch.setattr("dashboards.push_cli.Transport", quick)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    (tmp_path / "token").write_text(TOKEN)
    return ["--token-file", str(tmp_path / "token"), str(tmp_path / "a.json")]


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(registry=responses.registries.OrderedRegistry) as mock:
        yield mock


def pushed(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(dashboards, ["push", "--url", url, *arguments])


def check(case: Case, result: Result) -> None:
    assert (case.exit_code, case.stdout) == (result.exit_code, result.stdout)
    assert re.fullmatch(case.stderr, result.stderr), result.stderr
    assert TOKEN not in result.output


def test_a_server_with_state(case: Case, files: list[str]) -> None:
    with grafana() as running:
        case.server(running.state)

        check(case, pushed(running.url, *files))


def test_canned_answers(case: Case, files: list[str], web: responses.RequestsMock) -> None:
    case.canned(Canned(web))

    check(case, pushed(URL, *files))
    assert {f"Bearer {TOKEN}"} == {call.request.headers["Authorization"] for call in web.calls}


def test_a_new_dashboard_replaces_nothing_even_with_overwrite(
    files: list[str], web: responses.RequestsMock
) -> None:
    """Old Grafanas would let it replace another one of the same title."""
    created(Canned(web))

    assert "created    a\n" == pushed(URL, *files, "--overwrite").stdout
