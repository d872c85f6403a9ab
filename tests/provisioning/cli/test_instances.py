"""`ollama-fleet instances …` against a real API: what it prints where, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from provisioning.api.routes import HistoryLine, InstanceDocument, State
from provisioning.cli.listing import HEAD, list_text, show_text
from provisioning.client import Client, UnreachableError
from provisioning.model import Event, Phase, Reason
from tests.provisioning.api.board import instance
from tests.provisioning.api.served import Served
from tests.provisioning.cli.running import CTRL_C, on_terminal, run


def ids(text: str) -> list[str]:
    return [line.partition(":")[0] for line in text.splitlines()]


def test_instances_are_listed_as_a_table_and_as_json(served: Served) -> None:
    table = run(served, "instances", "list", "--pool", "llama")
    data = run(served, "instances", "list", "--json", "--phase=failed", "--phase=starting")

    assert 0 == table.exit_code, table.output
    head, first, *_, fourth, summary = table.stdout.splitlines()
    assert [*HEAD] == head.split()
    assert ["llama-00001", "running"] == first.split()[:2]
    assert ["n1", "llama3.1:8b", "ann", "1"] == first.split()[-4:]
    assert fourth.endswith("exited with status 1")
    assert "4 instances: 1 starting, 1 running, 1 draining, 1 failed" == summary
    assert ["llama-00002", "llama-00004"] == [one["id"] for one in json.loads(data.stdout)]


def test_a_list_without_instances_is_empty(served: Served) -> None:
    words = ("instances", "list", "--pool=tiny", "--phase=failed")

    assert (0, "no instances\n") == (run(served, *words).exit_code, run(served, *words).stdout)
    assert "[]\n" == run(served, *words, "--json").stdout


def test_a_name_that_no_instance_has_is_an_error_that_says_which_was_meant(
    served: Served,
) -> None:
    wanted = "Error: there is no pool 'lama' that has instances; did you mean llama?\n"
    for command in ("list", "list --json", "drain --yes", "replace --yes", "release --yes"):
        result = run(served, "instances", *command.split(), "--pool", "lama")
        assert (1, "", wanted) == (result.exit_code, result.stdout, result.stderr), command
    listed = run(served, "instances", "list", "--node=n9", "--model=llama3.1:7b", "--developer=an")
    assert [
        "Error: there is no developer 'an' that has instances; did you mean ann?",
        "there is no model 'llama3.1:7b' that has instances; did you mean llama3.1:8b?",
        "there is no node 'n9' that has instances",
    ] == listed.stderr.splitlines()


def test_a_list_is_sorted_by_a_column_and_reduced_to_ids(served: Served) -> None:
    served.put(instance(2, "tiny", phase_since_s=2000.0))

    def listed(*words: str) -> list[str]:
        return run(served, "instances", "list", "-q", *words).stdout.splitlines()

    assert ["llama-00004", "llama-00002"] == listed("--sort=phase")[:2]
    assert "tiny-00002" == listed("--sort=for")[0]
    assert "llama-00001" == listed("--sort", "developer")[0]
    assert "llama-00004" == listed("--sort=node")[-1]
    assert ["tiny-00001", "tiny-00002"] == listed("--pool=tiny")
    assert 2 == run(served, "instances", "list", "-q", "--json").exit_code


def test_a_list_has_the_address_of_each_instance(served: Served) -> None:
    assert "http://127.0.0.1:20501" in run(served, "instances", "list").stdout.splitlines()[1]


def test_a_terminal_shows_failed_instances_red_unless_colours_are_off(served: Served) -> None:
    red = "\x1b[31mllama-00004"

    assert red in on_terminal(served, ("instances", "list"))[1]
    assert red not in on_terminal(served, ("instances", "list"), env={"NO_COLOR": "1"})[1]
    assert "\x1b" not in run(served, "instances", "list").stdout
    assert "\x1b[31mfault " in on_terminal(served, ("instances", "show", "llama-00004"))[1]


def test_a_watched_list_follows_the_fleet_until_ctrl_c(served: Served) -> None:
    changed = instance(1, "tiny", phase=Phase.FAILED, fault="gone")

    def change(screen: bytes) -> None:
        if screen.count(b"6 instances:") == 1:
            served.put(changed)

    words = ("instances", "list", "--watch")
    status, screen = on_terminal(served, words, CTRL_C, change, question=b"gone")

    assert 130 == status, screen
    assert "no change was being sent" not in screen
    assert "--watch needs a terminal" in run(served, *words).stderr


def test_a_watched_list_has_as_many_lines_as_there_is_room() -> None:
    many = [msgspec.structs.replace(DOCUMENT, id=f"a-{n:05}") for n in range(9)]

    lines = list_text(many, now_s=1090.0, most=3).splitlines()

    assert ["… and 6 more", "9 instances: 9 failed"] == lines[-2:]
    assert 3 == sum(line.startswith("a-") for line in lines)


def test_only_a_terminal_cuts_a_long_note(served: Served) -> None:
    fault = f"{'no room ' * 10}cause"
    served.put(instance(4, phase=Phase.FAILED, fault=fault, n_failures=1))

    _, screen = on_terminal(served, ("instances", "list"))

    assert fault in run(served, "instances", "list").stdout
    assert "no room" in screen
    assert "cause" not in screen


def test_one_instance_is_shown_with_its_history(served: Served) -> None:
    words = run(served, "instances", "show", "llama-00004").stdout
    data = run(served, "instances", "show", "llama-00004", "--json").stdout

    assert "fault          exited with status 1\n" in words
    assert "history\n  1970-01-01 00:16:30Z  1  placed n1\n" in words
    assert "llama-00004" == json.loads(data)["id"]


def test_an_instance_is_assigned_and_released(served: Served) -> None:
    assigned = run(served, "instances", "assign", "llama-00002", "bob")
    released = run(served, "instances", "release", "llama-00002")

    assert "llama-00002: starting, developer bob\n" == assigned.stdout
    assert "llama-00002: starting\n" == released.stdout


@pytest.mark.parametrize(
    ("command", "filters", "expected"),
    [
        ("replace", ("--node=n2",), ["llama-00004: failed, replacement requested"]),
        (
            "drain",
            ("--phase=running", "--phase=draining"),
            [
                *("llama-00001: draining, developer ann", "llama-00003: draining"),
                "tiny-00001: draining",
            ],
        ),
        ("release", ("--pool=llama", "--phase=running"), ["llama-00001: running"]),
    ],
)
def test_filters_choose_instances_as_the_list_does(
    served: Served, command: str, filters: tuple[str, ...], expected: list[str]
) -> None:
    result = run(served, "instances", command, *filters, "--yes")

    assert (0, expected) == (result.exit_code, result.stdout.splitlines())


def test_without_a_terminal_nothing_chosen_by_filters_is_changed(served: Served) -> None:
    result = run(served, "instances", "drain", "--pool", "tiny")

    assert (1, "") == (result.exit_code, result.stdout)
    assert (
        "Error: this would drain 2 instances: 1 running, 1 stopping, and there is no terminal to "
        "ask on; give --yes\n"
    ) == result.stderr
    assert Phase.RUNNING is served.board.stored("tiny-00001").phase


@pytest.mark.parametrize(
    ("answer", "status", "phase"), [(b"y\n", 0, Phase.DRAINING), (b"n\n", 1, Phase.RUNNING)]
)
def test_a_terminal_asks_before_many_are_changed(
    served: Served, answer: bytes, status: int, phase: Phase
) -> None:
    words = ("instances", "drain", "--phase", "running")

    ended, screen = on_terminal(served, words, answer)

    assert status == ended, screen
    assert "drain 2 instances: 2 running. Go on? [y/N]" in screen
    assert {phase} == {served.board.stored(f"{pool}-00001").phase for pool in ("llama", "tiny")}


def test_a_change_needs_ids_or_filters_and_not_both(served: Served) -> None:
    both = run(served, "instances", "drain", "llama-00001", "--pool", "tiny", "--yes")
    assert 2 == both.exit_code
    assert "give IDs or filters such as --node, not both" in both.stderr
    for command in ("show", "drain", "replace", "assign", "release"):
        none = run(served, "instances", command)
        assert 2 == none.exit_code
        assert "Missing argument 'ID" in none.stderr
    nothing = run(served, "instances", "drain", "--pool", "tiny", "--phase", "failed", "--json")
    assert (1, "Error: no instance matches the filters\n") == (nothing.exit_code, nothing.stderr)


def test_an_instance_that_is_refused_does_not_stop_the_others(served: Served) -> None:
    drained = run(served, "instances", "drain", "--pool", "llama", "--yes")
    replaced = run(served, "instances", "replace", "--json", "nobody", "llama-00001", "tiny-00001")

    assert (1, ["llama-00001", "llama-00003"]) == (drained.exit_code, ids(drained.stdout))
    assert "llama-00004 is failed: only a running instance can be drained" in drained.stderr
    assert 1 == replaced.exit_code
    assert ["llama-00001", "tiny-00001"] == [one["id"] for one in json.loads(replaced.stdout)]
    assert "there is no instance 'nobody'" in replaced.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_is_done_is_printed_when_the_provisioner_goes_away(
    served: Served, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    tried: list[str] = []
    replace = Client.replace

    def first_only(client: Client, id_: str) -> InstanceDocument:
        tried.append(id_)
        if len(tried) > 1:
            raise UnreachableError(f"cannot replace {id_}: no connection")
        return replace(client, id_)

    monkeypatch.setattr(Client, "replace", first_only)

    result = run(served, "instances", "replace", *options, "llama-00001", "llama-00002", "x")

    assert (1, ["llama-00001", "llama-00002"]) == (result.exit_code, tried)
    assert "llama-00001" in result.stdout
    assert "Error: cannot replace llama-00002: no connection\n" == result.stderr


def test_a_wrong_token_is_reported_once_and_a_missing_file_by_its_option(
    served: Served, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("x" * 20)
    option = "--provisioner.token-file"

    wrong = run(served, "instances", "replace", "a", "b", option, other)
    missing = run(served, "instances", "drain", "a", option, "nowhere")
    read = run(served, "instances", "list", option, "nowhere")

    assert (1, 1, 0) == (wrong.exit_code, missing.exit_code, read.exit_code)
    assert 1 == wrong.stderr.count("this needs 'Authorization: Bearer TOKEN'")
    assert "cannot use the token file nowhere: No such file" in missing.stderr
    assert option in missing.stderr


# Text

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
    phase_since_s=1000.0,
    generation=3,
    workload="d",
    started=900.0,
    reason=Reason.EXITED,
    fault="no\nroom\x1b",
    n_failures=2,
    retry_at_s=1300.0,
    is_replace_asked=True,
    log="/var/log/a-00001.log",
    history=(HistoryLine(1000.0, "failed", "", 3),),
)


def test_all_facts_about_an_instance_are_shown() -> None:
    assert """\
