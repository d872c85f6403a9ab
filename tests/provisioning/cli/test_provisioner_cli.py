"""`ollama-fleet provisioner …` against a real API: what it asks, prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import requests
from click.testing import CliRunner, Result

from ollama_fleet import main
from provisioning.api.routes import Details
from provisioning.cli.common import bar, wait_for
from provisioning.client.client import Client, SpecInForce
from provisioning.client.errors import UnreachableError
from provisioning.client.progress import Progress
from provisioning.client.transport import Transport
from provisioning.model import NodeReport, Phase
from provisioning.spec import load_fleet
from provisioning.workload import workload_digest
from tests.ports import free_port
from tests.provisioning.api.board import FLEET, instance
from tests.provisioning.api.served import Served
from tests.provisioning.cli import terminal


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def environment(served: Served) -> dict[str, str]:
    return {
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": served.url,
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_TOKEN_FILE": str(served.board.tokens.path),
    }


def run(served: Served, *words: str | Path) -> Result:
    return CliRunner().invoke(main, ["provisioner", *map(str, words)], env=environment(served))


def spec(folder: Path, count: int = 1, name: str = "lab") -> Path:
    """Write a specification of a pool that needs nothing but a simulated node."""
    document = {
        "name": name,
        "nodes": [{"name": "n1", "runtime": "simulated", "cpus": 8, "memory": "64GiB"}],
        "pools": [
            {"name": "web", "model": "toy", "engine": "fleet", "count": count}
            | {"cpus": 0.001, "memory": "1MiB"}
        ],
    }
    path = folder / "fleet.yml"
    path.write_text(json.dumps(document))
    return path


def count_in_force(served: Served) -> Mapping[str, int]:
    shown = run(served, "show", "--json")
    assert 0 == shown.exit_code, shown.output
    return {pool["name"]: pool["count"] for pool in json.loads(shown.stdout)["pools"]}


def fleet_name(served: Served) -> str:
    name: str = json.loads(run(served, "show", "--json").stdout)["name"]
    return name


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_is_in_force_is_shown_as_a_file_that_changes_nothing(
    served: Served, tmp_path: Path, form: str
) -> None:
    shown = run(served, "show", *(["--json"] if form == "json" else []))
    path = tmp_path / f"shown.{form}"
    path.write_text(shown.stdout)

    checked, planned = run(served, "check", path), run(served, "plan", path)

    assert (0, 0, 0) == (shown.exit_code, checked.exit_code, planned.exit_code), checked.output
    assert not [line for line in planned.stdout.splitlines() if "→" in line], planned.stdout
    assert FLEET == load_fleet(path)
    assert (form == "json") == (1 == len(shown.stdout.splitlines()))


def test_a_plan_changes_nothing(served: Served, tmp_path: Path) -> None:
    before = count_in_force(served)
    path = spec(tmp_path, name=fleet_name(served))

    words, data = run(served, "plan", path), run(served, "plan", "--json", path)

    assert (0, 0) == (words.exit_code, data.exit_code), words.output + data.output
    assert "web" in words.stdout
    assert json.loads(data.stdout)["base_version"] >= 1
    assert before == count_in_force(served)


def test_a_specification_is_applied_without_waiting_or_asking(
    served: Served, tmp_path: Path
) -> None:
    """Standard input is no terminal: nobody can be asked."""
    path = spec(tmp_path, 2, name=fleet_name(served))

    result = run(served, "apply", "--yes", "--no-wait", path)

    assert 0 == result.exit_code, result.output
    assert {"web": 2} == count_in_force(served)
    assert "ready" not in result.stderr


def test_instances_are_not_ended_where_nobody_can_be_asked(served: Served, tmp_path: Path) -> None:
    before = count_in_force(served)

    result = run(served, "apply", "--no-wait", spec(tmp_path, 2, name=fleet_name(served)))

    assert 1 == result.exit_code
    assert "say so with --yes" in result.stderr
    assert "removed" in result.stdout
    assert before == count_in_force(served)


def test_what_ends_no_instance_is_not_asked_about(served: Served, tmp_path: Path) -> None:
    empty(served)

    ended, screen = on_terminal(
        served, ("apply", "--no-wait", str(spec(tmp_path, 2, name=fleet_name(served)))), b""
    )

    assert 0 == ended, screen
    assert "[y/N]" not in screen
    assert {"web": 2} == count_in_force(served)


def test_progress_is_told_where_there_is_no_terminal(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line whenever it differs, and no more."""
    n_asleep = 0

    def sleep(_: float) -> None:
        nonlocal n_asleep
        n_asleep += 1
        if n_asleep == 3:
            empty(served)

    monkeypatch.setattr("provisioning.cli.common.time.sleep", sleep)

    result = run(served, "apply", "--yes", spec(tmp_path, 0, name=fleet_name(served)))

    assert 0 == result.exit_code, result.output
    assert [
        "0 of 0 instances ready, 1 failed, 6 to be removed",
        "0 of 0 instances ready",
    ] == result.stderr.splitlines()


