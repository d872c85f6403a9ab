"""Tokens, answers that are given again, listening: what the API is put together of."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.api.auth import Audit, Tokens
from provisioning.api.commands import KEPT_S, MAX_ANSWERS, Answer, Answers
from provisioning.api.errors import (
    AuditFileError,
    ListenError,
    RefusedError,
    TokenFileError,
)
from provisioning.api.server import bound, url_of
from tests.provisioning.api.board import Board

# Tokens


def test_a_missing_token_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "deep" / "token")

    secret = tokens.path.read_text().strip()
    assert (True, 0o600) == (tokens.is_new, stat.S_IMODE(tokens.path.stat().st_mode))
    assert "token" == tokens.holder(f"Bearer {secret}")
    assert secret not in repr(tokens)
    assert not Tokens(tokens.path).is_new


def test_provisioners_that_begin_at_the_same_moment_share_the_token_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens"
    monkeypatch.setattr(Path, "exists", lambda _: False)  # neither finds the other's
    Tokens(path)
    first = path.read_text()

    Tokens(path)

    assert first == path.read_text()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_token_file_is_made_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "token"
    monkeypatch.setattr(os, "link", refuser(number))
    monkeypatch.setattr(Path, "exists", lambda _: False)  # two begin at the same moment
    tokens = Tokens(path)
    first = path.read_text()

    Tokens(path)

    assert "token" == tokens.holder(f"Bearer {first.strip()}")
    assert first == path.read_text()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


def test_a_token_file_that_there_is_no_room_for_is_told_and_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuser(errno.ENOSPC))

    with pytest.raises(TokenFileError, match="No space left"):
        Tokens(tmp_path / "token")
    assert [] == list(tmp_path.iterdir())


def refuser(number: int) -> Callable[[str, Path], None]:
    """Return what fails with an errno whatever is to be linked."""

    def refuse(_source: str, _target: Path) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_each_token_may_have_a_holder(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"# who may write\nann {'a' * 16}\n\n  bob\t{'b' * 16}\n{'c' * 16}\n")
    tokens = Tokens(path)

    assert ["ann", "bob", "token"] == [tokens.holder(f"bearer {one * 16}") for one in "abc"]


@pytest.mark.parametrize("indent", ["", " ", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_comment_is_no_token_whatever_it_holds(
    tmp_path: Path, encoding: str, indent: str
) -> None:
    path = tmp_path / "token"
    text = f"{indent}# für-die-Schicht\n{indent}# {'c' * 16}\nann {'a' * 16}\n"
    path.write_bytes(text.encode(encoding))
    tokens = Tokens(path)

    assert [None, "ann"] == [tokens.holder(f"Bearer {one * 16}") for one in "ca"]


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {'a' * 16}",
        "a" * 16,
        f"Bearer {'a' * 15}",
        "Bearer é",
        "Bearer \udcff",
        "Bearer ann",
    ],
)
def test_what_is_no_token_is_nobodys(tmp_path: Path, authorization: str) -> None:
    path = tmp_path / "token"
    path.write_text(f"ann {'a' * 16}")

    assert Tokens(path).holder(authorization) is None


def test_a_changed_token_file_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a" * 16)
    tokens = Tokens(path)

    path.write_text("b" * 17)

    assert (None, "token") == (
        tokens.holder(f"Bearer {'a' * 16}"),
        tokens.holder(f"Bearer {'b' * 17}"),
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it holds no token"),
        (b"short", "line 1 is no token of 16 characters or more"),
        (b"\xff" * 20, "line 1 holds something other than ASCII"),
        (b"# \xc3\xbc\nann " + "ü".encode() * 16, "line 2 holds something other than ASCII"),
        ("Jürg ".encode() + b"t" * 16, "line 1 holds something other than ASCII"),
        (b"# " + b"x" * 16, "it holds no token"),
        (b"x" * 100_001, "it is larger than 100,000 bytes"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_named_but_not_shown(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)

    with pytest.raises(TokenFileError) as caught:
        Tokens(path)

    assert f"cannot use the token file {path}: {fault}" in str(caught.value)
    assert "short" not in str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_token_file_that_everybody_can_read_is_told(
    tmp_path: Path, mode: int, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text("t" * 16)
    path.chmod(mode)

    Tokens(path)

    assert is_told == (f"everybody here can read the tokens in {path}: chmod o=" in caplog.text)


def test_a_token_file_that_is_gone_lets_nobody_write(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "token")
    secret = tokens.path.read_text().strip()
    tokens.path.unlink()

    with pytest.raises(TokenFileError, match="No such file"):
        tokens.holder(f"Bearer {secret}")


def test_a_token_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(TokenFileError, match=r"Not a directory|File exists"):
        Tokens(tmp_path / "file" / "token")


# The audit log


def test_an_audit_log_that_cannot_be_written_is_told_before_anything_begins(
    tmp_path: Path,
) -> None:
    with pytest.raises(AuditFileError, match=f"log {tmp_path}: Is a dir.*--web.audit-file"):
        Audit(tmp_path, Clock())


# Answers


class Clock(SystemClock):
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


class Work:
    def __init__(self) -> None:
        self.n_done = 0

    async def __call__(self) -> Answer:
        self.n_done += 1
        return Answer(200, b"%d" % self.n_done)


async def test_an_answer_is_kept_for_a_day() -> None:
    clock, work = Clock(), Work()
    answers = Answers(clock)
    first = await answers.once("key", b"request", work)
    clock.now_s = KEPT_S - 1
    assert first == await answers.once("key", b"request", work)

    clock.now_s = KEPT_S
    await answers.once("key", b"request", work)

    assert 2 == work.n_done


async def test_only_the_latest_answers_are_kept() -> None:
    work = Work()
    answers = Answers(Clock())
    for n in range(MAX_ANSWERS + 1):
        await answers.once(f"key {n}", b"", work)

    await answers.once("key 1", b"", work)
    assert MAX_ANSWERS + 1 == work.n_done
    await answers.once("key 0", b"", work)
    assert MAX_ANSWERS + 2 == work.n_done


async def test_a_request_that_is_being_worked_on_is_not_begun_again() -> None:
    answers, goes_on = Answers(Clock()), asyncio.Event()

    async def slow() -> Answer:
        await goes_on.wait()
        return Answer(200, b"")

    first = asyncio.create_task(answers.once("key", b"", slow))
    await asyncio.sleep(0)
    with pytest.raises(RefusedError, match="is being worked on"):
        await answers.once("key", b"", slow)
    goes_on.set()

    assert Answer(200, b"") == await first == await answers.once("key", b"", slow)


async def test_a_request_that_was_cancelled_may_come_again() -> None:
    answers, work = Answers(Clock()), Work()
    hanging = asyncio.create_task(answers.once("key", b"", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)

    assert Answer(200, b"1") == await answers.once("key", b"", work)


# Listening


async def test_an_address_that_is_taken_is_told_with_what_helps(board: Board) -> None:
    port = int(board.url.rpartition(":")[2])

    with pytest.raises(ListenError) as caught:
        with bound("127.0.0.1", port):
            pass

    assert (
        f"cannot listen on 127.0.0.1:{port} for the API: Address already in use; "
        "choose another with --web.listen-address, port 0 for any"
    ) == str(caught.value)


def test_all_addresses_of_a_host_get_one_port_before_anybody_is_answered() -> None:
    with bound("localhost", 0) as sockets:
        ports = {one.getsockname()[1] for one in sockets}

        assert 1 == len(ports)
        assert url_of(sockets).endswith(f":{ports.pop()}")
    assert {-1} == {one.fileno() for one in sockets}


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1"), ("::", "http://[::1]")],  # noqa: S104 - it is the case
)
def test_an_address_that_is_none_is_reached_at_this_machines_own(host: str, url: str) -> None:
    with bound(host, 0) as sockets:
        assert url == url_of(sockets).rpartition(":")[0]