id             a-00001
url            http://127.0.0.1:1
phase          failed for 1m 30s
reason         exited
fault          no room
next try       in 3m 30s
pool           a
node           n1
model          m
engine         ollama
developer      ann
generation     3, workload d
log            /var/log/a-00001.log on n1
healthy since  1970-01-01 00:15:00Z
failed starts  2
replacement    requested
history
  1970-01-01 00:16:40Z  3  failed""" == show_text(DOCUMENT, now_s=1090.0)


def test_a_fact_without_a_value_is_left_out() -> None:
    quiet = msgspec.structs.replace(
        DOCUMENT,
        phase=Phase.STARTING,
        started=None,
        reason=None,
        fault="",
        log="",
        n_failures=0,
        retry_at_s=1090.0,
        is_replace_asked=False,
        developer="",
        history=(),
    )

    names = [line.split()[0] for line in show_text(quiet, now_s=1090.0).splitlines()]

    assert ["id", "url", "phase", "pool", "node", "model", "engine", "generation"] == names


def test_a_note_stays_on_its_line_and_is_cut_at_sixty_characters() -> None:
    plain = msgspec.structs.replace(DOCUMENT, reason=None, is_replace_asked=False)
    longest, longer = (msgspec.structs.replace(plain, fault="x" * n) for n in (60, 61))

    text = list_text([DOCUMENT], now_s=1090.0)

    assert "exited; replacement requested; no room" in text
    assert text.endswith("\n1 instance: 1 failed")
    assert f" {'x' * 60}\n" in list_text([longest], now_s=1090.0, is_cut=True)
    assert f" {'x' * 60}…\n" in list_text([longer], now_s=1090.0, is_cut=True)
    assert f" {'x' * 61}\n" in list_text([longer], now_s=1090.0)


LATER = Event(2000.0, "failed", "no\nroom", 2)


def test_events_are_listed_in_their_order_with_instance_and_cause(served: Served) -> None:
    served.put(instance(1, "tiny", history=(LATER,)))

    words = run(served, "instances", "events").stdout.splitlines()
    data = json.loads(run(served, "instances", "events", "--pool=tiny", "--json").stdout)

    assert "1970-01-01 00:33:20Z  tiny-00001  failed no room" == words[-1]
    assert sorted(words) == words
    assert [("tiny-00002", 990.0), ("tiny-00002", 1000.0), ("tiny-00001", 2000.0)] == [
        (one["id"], one["at_s"]) for one in data
    ]
    assert 1 == run(served, "instances", "events", "--pool=tny").exit_code


def test_followed_events_come_once_each_until_ctrl_c(served: Served) -> None:
    """The second one is older than the first: it was written later."""
    old = instance(2, history=(*instance(2).history, Event(1999.0, "left", "late", 2)))

    def happen(screen: bytes) -> None:
        if b"no room" in screen:
            served.put(old)
        elif b"tiny-00002" in screen:
            served.put(instance(1, "tiny", history=(LATER,)))

    words = ("instances", "events", "--follow", "--node=n1")
    status, screen = on_terminal(served, words, CTRL_C, happen, question=b"left late")

    assert 130 == status, screen
    assert [1, 1, 1] == [screen.count(text) for text in ("no room", "left late", "llama-00003  st")]
