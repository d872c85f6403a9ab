"""`ollama-fleet instances logs`: the end of a log here, or where it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest

from provisioning.cli.instance_logs import is_here, log_file, print_log
from tests.provisioning.api.served import Served
from tests.provisioning.cli.running import run
from tests.provisioning.cli.test_instances import DOCUMENT

WITHIN_S = 100.0


def test_a_log_is_only_here_if_its_node_is() -> None:
    here, elsewhere = DOCUMENT, msgspec.structs.replace(DOCUMENT, url="http://192.0.2.1:1")

    assert Path("/var/log/a-00001.log") == log_file(here)
    with pytest.raises(click.ClickException) as caught:
        log_file(elsewhere)
    assert (
        "the log of a-00001 is on node n1, not on this machine; read it there: "
        "ssh 192.0.2.1 sudo tail -F /var/log/a-00001.log"
    ) == str(caught.value)
    assert [True, True, False, False] == [*map(is_here, ("::1", "127.0.0.1", "192.0.2.1", "a..b"))]


def test_an_instance_without_a_log_says_why(served: Served) -> None:
    result = run(served, "instances", "logs", "llama-00001")

    assert 1 == result.exit_code
    assert "llama-00001 has no log: it is simulated, or" in result.stderr


def test_the_last_lines_are_printed(tmp_path: Path, capfdbinary: Captured) -> None:
    path = tmp_path / "log"
    lines = [f"{n} {'x' * 50}\n".encode() for n in range(5000)]
    path.write_bytes(b"".join(lines) + b"\xff end")

    for n, expected in ((0, b""), (1, b"\xff end"), (2001, b"".join(lines[-2000:]) + b"\xff end")):
        print_log(path, n_lines=n, is_following=False)
        assert expected == capfdbinary.readouterr().out
    print_log(path, n_lines=10**6, is_following=False)
    assert path.read_bytes() == capfdbinary.readouterr().out


def test_a_log_that_cannot_be_read_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    with pytest.raises(click.ClickException, match="there is no log yet"):
        print_log(tmp_path / "none", n_lines=1, is_following=False)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(click.ClickException, match="type: sudo tail -F /x"):
        print_log(Path("/x"), n_lines=1, is_following=False)


def test_a_followed_log_is_read_on_when_it_is_cut_or_replaced(
    tmp_path: Path, capfdbinary: Captured
) -> None:
    path, steps = tmp_path / "log", list[bytes]()
    path.write_bytes(b"first, a long line\n")

    def until(text: bytes) -> None:
        give_up_s = time.monotonic() + WITHIN_S
        while text not in b"".join(steps) and time.monotonic() < give_up_s:
            time.sleep(0.02)
            steps.append(capfdbinary.readouterr().out)
        assert text in b"".join(steps)

    def add(text: bytes) -> None:
        with path.open("ab") as file:
            file.write(text)

    def cut(text: bytes) -> None:
        os.truncate(path, 0)
        add(text)

    def replace(text: bytes) -> None:
        path.unlink()
        path.write_bytes(text)

    follow = {"n_lines": 1, "is_following": True}
    threading.Thread(target=print_log, args=(path,), kwargs=follow, daemon=True).start()
    until(b"first")
    changes: list[tuple[Callable[[bytes], object], bytes]] = [
        (add, b"more\n"),
        (cut, b"cut\n"),
        (replace, b"the next generation\n"),
    ]
    for change, text in changes:
        change(text)
        until(text)

    assert [1, 1, 1] == [b"".join(steps).count(text) for _, text in changes]


Captured = pytest.CaptureFixture[bytes]