def test_what_is_too_much_on_a_silent_node_is_told_but_not_awaited(
    served: Served, tmp_path: Path
) -> None:
    empty(served)
    served.put(instance(1, "web", phase=Phase.DRAINING, node="n1"))
    served.board.reports = {"n1": NodeReport("n1", 5.0, (), "cannot connect")}

    result = run(served, "apply", "--yes", spec(tmp_path, 0, name=fleet_name(served)))

    assert 0 == result.exit_code, result.output
    (line,) = result.stderr.splitlines()
    assert "0 of 0 instances ready, 1 to be removed once heard of n1" == line


def test_applying_ends_when_what_is_missing_cannot_start(served: Served, tmp_path: Path) -> None:
    """Each of them has failed for good, so waiting would never end."""
    path = spec(tmp_path, 2, name=fleet_name(served))
    empty(served)
    put_failed(served, path)

    result = run(served, "apply", "--yes", path)

    assert 1 == result.exit_code
    assert "0 of 2 instances ready, 2 failed, and what is missing cannot start:" in result.stderr
    assert ["  web-00001: no program 1", "  web-00002: no program 2"] == (
        result.stderr.splitlines()[-2:]
    )


def put_failed(served: Served, path: Path, **changes: Any) -> None:
    """Put instances that cannot start as a specification wants them."""
    (pool,) = load_fleet(path).pools
    wanted = {"workload": workload_digest(pool.workload), **changes}
    for number in (1, 2):
        failed = {"phase": Phase.FAILED, "fault": f"no\nprogram {number}", "n_failures": 1}
        served.put(instance(number, "web", **{**failed, **wanted}))


