"""`ollama-fleet instances …` against a real API: what it prints where, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from provisioning.api.routes import HistoryLine, InstanceDocument, State
from provisioning.cli.common import age_text, list_text, show_text
from provisioning.cli.instances import instances
from provisioning.client.client import Client
from provisioning.client.errors import UnreachableError
from provisioning.model import Phase, Reason
from tests.ports import free_port
from tests.provisioning.api.board import instance
from tests.provisioning.api.served import Served
from tests.provisioning.cli.terminal import on_terminal


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def environment(served: Served) -> dict[str, str]:
    return {
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": served.url,
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_TOKEN_FILE": str(served.board.tokens.path),
    }


def run(served: Served, *words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(instances, words, env={**environment(served), **(env or {})})


def test_instances_are_listed_as_a_table(served: Served) -> None:
    result = run(served, "list", "--pool", "llama")

    assert 0 == result.exit_code, result.output
    head, first, *_, fourth, summary = result.stdout.splitlines()
    assert [
        "ID",
        "PHASE",
        "FOR",
        "NODE",
        "MODEL",
        "DEVELOPER",
        "GENERATION",
        "NOTE",
    ] == head.split()
    assert ["llama-00001", "running"] == first.split()[:2]
    assert ["n1", "llama3.1:8b", "ann", "1"] == first.split()[-4:]
    assert fourth.endswith("exited with status 1")
    assert "4 instances: 1 starting, 1 running, 1 draining, 1 failed" == summary


def test_instances_are_listed_as_json(served: Served) -> None:
    result = run(served, "list", "--json", "--phase", "failed", "--phase", "starting")

    assert ["llama-00002", "llama-00004"] == [one["id"] for one in json.loads(result.stdout)]


def test_a_note_is_cut_on_a_terminal_alone(served: Served) -> None:
    fault = f"{'no room ' * 10}cause"
    served.put(instance(4, phase=Phase.FAILED, fault=fault, n_failures=1))

    _, screen = on_terminal(("instances", "list"), environment(served))

    assert fault in run(served, "list").stdout
    assert "no room" in screen
    assert "cause" not in screen


def test_an_empty_list_is_said_in_words(served: Served) -> None:
    assert "no instances\n" == run(served, "list", "--node", "nobody").stdout
    assert "[]\n" == run(served, "list", "--node", "nobody", "--json").stdout


def test_one_instance_is_shown_with_its_history(served: Served) -> None:
    result = run(served, "show", "llama-00004")

    assert "fault          exited with status 1\n" in result.stdout
    assert "history\n  1970-01-01 00:16:30Z  1  placed n1\n" in result.stdout
    assert "llama-00004" == json.loads(run(served, "show", "llama-00004", "--json").stdout)["id"]


def test_an_instance_is_assigned_and_released(served: Served) -> None:
    assert "llama-00002: starting, of bob\n" == run(served, "assign", "llama-00002", "bob").stdout
    assert "llama-00002: starting\n" == run(served, "release", "llama-00002").stdout
    assert "" == served.board.stored("llama-00002").developer


def test_several_instances_are_drained_or_replaced(served: Served) -> None:
    drained = run(served, "drain", "llama-00001", "tiny-00001")
    replaced = run(served, "replace", "--json", "llama-00002")

    assert "llama-00001: draining, of ann\ntiny-00001: draining\n" == drained.stdout
    assert [True] == [one["is_replace_asked"] for one in json.loads(replaced.stdout)]


@pytest.mark.parametrize(
    ("command", "filters", "expected"),
    [
        ("replace", ("--pool", "tiny"), ["tiny-00001: running, replacement asked for"]),
        ("replace", ("--node", "n2"), ["llama-00004: failed, replacement asked for"]),
        (
            "drain",
            ("--phase", "running", "--phase", "draining"),
            ["llama-00001: draining, of ann", "llama-00003: draining", "tiny-00001: draining"],
        ),
        ("drain", ("--phase", "running", "--pool", "llama"), ["llama-00001: draining, of ann"]),
        ("release", ("--pool", "llama", "--phase", "running"), ["llama-00001: running"]),
    ],
)
def test_instances_are_chosen_as_they_are_listed(
    served: Served, command: str, filters: tuple[str, ...], expected: list[str]
) -> None:
    result = run(served, command, *filters, "--yes")

    assert 0 == result.exit_code, result.output
    assert expected == [line for line in result.stdout.splitlines() if "stopping" not in line]


def test_one_of_the_chosen_that_refuses_does_not_stop_the_others(served: Served) -> None:
    """A drain is for what runs."""
    result = run(served, "drain", "--pool", "llama", "--yes")

    assert 1 == result.exit_code
    assert ["llama-00001", "llama-00003"] == [
        line.partition(":")[0] for line in result.stdout.splitlines()
    ]
    assert "llama-00004 is failed: only a running instance can be drained" in result.stderr


def test_nothing_that_is_chosen_is_no_failure(served: Served) -> None:
    result = run(served, "drain", "--pool", "nobody", "--json")

    assert (0, "[]\n", "no instances\n") == (result.exit_code, result.stdout, result.stderr)


def test_what_filters_choose_is_not_changed_where_nobody_can_be_asked(served: Served) -> None:
    result = run(served, "drain", "--pool", "tiny")

    assert (1, "") == (result.exit_code, result.stdout)
    assert (
        "Error: this would drain 2 instances: 1 running, 1 stopping, and nobody can be asked here "
        "whether it may; if it may, say so with --yes\n"
    ) == result.stderr
    assert Phase.RUNNING is served.board.stored("tiny-00001").phase


@pytest.mark.parametrize(
    ("answer", "status", "phase"), [(b"y\n", 0, Phase.DRAINING), (b"n\n", 1, Phase.RUNNING)]
)
def test_a_person_is_asked_before_many_are_changed(
    served: Served, answer: bytes, status: int, phase: Phase
) -> None:
    words = ("instances", "drain", "--phase", "running")

    ended, screen = on_terminal(words, environment(served), answer)

    assert status == ended, screen
    assert "drain 2 instances: 2 running. Go on? [y/N]" in screen
    assert {phase} == {served.board.stored(f"{pool}-00001").phase for pool in ("llama", "tiny")}


def test_instances_are_named_or_chosen_and_not_both(served: Served) -> None:
    result = run(served, "drain", "llama-00001", "--pool", "tiny", "--yes")

    assert 2 == result.exit_code
    assert "name instances by ID, or choose them" in result.stderr
    assert Phase.RUNNING is served.board.stored("llama-00001").phase


def test_an_instance_that_refuses_does_not_stop_the_others(served: Served) -> None:
    result = run(served, "replace", "nobody", "llama-00001")

    assert (1, "llama-00001: running, replacement asked for, of ann\n") == (
        result.exit_code,
        result.stdout,
    )
    assert "there is no instance 'nobody'; list them all to see" in result.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_is_done_is_told_though_the_rest_cannot_be(
    served: Served, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """The provisioner goes away between the first and the second; the third is not tried."""
    asked: list[str] = []
    replace = Client.replace

    def first_only(client: Client, id_: str) -> InstanceDocument:
        asked.append(id_)
        if len(asked) > 1:
            raise UnreachableError(f"cannot replace {id_}: no connection")
        return replace(client, id_)

    monkeypatch.setattr(Client, "replace", first_only)

    result = run(served, "replace", *options, "llama-00001", "llama-00002", "tiny-00001")

    assert (1, ["llama-00001", "llama-00002"]) == (result.exit_code, asked)
    assert "llama-00001" in result.stdout
    assert "Error: cannot replace llama-00002: no connection\n" == result.stderr


def test_what_one_instance_refuses_is_no_part_of_the_json(served: Served) -> None:
    result = run(served, "replace", "--json", "nobody", "llama-00001", "llama-00002")

    assert 1 == result.exit_code
    assert ["llama-00001", "llama-00002"] == [one["id"] for one in json.loads(result.stdout)]


@pytest.mark.parametrize("command", ["show", "drain", "replace", "assign", "release"])
def test_without_an_instance_nothing_passes_for_done(served: Served, command: str) -> None:
    result = run(served, command)

    assert 2 == result.exit_code
    assert "Missing argument 'ID" in result.stderr


def test_an_id_with_odd_letters_is_sent_as_it_is(served: Served) -> None:
    result = run(served, "show", "a/../b?c#d é")

    assert 1 == result.exit_code
    assert "there is no instance 'a/../b?c#d é'" in result.stderr


def test_no_id_at_all_is_no_instance(served: Served) -> None:
    """A script's variable was empty."""
    result = run(served, "show", "")

    assert 1 == result.exit_code
    assert "there is no instance ' '" in result.stderr


