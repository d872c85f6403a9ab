"""`ollama-fleet provisioner …` against a real API: what it asks, prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ollama_fleet import main
from provisioning.fleet.api.forms import Details
from provisioning.fleet.cli.awaiting import wait_for
from provisioning.fleet.client.client import Client
from provisioning.fleet.client.errors import UnreachableError
from provisioning.fleet.client.transport import Transport
from provisioning.fleet.model import Instance, Phase
from provisioning.fleet.spec import decode_fleet
from tests.ports import free_ports
from tests.provisioning.fleet.api.board import FLEET, instance
from tests.provisioning.fleet.api.served import Served


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


def test_what_is_in_force_is_shown_whole(served: Served) -> None:
    result = run(served, "show")

    assert 0 == result.exit_code, result.output
    assert decode_fleet(result.stdout).pools
    assert len(result.stdout.splitlines()) > 10
    assert 1 == len(run(served, "show", "--json").stdout.splitlines())


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

    monkeypatch.setattr("provisioning.fleet.cli.awaiting.time.sleep", sleep)

    result = run(served, "apply", "--yes", spec(tmp_path, 0, name=fleet_name(served)))

    assert 0 == result.exit_code, result.output
    assert [
        "0 of 0 instances ready, 1 failed, 6 to be removed",
        "0 of 0 instances ready",
    ] == result.stderr.splitlines()


def test_applying_ends_when_what_is_missing_cannot_start(served: Served, tmp_path: Path) -> None:
    """Each of them has failed for good, so waiting would never end."""
    path = spec(tmp_path, 2, name=fleet_name(served))
    empty(served)
    for number in (1, 2):
        fault = f"no\nprogram {number}"
        put(served, instance(number, "web", phase=Phase.FAILED, fault=fault, n_failures=1))

    result = run(served, "apply", "--yes", path)

    assert 1 == result.exit_code
    assert "0 of 2 instances ready, 2 failed, and what is missing cannot start:" in result.stderr
    assert ["  web-00001: no program 1", "  web-00002: no program 2"] == (
        result.stderr.splitlines()[-2:]
    )


def test_waiting_ends_with_its_time(served: Served, tmp_path: Path) -> None:
    path = spec(tmp_path, 2, name=fleet_name(served))

    result = run(served, "apply", "--yes", "--timeout", "0.001", path)

    assert 1 == result.exit_code
    assert "0 of 2 instances ready" in result.stderr
    assert "after 0.001 s; the provisioner goes on" in result.stderr
    assert {"web": 2} == count_in_force(served)


def put(served: Served, changed: Instance) -> None:
    asyncio.run_coroutine_threadsafe(served.board.put(changed), served._loop).result(10)


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
    """Run a command on a terminal, where a person answers its first question.

    Args:
        served: What the command speaks with.
        words: After `ollama-fleet provisioner`.
        answer: To the question.
        seen: Is shown the whole screen whenever there is more on it.
    """
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        (sys.executable, "-P", "-m", "ollama_fleet", "provisioner", *words),
        env={**os.environ, **environment(served)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_with_terminal,  # noqa: PLW1509 - this process has one thread more, which waits
    ) as process:
        os.close(theirs)
        screen = b""
        with suppress(OSError):  # the other side is closed
            while piece := os.read(ours, 4096):
                screen += piece
                seen(screen)
                if b"[y/N]" in piece:
                    os.write(ours, answer)
    os.close(ours)
    return process.returncode, screen.decode()


def _with_terminal() -> None:
    """Make the terminal the session's own, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


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
    (port,) = free_ports(1)
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

    monkeypatch.setattr("provisioning.fleet.cli.awaiting.time.sleep", sleep)
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

    monkeypatch.setattr("provisioning.fleet.cli.awaiting.time.sleep", sleep)

    result = run(served, "apply", "--yes", spec(tmp_path, 2, name=fleet_name(served)))

    assert 130 == result.exit_code
    assert "stopped waiting; the provisioner goes on" in result.stderr
    assert {"web": 2} == count_in_force(served)


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

    monkeypatch.setattr("provisioning.fleet.client.client.Client.instances", gone)

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
    monkeypatch.setattr("provisioning.fleet.cli.awaiting.time.sleep", lambda _: None)

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

    monkeypatch.setattr("provisioning.fleet.client.client.Client.spec", nothing)

    result = run(served, "show")

    assert 1 == result.exit_code
    assert "put one there with: ollama-fleet provisioner apply SPEC" in result.stderr
