"""Token files: who may write one, read one, and what a token is."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

import pytest

from ollama_fleet.tokens import TokenFileError, Tokens


def tokens_of(path: Path) -> Tokens:
    return Tokens(path, option="--web.token-file")


def test_a_missing_token_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "deep" / "token")

    secret = tokens.path.read_text().strip()
    assert (True, 0o600) == (tokens.is_new, stat.S_IMODE(tokens.path.stat().st_mode))
    assert "token" == tokens.holder(f"Bearer {secret}")
    assert secret not in repr(tokens)
    assert not tokens_of(tokens.path).is_new


def test_provisioners_that_begin_at_the_same_moment_share_the_token_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens"
    monkeypatch.setattr(Path, "exists", lambda _: False)  # neither finds the other's
    tokens_of(path)
    first = path.read_text()

    tokens_of(path)

    assert first == path.read_text()
    assert [path] == list(tmp_path.iterdir())


def test_a_token_file_that_the_disk_has_no_space_for_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, mode: str) -> IO[Any]:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdopen", full)

    with pytest.raises(TokenFileError, match="No space left"):
        tokens_of(tmp_path / "token")
    assert [] == list(tmp_path.iterdir())


def test_a_token_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for path in (tmp_path / "file" / "token", tmp_path):
        with pytest.raises(TokenFileError, match=r"Not a directory|File exists|Is a directory"):
            tokens_of(path)


def test_each_token_may_have_a_holder_and_the_file_comments(tmp_path: Path) -> None:
    path = tmp_path / "token"
    comments = f"# für die Schicht\n \t# {'d' * 16}\n"
    tokens = f"ann {'a' * 16}\n\n  bob\t{'b' * 16}\n{'c' * 16}\n"
    for encoding in ("utf-8", "utf-8-sig", "latin-1"):
        path.write_bytes(f"{comments}{tokens}".encode(encoding))
        found = [tokens_of(path).holder(f"bearer {one * 16}") for one in "abcd"]
        assert ["ann", "bob", "token", None] == found, encoding


def test_what_is_no_token_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"ann {'a' * 16}")
    tokens = tokens_of(path)

    token = "a" * 16
    wrong = ("é", "\udcff", "ann", token[1:], f"{token}a", "")
    given = ("", "Bearer", f"Basic {token}", token, *(f"Bearer {one}" for one in wrong))
    assert [] == [one for one in given if tokens.holder(one) is not None]


def test_a_changed_token_file_counts_at_once_and_one_that_is_gone_lets_nobody_write(
    tmp_path: Path,
) -> None:
    path = tmp_path / "token"
    path.write_text("a" * 16)
    tokens = tokens_of(path)

    path.write_text("b" * 17)
    old, new = (tokens.holder(f"Bearer {token}") for token in ("a" * 16, "b" * 17))
    assert (None, "token") == (old, new)

    path.unlink()
    with pytest.raises(TokenFileError, match="No such file"):
        tokens.holder(f"Bearer {'b' * 17}")


def test_a_token_file_that_cannot_be_used_is_named_but_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content, fault in (
        (b"", "it holds no token"),
        (b"# " + b"x" * 16, "it holds no token"),
        (b"secret", "line 1 is no token of 16 characters or more"),
        (b"# \xc3\xbc\nann " + "ü".encode() * 16, "line 2 holds something other than ASCII"),
        (b"x" * 100_001, "it is larger than 100,000 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(TokenFileError) as caught:
            tokens_of(path)
        assert f"cannot use the token file {path}: {fault}" in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_token_file_that_everybody_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text("t" * 16)
    for mode, is_warned in ((0o600, False), (0o640, False), (0o644, True)):
        path.chmod(mode)
        tokens_of(path)
        assert is_warned == (f"token file is world-readable file={path}" in caplog.text)
