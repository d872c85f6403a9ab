"""`ollama-fleet provisioner …` against a real API, and the options of `run`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from ollama_fleet.cli import main
from provisioning.api.routes import NodeDocument
from provisioning.app import Settings
from provisioning.cli.provisioner import nodes_text
from provisioning.cli.settings import OPTIONS, run_options, settings_of
from provisioning.client import Client
from provisioning.model import ContainerState, NodeReport, ObservedContainer
from provisioning.spec.document import load_fleet
from provisioning.state import Orphan
from tests.provisioning.api.board import FLEET, instance
from tests.provisioning.api.served import Served
from tests.provisioning.cli.running import on_terminal, run, spec


def counts(served: Served) -> Mapping[str, int]:
    """Return the count of each pool of the active specification."""
    shown = run(served, "provisioner", "show", "--json")
    assert 0 == shown.exit_code, shown.output
    return {pool["name"]: pool["count"] for pool in json.loads(shown.stdout)["pools"]}


BEFORE = {"llama": 4, "tiny": 2}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_active_specification_is_shown_as_a_file_that_changes_nothing(
    served: Served, tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "shown"
    path.write_text(run(served, "provisioner", "show", *options).stdout)

    checked = run(served, "provisioner", "check", path)
    planned = run(served, "provisioner", "plan", path)

    assert (0, 0) == (checked.exit_code, planned.exit_code), checked.output
    assert "→" not in planned.stdout
    assert FLEET == load_fleet(path)


def test_a_plan_changes_nothing(served: Served, tmp_path: Path) -> None:
    words = run(served, "provisioner", "plan", spec(tmp_path))
    data = run(served, "provisioner", "plan", "--json", spec(tmp_path))

    assert "web" in words.stdout
    assert json.loads(data.stdout)["base_version"] >= 1
    assert BEFORE == counts(served)


def test_without_a_terminal_apply_and_scale_stop_instances_only_with_yes(
    served: Served, tmp_path: Path
) -> None:
    scale = ("provisioner", "scale", "llama", "1", "--no-wait")
    refused = run(served, *scale), run(served, "provisioner", "apply", spec(tmp_path, 2))
    unchanged = counts(served)
    scaled = run(served, *scale, "--yes", "--json")
    applied = run(served, "provisioner", "apply", "--no-wait", "--yes", spec(tmp_path, 2))

    assert [1, 1] == [one.exit_code for one in refused]
    assert {"Error: this stops instances, and there is no terminal to ask on; give --yes\n"} == {
        one.stderr for one in refused
    }
    assert BEFORE == unchanged
    assert (0, 0) == (scaled.exit_code, applied.exit_code)
    assert 3 == json.loads(scaled.stdout)["pools"][0]["n_removed"]
    assert {"web": 2} == counts(served)


@pytest.mark.parametrize(
    ("answer", "status", "is_applied"),
    [(b"y\n", 0, True), (b"n\n", 1, False), (b"\n", 1, False), (b"\x03", -2, False)],
)
def test_a_terminal_asks_before_instances_are_stopped(
    served: Served, tmp_path: Path, answer: bytes, status: int, *, is_applied: bool
) -> None:
    words = ("provisioner", "apply", "--no-wait", str(spec(tmp_path, 2)))

    ended, screen = on_terminal(served, words, answer)

    assert status == ended, screen
    assert "Apply this? [y/N]" in screen
    assert ({"web": 2} if is_applied else BEFORE) == counts(served)


def test_a_pool_is_scaled_and_nothing_else(served: Served) -> None:
    """It stops no instance, so nobody is asked."""
    ended, screen = on_terminal(served, ("provisioner", "scale", "llama", "5", "--no-wait"))

    assert 0 == ended, screen
    assert "[y/N]" not in screen
    assert re.search(r"llama +changed", screen)
    assert {**BEFORE, "llama": 5} == counts(served)


def test_scaling_what_does_not_exist_lists_what_does(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = run(served, "provisioner", "scale", "lama", "3")
    monkeypatch.setattr(Client, "spec", lambda _: None)
    nothing = run(served, "provisioner", "scale", "llama", "3")

    assert (1, 1) == (unknown.exit_code, nothing.exit_code)
    assert "there is no pool 'lama'; there are llama, tiny" in unknown.stderr
    assert "apply one: ollama-fleet provisioner apply SPEC" in nothing.stderr


@pytest.mark.parametrize(
    ("after", "text"),
    [("plan", "of the specification is "), ("spec", 'not the "1" that was read: it has changed')],
)
def test_a_specification_that_changes_meanwhile_is_not_scaled(
    served: Served, monkeypatch: pytest.MonkeyPatch, after: str, text: str
) -> None:
    """Somebody else scales before the answer: eight would become five."""
    in_between(
        monkeypatch, after, lambda: run(served, "provisioner", "scale", "llama", "8", "--no-wait")
    )

    result = run(served, "provisioner", "scale", "llama", "5", "--no-wait", "--yes")

    assert 1 == result.exit_code
    assert text in result.stderr
    assert {"llama": 8, "tiny": 2} == counts(served)


def in_between(monkeypatch: pytest.MonkeyPatch, after: str, change: Callable[[], object]) -> None:
    """Let something happen just after the first call of a Client's method."""
    called = getattr(Client, after)

    def then_changed(self: Client, *arguments: Any) -> Any:
        monkeypatch.setattr(Client, after, called)
        answer = called(self, *arguments)
        change()
        return answer

    monkeypatch.setattr(Client, after, then_changed)