def test_the_fix_of_what_could_not_start_is_awaited(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have failed with what was in force before, and that is no fault of what is now."""
    path = spec(tmp_path, 2, name=fleet_name(served))
    empty(served)
    put_failed(served, path, workload="before")
    asleep: list[float] = []

    def sleep(seconds: float) -> None:
        asleep.append(seconds)
        if len(asleep) == 3:
            put_failed(served, path, phase=Phase.RUNNING, fault="", n_failures=0)

    monkeypatch.setattr("provisioning.cli.common.time.sleep", sleep)
    result = run(served, "apply", "--yes", path)

    assert 0 == result.exit_code, result.output
    assert "2 of 2 instances ready" in result.stderr


def test_waiting_ends_with_its_time(served: Served, tmp_path: Path) -> None:
    path = spec(tmp_path, 2, name=fleet_name(served))

    result = run(served, "apply", "--yes", "--timeout", "0.001", path)

    assert 1 == result.exit_code
    assert "0 of 2 instances ready" in result.stderr
    assert "after 0.001 s; the provisioner goes on" in result.stderr
    assert {"web": 2} == count_in_force(served)


@pytest.mark.parametrize(
    ("options", "answer", "status", "is_asked", "is_applied"),
    [
        ((), b"y\n", 0, True, True),
        ((), b"n\n", 1, True, False),
        ((), b"\x03", 1, True, False),
        (("--yes",), b"", 0, False, True),
    ],
)
def test_a_person_is_asked_before_anything_changes(
    served: Served,
    tmp_path: Path,
    options: tuple[str, ...],
    answer: bytes,
    status: int,
    is_asked: bool,
    is_applied: bool,
) -> None:
    before = count_in_force(served)
    path = spec(tmp_path, 2, name=fleet_name(served))

    ended, screen = on_terminal(served, ("apply", "--no-wait", *options, str(path)), answer)

    assert status == ended, screen
    assert is_asked == ("Put this in force? [y/N]" in screen)
    assert ({"web": 2} if is_applied else before) == count_in_force(served)


def on_terminal(
    served: Served,
    words: tuple[str, ...],
    answer: bytes,
    seen: Callable[[bytes], object] = lambda _: None,
) -> tuple[int, str]:
    return terminal.on_terminal(("provisioner", *words), environment(served), answer, seen)


def test_ctrl_c_is_an_answer_though_it_is_ignored_here(served: Served, tmp_path: Path) -> None:
    """As it is by all that a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        path = spec(tmp_path, 2, name=fleet_name(served))
        ended, screen = on_terminal(served, ("apply", "--no-wait", str(path)), b"\x03")
    finally:
        signal.signal(signal.SIGINT, before)

    assert 1 == ended, screen
    assert "Aborted!" in screen


def test_a_command_that_does_not_end_fails_the_test(served: Served, tmp_path: Path) -> None:
    path = spec(tmp_path, 2, name=fleet_name(served))
    words = ("provisioner", "apply", "--no-wait", str(path))

    with pytest.raises(pytest.fail.Exception, match="it does not end; on the screen: "):
        terminal.on_terminal(words, environment(served), b"", within_s=3.0)


def test_a_pool_is_scaled_and_nothing_else(served: Served) -> None:
    before = count_in_force(served)

    result = run(served, "scale", "llama", "5", "--no-wait")

    assert 0 == result.exit_code, result.output
    assert re.search(r"llama +changed", result.stdout)
    assert {**before, "llama": 5} == count_in_force(served)


def test_scaling_waits_until_all_is_ready(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    empty(served)
    asleep: list[float] = []

    def sleep(seconds: float) -> None:
        asleep.append(seconds)
        if len(asleep) == 2:
            for pool, number in (("llama", 1), ("tiny", 1), ("tiny", 2)):
                served.put(instance(number, pool))

    monkeypatch.setattr("provisioning.cli.common.time.sleep", sleep)
    result = run(served, "scale", "llama", "1", "--timeout", "20")

    assert 0 == result.exit_code, result.output
    assert [1.0, 1.0] == asleep
    assert result.stderr.endswith("3 of 3 instances ready\n")


def test_instances_are_not_ended_by_scaling_where_nobody_can_be_asked(served: Served) -> None:
    before = count_in_force(served)

    refused = run(served, "scale", "llama", "1", "--no-wait")
    after = count_in_force(served)
    done = run(served, "scale", "llama", "1", "--no-wait", "--yes", "--json")

    assert (1, before) == (refused.exit_code, after)
    assert "this ends instances, and nobody can be asked" in refused.stderr
    assert (0, {**before, "llama": 1}) == (done.exit_code, count_in_force(served))
    assert 3 == json.loads(done.stdout)["pools"][0]["n_removed"]


def in_between(monkeypatch: pytest.MonkeyPatch, after: str, change: Callable[[], object]) -> None:
    """Let something happen just after the first call of a Client's method."""
    called = getattr(Client, after)

    def then_changed(self: Client, *arguments: Any) -> Any:
        monkeypatch.setattr(Client, after, called)
        answer = called(self, *arguments)
        change()
        return answer

    monkeypatch.setattr(Client, after, then_changed)


def test_what_was_planned_for_another_specification_is_not_scaled(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else scales while the question is thought over: eight would become five."""
    in_between(monkeypatch, "plan", lambda: run(served, "scale", "llama", "8", "--no-wait"))

    result = run(served, "scale", "llama", "5", "--no-wait")

    assert 1 == result.exit_code
    assert "of the specification is in force, not " in result.stderr
    assert {"llama": 8, "tiny": 2} == count_in_force(served)


def test_a_plan_against_another_specification_than_was_read_is_not_agreed_upon(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_between(monkeypatch, "spec", lambda: run(served, "scale", "llama", "8", "--no-wait"))

    result = run(served, "scale", "llama", "5", "--no-wait", "--yes")

    assert (1, "") == (result.exit_code, result.stdout)
    assert re.search(r'against version "\d+" of the spec.*, and "\d+" was read', result.stderr)
    assert {"llama": 8, "tiny": 2} == count_in_force(served)


def test_a_tag_that_a_proxy_has_weakened_still_names_its_version(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Client.spec

    def weak(self: Client) -> SpecInForce | None:
        spec = read(self)
        return spec and spec._replace(etag=f"W/{spec.etag}")

    monkeypatch.setattr(Client, "spec", weak)

    assert 0 == run(served, "scale", "llama", "5", "--no-wait").exit_code
    assert {"llama": 5, "tiny": 2} == count_in_force(served)


def test_scaling_waits_for_what_was_scaled_whatever_is_read_afterwards(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby that is cut off from the store still tells the former specification."""
    empty(served)
    for pool, numbers in (("llama", (1, 2, 3, 4)), ("tiny", (1, 2))):
        for number in numbers:
            served.put(instance(number, pool))
    with Transport([served.url], lambda: served.token) as transport:
        former = Client(transport).spec()
    monkeypatch.setattr(Client, "spec", lambda _: former)

    result = run(served, "scale", "llama", "5", "--timeout", "0.001")

    assert 1 == result.exit_code
    assert "6 of 7 instances ready after 0.001 s" in result.stderr


@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_what_drops_a_node_that_is_in_use_is_refused_though_its_instances_may_move_away(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Otherwise nobody would have been asked about what is applied then."""
    served.put(instance(9, node="n2"))
    path = spec(tmp_path, 2, name=fleet_name(served))
    in_between(monkeypatch, "plan", lambda: empty(served))

    result = run(served, "apply", "--no-wait", *options, path)

    assert 1 == result.exit_code
    assert "Error: cannot drop nodes that hold instances and are not cordoned: n2" in result.stderr
    assert "n2 (holds 1 instance)" in result.stdout
    assert {"llama": 4, "tiny": 2} == count_in_force(served)


def test_scaling_what_is_not_there_says_what_is(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown, wrong = run(served, "scale", "lama", "3"), run(served, "scale", "llama", "x")
    monkeypatch.setattr(Client, "spec", lambda _: None)
    nothing = run(served, "scale", "llama", "3")

    assert (1, 2, 1) == (unknown.exit_code, wrong.exit_code, nothing.exit_code)
    assert "there is no pool 'lama'; there are llama, tiny" in unknown.stderr
    assert "no specification is in force" in nothing.stderr


def test_another_fleets_specification_is_refused(served: Served, tmp_path: Path) -> None:
    before = count_in_force(served)

    result = run(served, "apply", "--no-wait", spec(tmp_path, name="other"))

    assert 1 == result.exit_code
    assert "keeps fleet lab, and the specification is of fleet other" in result.stderr
    assert "" == result.stdout
    assert before == count_in_force(served)


@pytest.mark.parametrize("command", ["plan", "apply", "check"])
def test_problems_of_a_specification_are_told_with_their_places(
    served: Served, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "bad.yml"
    path.write_text("name: lab\nnodes: []\npools: [{name: web, model: toy, cout: 3}]\n")
    before = count_in_force(served)

    result = run(served, command, path)

    assert 1 == result.exit_code
    assert re.search(r"problems? in .*bad\.yml", result.stderr)
    assert "did you mean count?" in result.stderr
    assert before == count_in_force(served)


def test_a_file_that_is_not_there_is_a_wrong_option(served: Served) -> None:
    for command in ("plan", "apply", "check"):
        result = run(served, command, "nowhere.yml")
        assert 2 == result.exit_code
        assert "'nowhere.yml' does not exist" in result.stderr


def test_a_check_counts_what_is_asked_for(served: Served, tmp_path: Path) -> None:
    result = run(served, "check", spec(tmp_path, 1_234))

    assert 0 == result.exit_code, result.output
    assert "fleet lab: 1,234 instances" in result.stderr
    assert "" == result.stdout


def test_a_provisioner_that_is_not_there_is_said_with_what_helps(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "token").write_text("t" * 16)
    options = (f"--provisioner.url={url}", f"--provisioner.token-file={tmp_path / 'token'}")

    result = CliRunner().invoke(main, ["provisioner", "show", *options])

    assert 1 == result.exit_code
    assert f"{url}: no connection" in result.stderr
    assert "--provisioner.url is right" in result.stderr


def test_applying_ends_when_all_is_ready(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wanted any more, and somebody removes what is there."""
    path = spec(tmp_path, 0, name=fleet_name(served))
    asleep: list[float] = []

    def sleep(seconds: float) -> None:
        asleep.append(seconds)
        if len(asleep) == 3:
            empty(served)

    monkeypatch.setattr("provisioning.cli.common.time.sleep", sleep)
    result = run(served, "apply", "--yes", path)

    assert 0 == result.exit_code, result.output
    assert [1.0, 1.0, 1.0] == asleep[:3]
    assert result.stderr.endswith("0 of 0 instances ready\n")


def empty(served: Served) -> None:
    """Remove every record, as a leader would."""

    async def remove() -> None:
        for id_ in tuple((await served.board.store.load()).stored):
            await served.board.delete(id_)

    asyncio.run_coroutine_threadsafe(remove(), served._loop).result(10)


def test_ctrl_c_while_waiting_stops_the_waiting(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("provisioning.cli.common.time.sleep", sleep)

    result = run(served, "apply", "--yes", spec(tmp_path, 2, name=fleet_name(served)))

    assert 130 == result.exit_code
    assert "stopped waiting; the provisioner goes on" in result.stderr
    assert {"web": 2} == count_in_force(served)


@pytest.mark.parametrize(
    ("path", "told", "is_applied"),
    [
        ("/plan", "\nstopped; no change was on its way\n", False),
        (
            "/spec",
            "\nstopped while a change was on its way: whether it was made cannot be told",
            True,
        ),
    ],
)
def test_ctrl_c_while_sending_says_whether_anything_may_have_been_put_in_force(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    told: str,
    *,
    is_applied: bool,
) -> None:
    """It comes just before the answer."""
    before = count_in_force(served)
    send = requests.Session.send

    def interrupted(
        session: requests.Session, request: requests.PreparedRequest, **how: Any
    ) -> Any:
        answer = send(session, request, **how)
        if request.method != "GET" and request.path_url == path:
            answer.close()
            raise KeyboardInterrupt
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(requests.Session, "send", interrupted)
        result = run(served, "apply", "--yes", spec(tmp_path, 2, name=fleet_name(served)))

    assert 130 == result.exit_code
    assert told in result.stderr
    assert ({"web": 2} if is_applied else before) == count_in_force(served)


LONG = Progress(n_wanted=10_000, n_ready=9_998, n_failed=12, n_surplus=3)
LONGEST = replace(LONG, n_held_up=7, silent=tuple(f"rack1-node-{n:03}" for n in range(9)))


@pytest.mark.parametrize("progress", [LONG, LONGEST, replace(LONG, n_failed=0, n_surplus=0)])
@pytest.mark.parametrize("n_columns", [20, 60, 72, 80, 92, 93, 200])
def test_the_bar_never_wraps(progress: Progress, n_columns: int) -> None:
    assert len(bar(progress, n_columns)) < n_columns


@pytest.mark.parametrize(
    ("n_columns", "expected"),
    [
        (200, f"[{'#' * 29} ] {LONG}"),
        (80, f"[{'#' * 16} ] {LONG}"),
        (73, f"[{'#' * 9} ] {LONG}"),
        (72, str(LONG)),
        (60, str(LONG)),
        (59, f"{str(LONG)[:57]}…"),
    ],
)
def test_the_bar_gives_way_before_the_words_do(n_columns: int, expected: str) -> None:
    assert expected == bar(LONG, n_columns)


def test_a_person_is_told_that_a_change_waits_for_a_leader(served: Served, tmp_path: Path) -> None:
    served.board.is_leading, served.board.leader = False, ""

    def lead(screen: bytes) -> None:
        served.board.is_leading = b"waits" in screen

    path = str(spec(tmp_path, 2, name="lab"))
    ended, screen = on_terminal(served, ("apply", "--no-wait", "--yes", path), b"", lead)

    assert (0, 1) == (ended, screen.count("waits for a provisioner to lead\r\n")), screen
    assert {"web": 2} == count_in_force(served)


def test_whoever_waits_when_the_provisioner_goes_away_knows_what_is_in_force(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise UnreachableError("cannot list instances: no connection")

    monkeypatch.setattr("provisioning.client.client.Client.instances", gone)

    result = run(served, "apply", "--yes", spec(tmp_path, 2, name=fleet_name(served)))

    assert 1 == result.exit_code
    assert result.stderr.endswith(
        "Error: the specification is in force, but cannot list instances: no connection\n"
    )
    assert {"web": 2} == count_in_force(served)


def test_an_error_does_not_stand_behind_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The provisioner goes away after the first look."""
    looks: Iterator[list[Details]] = iter([[]])

    class Leaving(Client):
        def instances(self, filters: object = None) -> list[Details]:
            try:
                return next(looks)
            except StopIteration:
                raise UnreachableError("cannot list instances") from None

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("provisioning.cli.common.time.sleep", lambda _: None)

    with Transport(["http://one"], lambda: "") as transport:
        with pytest.raises(click.ClickException, match="is in force, but cannot list instances"):
            wait_for(Leaving(transport), FLEET, 60.0)

    assert capsys.readouterr().err.endswith("0 of 6 instances ready\r\x1b[K")


@pytest.mark.parametrize("group", ["provisioner", "instances"])
def test_every_command_and_every_option_says_what_it_does(group: str) -> None:
    commands = main.get_command(click.Context(main), group)
    assert isinstance(commands, click.Group)
    listed = CliRunner().invoke(main, [group, "--help"]).stdout.partition("Commands:")[2]

    assert "..." not in listed
    for name, command in commands.commands.items():
        assert name in listed
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert [] == [one.name for one in options if not one.help]


def test_a_provisioner_without_a_specification_says_how_to_get_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_: Any) -> None:
        return None

    monkeypatch.setattr("provisioning.client.client.Client.spec", nothing)

    result = run(served, "show")

    assert 1 == result.exit_code
    assert "put one there with: ollama-fleet provisioner apply SPEC" in result.stderr