def test_a_wrong_token_is_told_once(served: Served, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x" * 20)

    result = run(served, "replace", "a", "b", "--provisioner.token-file", str(other))

    assert 1 == result.exit_code
    assert 1 == result.stderr.count("this needs 'Authorization: Bearer TOKEN'")


def test_a_token_file_that_is_not_there_is_told_before_anything_is_sent(served: Served) -> None:
    result = run(served, "drain", "a", "--provisioner.token-file", "nowhere")

    assert 1 == result.exit_code
    assert "cannot drain a: cannot use the token file nowhere: No such file" in result.stderr
    assert "--provisioner.token-file" in result.stderr


def test_reads_need_no_token_file(served: Served) -> None:
    assert 0 == run(served, "list", "--provisioner.token-file", "nowhere").exit_code


def test_a_standby_leads_to_the_leader(served: Served, tmp_path: Path) -> None:
    """Both read one token file, as provisioners of one fleet do."""
    with Served(tmp_path, is_leading=False) as standby:
        standby.board.leader = served.url
        result = run(served, "drain", "llama-00001", "--provisioner.url", standby.url)

    assert (0, "llama-00001: draining, of ann\n") == (result.exit_code, result.stdout)


def test_without_a_provisioner_it_says_what_to_look_at(served: Served) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    result = run(served, "drain", "x", "--provisioner.url", url)

    assert 1 == result.exit_code
    assert f"Error: cannot drain x: {url}: no connection; see that a provisioner" in result.stderr


def test_several_provisioners_may_be_given(served: Served) -> None:
    port = free_port()
    urls = f"http://127.0.0.1:{port} {served.url}"

    result = run(served, "list", env={"OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": urls})

    assert 0 == result.exit_code


@pytest.mark.parametrize("words", [("list",), ("replace", "llama-00001")])
def test_a_provisioner_that_hangs_holds_nobody_up_where_there_is_another(
    served: Served, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with Served(tmp_path / "hangs") as hangs, hangs.hanging():
        urls = f"{hangs.url} {served.url}"
        began_s = time.monotonic()
        result = run(served, *words, env={"OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": urls})
        took_s = time.monotonic() - began_s

    assert 0 == result.exit_code, result.output
    assert "llama-00001" in result.stdout
    assert 3.0 <= took_s < 20.0


def test_a_process_that_is_stopped_holds_nobody_up_either(served: Served) -> None:
    """The kernel takes its connections all the same."""
    port = free_port()
    server = subprocess.Popen(
        (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        listening(port)
        server.send_signal(signal.SIGSTOP)
        urls = f"http://127.0.0.1:{port} {served.url}"
        result = run(
            served, "drain", "llama-00001", env={"OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": urls}
        )
    finally:
        server.kill()
        server.communicate()

    assert (0, "llama-00001: draining, of ann\n") == (result.exit_code, result.stdout)


def listening(port: int, within_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
    pytest.fail("it does not listen")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_a_provisioner_without_its_store_tells_is_said_to_be_old(
    served: Served, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    now, as_of_s = run(served, "list", *options), served.board.follower.as_of_s
    monkeypatch.setattr(served.board.follower, "as_of_s", as_of_s - 300.0)

    old = run(served, "list", *options)

    assert ("", 0) == (now.stderr, old.exit_code)
    assert re.fullmatch(
        rf"this is 3\d\d s old: the provisioner at {served.url} does not reach its store\n",
        old.stderr,
    )
    if options:
        assert now.stdout == old.stdout


def test_every_command_says_what_it_does() -> None:
    result = CliRunner().invoke(instances, ["--help"])

    for name in ("list", "show", "drain", "replace", "assign", "release"):
        assert name in result.stdout


# Words

DOCUMENT = InstanceDocument(
    id="a-00001",
    url="http://127.0.0.1:1",
    node="n1",
    model="m",
    engine="ollama",
    state=State.RUNNING,
    developer="ann",
    labels={},
    pool="a",
    port=1,
    phase=Phase.FAILED,
    since_s=1000.0,
    generation=3,
    workload="d",
    started_s=900.0,
    reason=Reason.EXITED,
    fault="no\nroom\x1b",
    n_failures=2,
    retry_at_s=1300.0,
    is_replace_asked=True,
    log="/var/log/a-00001.log",
    history=(HistoryLine(1000.0, "failed", "", 3),),
)


def test_everything_that_is_known_is_shown() -> None:
    assert """\
id             a-00001
url            http://127.0.0.1:1
phase          failed for 1m 30s
reason         exited
fault          no room
tried again    in 3m 30s
pool           a
node           n1
model          m
engine         ollama
developer      ann
generation     3, workload d
log            /var/log/a-00001.log on n1
healthy since  1970-01-01 00:15:00Z
failed starts  2
replacement    asked for
history
  1970-01-01 00:16:40Z  3  failed""" == show_text(DOCUMENT, now_s=1090.0)


def test_what_there_is_nothing_to_say_of_is_left_out() -> None:
    """It starts; its next try, which was due at this moment, is no news."""
    quiet = msgspec.structs.replace(
        DOCUMENT,
        phase=Phase.STARTING,
        started_s=0.0,
        reason=None,
        fault="",
        n_failures=0,
        retry_at_s=1090.0,
        is_replace_asked=False,
        developer="",
        log="",
        history=(),
    )

    assert """\
id          a-00001
url         http://127.0.0.1:1
phase       starting for 1m 30s
pool        a
node        n1
model       m
engine      ollama
generation  3, workload d""" == show_text(quiet, now_s=1090.0)


def test_a_long_note_is_cut_for_a_terminal_and_whole_for_a_search() -> None:
    plain = msgspec.structs.replace(DOCUMENT, reason=None, is_replace_asked=False)
    longest, longer = (msgspec.structs.replace(plain, fault="x" * n) for n in (60, 61))

    assert f" {'x' * 60}\n" in list_text([longest], now_s=1090.0, is_cut=True)
    assert f" {'x' * 60}…\n" in list_text([longer], now_s=1090.0, is_cut=True)
    assert f" {'x' * 61}\n" in list_text([longer], now_s=1090.0)


def test_a_note_stays_on_its_line() -> None:
    text = list_text([DOCUMENT], now_s=1090.0)

    assert "exited; replacement asked for; no room" in text
    assert "  1m 30s  " in text
    assert text.endswith("\n1 instance: 1 failed")


@pytest.mark.parametrize(
    ("age_s", "text"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (3600, "1h"),
        (86_400, "1d"),
        (90_061, "1d 1h"),
        (3661, "1h 1m"),
    ],
)
def test_an_age_has_its_two_largest_containers(age_s: float, text: str) -> None:
    assert text == age_text(age_s)