def test_a_node_in_use_is_not_dropped_even_with_yes(served: Served, tmp_path: Path) -> None:
    served.put(instance(9, node="n2"))

    result = run(served, "provisioner", "apply", "--no-wait", "--yes", spec(tmp_path, 2))

    assert 1 == result.exit_code
    assert "n2 (holds 1 instance)" in result.stdout
    assert "cannot drop nodes that hold instances" in result.stderr
    assert "cannot drop" not in result.stdout, "the refusal is printed once"
    assert BEFORE == counts(served)


def test_a_bad_file_and_that_of_another_fleet_are_refused(served: Served, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text("name: lab\nnodes: []\npools: [{name: web, model: toy, cout: 3}]\n")

    for command in ("plan", "apply", "check"):
        result = run(served, "provisioner", command, bad)
        assert 1 == result.exit_code
        assert re.search(r"problems? in .*bad\.yml", result.stderr)
        assert "did you mean count?" in result.stderr
        assert 2 == run(served, "provisioner", command, "nowhere.yml").exit_code
    other = run(served, "provisioner", "apply", "--no-wait", spec(tmp_path, name="other"))

    assert (1, "") == (other.exit_code, other.stdout)
    assert "of fleet other" in other.stderr
    assert BEFORE == counts(served)


def test_a_check_counts_instances(served: Served, tmp_path: Path) -> None:
    result = run(served, "provisioner", "check", spec(tmp_path, 1_234))

    assert (0, "") == (result.exit_code, result.stdout)
    assert "fleet lab: 1,234 instances" in result.stderr


def test_a_terminal_shows_that_a_change_waits_for_a_leader(served: Served, tmp_path: Path) -> None:
    served.board.is_leading, served.board.leader = False, ""

    def lead(screen: bytes) -> None:
        served.board.is_leading = b"waiting" in screen

    words = ("provisioner", "apply", "--no-wait", "--yes", str(spec(tmp_path, 2)))
    ended, screen = on_terminal(served, words, b"", lead)

    assert 0 == ended, screen
    assert 1 == screen.count("waiting for a provisioner that leads")


@pytest.mark.parametrize("group", ["provisioner", "instances"])
def test_every_command_and_option_has_help(group: str) -> None:
    commands = main.get_command(click.Context(main), group)
    assert isinstance(commands, click.Group)
    listed = CliRunner().invoke(main, [group, "--help"]).stdout.partition("Commands:")[2]

    assert "..." not in listed
    for name, command in commands.commands.items():
        assert name in listed
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert [] == [one.name for one in options if not one.help]


# Nodes and orphans

WELL = NodeDocument(
    name="n1",
    runtime="containerd",
    is_listed=True,
    is_cordoned=False,
    is_asked=True,
    is_reachable=True,
    heard_s=100.0,
    fault="",
    n_instances=1200,
    n_failed=3,
    cpus_used=2.5,
    cpus=64.0,
    memory_used_bytes=3 * 2**29,
    memory_bytes=2**33,
)
SILENT = replace(WELL, name="n2", is_reachable=False, fault="cannot\nconnect", is_cordoned=True)
GONE = replace(SILENT, name="n3", runtime="", heard_s=0.0, is_listed=False, is_cordoned=False)
UNASKED = replace(GONE, name="n4", is_asked=False, is_listed=True, fault="not asked yet")


def test_nodes_are_shown_as_a_table_and_as_json(served: Served) -> None:
    served.board.reports = {"n1": NodeReport("n1", 5.0), "n2": NodeReport("n2", 0.0, (), "gone")}

    _, first, second, summary = run(served, "provisioner", "nodes").stdout.splitlines()
    listed = json.loads(run(served, "provisioner", "nodes", "--json").stdout)

    assert ["n1", "simulated", "answers", "5", "0"] == first.split()[:5]
    assert second.endswith("no answer yet: gone")
    assert "2 nodes, 1 silent" == summary
    assert [("n1", True), ("n2", False)] == [(one["name"], one["is_reachable"]) for one in listed]


def test_a_node_has_its_state_capacity_and_what_is_unusual() -> None:
    """A node that was not asked yet, as after a takeover, is not silent."""
    text = nodes_text((WELL, SILENT, GONE, UNASKED), now_s=172.0)
    _, well, silent, gone, unasked, summary = text.splitlines()

    assert re.search("^n1 +containerd +answers +1,200 +3 +2.5 of 64 +1.5 of 8.0 GiB", well)
    assert silent.endswith("last answer 1m 12s ago: cannot connect; cordoned")
    assert gone.split()[:3] == ["n3", "-", "silent"]
    assert gone.endswith("no answer yet: cannot connect; not in the specification")
    assert re.search("^n4 +- +not asked +1,200 .* GiB +not asked yet$", unasked)
    assert "4 nodes, 2 silent, 1 not asked" == summary
    assert nodes_text((WELL,), now_s=100.0).endswith("\n1 node, all answer")
    assert "no nodes" == nodes_text((), now_s=100.0)


def orphan(node: str, number: int, state: ContainerState = ContainerState.RUNNING) -> Orphan:
    id_ = f"chat-{number:05}"
    return Orphan(node, ObservedContainer(f"{id_}.2", id_, 2, state))


@pytest.fixture
def orphaned(served: Served) -> Served:
    served.board.orphans = [
        orphan("n2", 3, ContainerState.EXITED),
        orphan("n2", 2),
        orphan("n1", 1),
    ]
    return served


def test_orphans_are_counted_by_node_and_listed_as_json(orphaned: Served) -> None:
    result = run(orphaned, "provisioner", "orphans", "list")
    listed = json.loads(run(orphaned, "provisioner", "orphans", "list", "--json").stdout)

    _, first, second, summary = result.stdout.splitlines()
    assert ["n1", "1", "1", "chat-00001.2"] == first.split()
    assert ["n2", "2", "1", "chat-00002.2"] == second.split()
    assert "3 orphans" == summary
    assert ["chat-00001.2", "chat-00002.2", "chat-00003.2"] == [one["name"] for one in listed]


def test_orphans_are_deleted_after_a_question_or_with_yes(orphaned: Served) -> None:
    delete = ("provisioner", "orphans", "delete")
    refused = run(orphaned, *delete)
    status, screen = on_terminal(orphaned, delete, b"n\n")
    assert ((1, 1), 0) == ((refused.exit_code, status), orphaned.board.n_orphan_orders)
    assert "Delete 3 orphans?" in screen

    assert 0 == on_terminal(orphaned, delete, b"y\n")[0]
    assert 0 == run(orphaned, *delete, "--yes").exit_code
    assert 2 == orphaned.board.n_orphan_orders

    orphaned.board.orphans = []
    assert "no orphans" in run(orphaned, *delete).output
    assert 2 == orphaned.board.n_orphan_orders


# The options of `run`

VALUES: Mapping[str, str] = {
    "fleet": "lab",
    "store.url": "etcd://a:1,b:2",
    "store.ca-file": "/s/ca",
    "store.certificate-file": "/s/certificate",
    "store.key-file": "/s/key",
    "store.user": "ann",
    "store.password-file": "/s/password",
    "store.lease": "30s",
    "web.listen-address": "[::1]:9",
    "web.max-connections": "7",
    "web.external-url": "https://fleet.example",
    "web.token-file": "/w/token",
    "web.audit-file": "/w/audit",
    "state-dir": "/state",
    "processes.pass-environment": "OLLAMA_MODELS, HTTPS_PROXY,",
    "nodes.ca-file": "/n/ca",
    "nodes.certificate-file": "/n/certificate",
    "nodes.key-file": "/n/key",
    "simulation.token-file": "/simulation/token",
}


def settings(words: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Settings:
    result, made = parsed(words, env)
    assert 0 == result.exit_code, result.output
    return made[0]


def parsed(
    words: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> tuple[Result, list[Settings]]:
    made: list[Settings] = []

    @click.command()
    @run_options
    def command(**options: Any) -> None:
        made.append(settings_of(options))

    variables = {"XDG_STATE_HOME": "/xdg", **(env or {})}
    return CliRunner().invoke(command, [*words], env=variables), made


def values(made: Settings) -> Mapping[str, object]:
    """Return what each option has become."""
    return {
        "fleet": made.fleet,
        "store.url": made.store_url,
        "store.ca-file": made.credentials.ca_file,
        "store.certificate-file": made.credentials.certificate_file,
        "store.key-file": made.credentials.key_file,
        "store.user": made.credentials.user,
        "store.password-file": made.credentials.password_file,
        "store.lease": made.lease_s,
        "web.listen-address": (made.host, made.port),
        "web.max-connections": made.max_connections,
        "web.external-url": made.advertised_url,
        "web.token-file": made.token_file,
        "web.audit-file": made.audit_file,
        "state-dir": made.paths.state_dir,
        "processes.pass-environment": made.paths.pass_environment,
        "nodes.ca-file": made.paths.authority_file,
        "nodes.certificate-file": made.paths.certificate_file,
        "nodes.key-file": made.paths.key_file,
        "simulation.token-file": made.paths.simulation_token_file,
    }


def test_every_option_and_its_variable_becomes_its_own_setting() -> None:
    expected: Mapping[str, object] = {
        **{name: Path(value) if value.startswith("/") else value for name, value in VALUES.items()},
        "store.lease": 30,
        "web.max-connections": 7,
        "web.listen-address": ("::1", 9),
        "state-dir": Path("/state/processes"),
        "processes.pass-environment": ("OLLAMA_MODELS", "HTTPS_PROXY"),
    }
    variables = {one.variable: VALUES[one.name] for one in OPTIONS if one.name in VALUES}

    assert {option.name for option in OPTIONS} == {*VALUES, "log.level", "log.format"}
    assert expected == values(settings([f"--{name}={value}" for name, value in VALUES.items()]))
    assert expected == values(settings(env=variables))
    assert "mine" == settings(["--fleet=mine"], variables).fleet
    assert "127.0.0.1:8080" in parsed(["--help"])[0].output


def test_without_options_everything_is_on_this_machine() -> None:
    made = settings()

    assert ("fleet", "127.0.0.1", 8080, 10) == (made.fleet, made.host, made.port, made.lease_s)
    assert "sqlite:/xdg/ollama-fleet/fleet.db" == made.store_url
    assert Path("/xdg/ollama-fleet/provisioner.token") == made.token_file
    assert Path("/xdg/ollama-fleet/processes") == made.paths.state_dir
    assert Path("/xdg/ollama-fleet/simulate.token") == made.paths.simulation_token_file
    assert made.audit_file is None
    assert "sqlite:/here/lab.db" == settings(["--fleet=lab", "--state-dir=/here"]).store_url


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        (":65535", ("0.0.0.0", 65_535)),  # noqa: S104 - what leaving it out means
        ("[::]:0", ("::", 0)),
        ("fleet.example:80", ("fleet.example", 80)),
    ],
)
def test_a_listen_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    made = settings([f"--web.listen-address={address}"])

    assert expected == (made.host, made.port)


def test_wrong_options_are_refused_before_anything_starts(tmp_path: Path) -> None:
    addresses = ("", "8080", "host:", "host:65536", "host:-1", "host:²", "::1:80", "[::1]", "a b:1")
    names = ("", "../x", "a b", "-x", "x" * 61)
    etcd = "--store.url=etcd://a:1"
    files = ("--nodes.ca-file=/n/ca", "--nodes.key-file=/n/key")
    wrong: list[tuple[str, Sequence[str]]] = [
        *(("must be HOST:PORT such as", [f"--web.listen-address={one}"]) for one in addresses),
        *(("--fleet must be", [f"--fleet={one}"]) for one in names),
        *(("--web.external-url", [etcd, f"--web.listen-address={one}:1"]) for one in ("", "[::]")),
        *(
            ("--store.lease", [f"--store.lease={one}"])
            for one in ("1s", "601s", "2500ms", "30", "x")
        ),
        *(("is a directory", [f"--{one}={tmp_path}"]) for one in VALUES if one.endswith("-file")),
        ("--nodes.ca-file, .certificate-file and .key-file go together", files),
        ("must be names of variables, got 'a b'", ["--processes.pass-environment=A,a b"]),
        ("'loud' is not one of", ["--log.level=loud"]),
    ]

    for text, words in wrong:
        result, made = parsed(words)
        assert (2, []) == (result.exit_code, made), words
        assert text in " ".join(result.output.split()), words
    assert (2, 600) == tuple(settings([f"--store.lease={one}"]).lease_s for one in ("2s", "10m"))
    assert "x" * 60 == settings([f"--fleet={'x' * 60}"]).fleet
