"""Who may write, and the audit log of what was asked."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from ollama_fleet.clock import SystemClock
from ollama_fleet.logs import LogfmtFormatter
from ollama_fleet.tokens import Tokens
from provisioning.api.auth import Audit
from provisioning.api.routes import OPERATIONS
from provisioning.errors import AuditFileError
from tests.provisioning.api.board import SPEC, Board

# Who may


async def test_what_needs_a_token_is_denied_without_one_and_changes_nothing(board: Board) -> None:
    """Each operation that needs it, each header that is none; the answer shows no secret."""
    revision = board.backend.revision
    asked = [one for one in OPERATIONS if one.needs_token]
    headers = ("", "Bearer wrong", f"Basic {board.token}", board.token, "Bearer \xff")
    async with aiohttp.ClientSession(board.url) as session:
        for operation in asked:
            path = operation.path.format(id="llama-00001", name="llama")
            for given in headers:
                async with session.request(
                    operation.method, path, json=SPEC, headers={"Authorization": given}
                ) as response:
                    challenge = response.headers["WWW-Authenticate"]
                    assert (401, "Bearer") == (response.status, challenge), (path, given)
                    seen = await response.text()
                    assert not [one for one in (board.token, "llama3.1", "/token") if one in seen]

    assert {"spec", "plan", "put_spec", "scale", "drain"} < {one.name for one in asked}
    assert {one.name for one in OPERATIONS if one.is_write} <= {one.name for one in asked}
    assert revision == board.backend.revision


async def test_the_token_of_another_provisioner_is_denied_with_what_helps(
    board: Board, tmp_path: Path
) -> None:
    """Each makes a file of its own, so that after a takeover it is another one."""
    others = Tokens(tmp_path / "others", option="--web.token-file")
    theirs = {"Authorization": f"Bearer {others.path.read_text().strip()}"}

    problem = await board.ask("GET", "/spec", headers=theirs, expect=401)
    assert "got another token; " in problem["detail"]
    assert "they need the same file" in problem["detail"]

    board.tokens.path.write_bytes(others.path.read_bytes())
    await board.ask("GET", "/spec", headers=theirs)


# The audit log


async def test_denied_requests_of_an_address_leave_one_line_a_minute(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiohttp.ClientSession(board.url) as session:
        for n in range(50):
            headers = {"Authorization": f"Bearer wrong-token-{n}"}
            async with session.get("/spec", headers=headers) as response:
                assert 401 == response.status

    (record,) = board.audited()
    assert ("", "127.0.0.1", "spec", 401) == tuple(
        record[key] for key in ("who", "address", "operation", "status")
    )
    assert "got another token" in record["fault"]
    (line,) = [one for one in caplog.records if one.name == "provisioning.api.auth"]
    assert "WARNING" == line.levelname
    assert "wrong-token" not in f"{line.getMessage()}{record}"


async def test_reads_that_are_answered_leave_no_line(board: Board) -> None:
    await board.ask("GET", "/spec")
    await board.ask("GET", "/instances", headers={"Authorization": "Bearer wrong"})

    assert [] == board.audited()


async def test_every_write_leaves_a_line_that_says_who_did_what(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    board.tokens.path.write_text(f"{board.token}\nann {'t' * 20}\n")
    headers = {"Authorization": f"Bearer {'t' * 20}"}
    await board.ask("POST", "/instances/llama-00002/assign", {"developer": "bob"}, headers=headers)
    await board.ask("POST", "/pools/nobody/scale", {"count": 1}, expect=404, headers=headers)

    first, second = board.audited()
    assert first.pop("at").endswith("+00:00")
    assert {
        "who": "ann",
        "address": "127.0.0.1",
        "operation": "assign",
        "target": "llama-00002",
        "body": {"developer": "bob"},
        "status": 200,
    } == first
    assert ("scale", "nobody", 404) == tuple(
        second[key] for key in ("operation", "target", "status")
    )
    assert "there is no pool 'nobody'; see the active specification" == second["fault"]
    assert [
        "audit operation=assign target=llama-00002 who=ann address=127.0.0.1 status=200: done",
        "audit operation=scale target=nobody who=ann address=127.0.0.1 status=404: "
        f"{second['fault']}",
    ] == [one.getMessage() for one in caplog.records if one.name == "provisioning.api.auth"]


async def test_no_client_forges_a_line_in_the_log(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by a newline, in one of its spellings, nor by what colours or erases a terminal."""
    caplog.set_level("INFO")
    target = "x\n2026-01-01 INFO audit: drain all by root\x1b[31m\r\u2028\x85"
    path = f"/instances/{quote(target)}/drain"
    await board.ask("POST", path, expect=404)
    await board.ask("PUT", "/spec", {**SPEC, "naem": 1, "x": 2}, expect=422)

    records = [one for one in caplog.records if one.name == "provisioning.api.auth"]
    lines = [LogfmtFormatter().format(record) for record in records]
    assert [True] * 2 == [line.isprintable() for line in lines]
    shown = r"x\n2026-01-01 INFO audit: drain all by root\u001b[31m\r\u2028\u0085"
    assert f' msg=audit operation=drain target="{shown}" who=token ' in lines[0]
    assert r"2 problems in the specification\n  naem: unknown key" in lines[1]
    assert [target, ""] == [record["target"] for record in board.audited()]


async def test_the_audit_log_holds_neither_tokens_nor_specifications(board: Board) -> None:
    await board.ask("PUT", "/spec", SPEC, expect=202)

    text = board.audit_path.read_text()
    assert board.token not in text
    assert "llama3.1" not in text
    assert 64 == len(board.audited()[0]["body"]["sha256"])
    assert 0o600 == stat.S_IMODE(board.audit_path.stat().st_mode)


async def test_a_write_that_broke_is_no_success_in_the_audit_log(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(board.store, "commit", broken)
    await board.ask("POST", "/instances/llama-00001/replace", expect=500)

    assert [(500, "an error of the provisioner itself")] == [
        (record["status"], record["fault"]) for record in board.audited()
    ]


async def test_an_audit_log_that_cannot_be_written_is_logged(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    board.audit_path.unlink()
    board.audit_path.mkdir()

    await board.ask("POST", "/instances/llama-00001/replace", expect=202)

    assert f"cannot write to the audit log file={board.audit_path}: Is a directory" in caplog.text
    board.audit_path.rmdir()


def test_an_audit_log_that_cannot_be_written_is_an_error_before_anything_begins(
    tmp_path: Path,
) -> None:
    with pytest.raises(AuditFileError, match=f"log {tmp_path}: Is a dir.*--web.audit-file"):
        Audit(tmp_path, SystemClock())
