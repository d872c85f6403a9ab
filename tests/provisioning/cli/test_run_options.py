"""Each option of `provisioner run`, as a word and as a variable, and the settings it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from provisioning.app import Settings
from provisioning.cli.run_options import OPTIONS, Option, run_options, settings_of

VALUES: Mapping[str, str] = {
    "fleet": "lab",
    "store.url": "etcd://a:1,b:2",
    "store.ca-file": "/s/ca",
    "store.certificate-file": "/s/certificate",
    "store.key-file": "/s/key",
    "store.user": "ann",
    "store.password-file": "/s/password",
    "store.lease": "30",
    "web.listen-address": "[::1]:9",
    "web.max-connections": "7",
    "web.external-url": "https://fleet.example",
    "web.token-file": "/w/token",
    "web.audit-file": "/w/audit",
    "state-dir": "/state",
    "nodes.ca-file": "/n/ca",
    "nodes.certificate-file": "/n/certificate",
    "nodes.key-file": "/n/key",
    "simulation.token-file": "/simulation/token",
}


def made_of(words: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that words and variables make."""
    result, made = run(words, env)
    assert 0 == result.exit_code, result.output
    return made[0]


def run(
    words: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> tuple[Result, list[Settings]]:
    made: list[Settings] = []

    @click.command()
    @run_options
    def command(**options: Any) -> None:
        made.append(settings_of(options))

    return CliRunner().invoke(
        command, [*words], env={"XDG_STATE_HOME": "/xdg", **(env or {})}
    ), made


def figures(settings: Settings) -> Mapping[str, object]:
    """Return what each option has become."""
    return {
        "fleet": settings.fleet,
        "store.url": settings.store_url,
        "store.ca-file": settings.credentials.ca_file,
        "store.certificate-file": settings.credentials.certificate_file,
        "store.key-file": settings.credentials.key_file,
        "store.user": settings.credentials.user,
        "store.password-file": settings.credentials.password_file,
        "store.lease": settings.lease_s,
        "web.listen-address": (settings.host, settings.port),
        "web.max-connections": settings.max_connections,
        "web.external-url": settings.advertised_url,
        "web.token-file": settings.token_file,
        "web.audit-file": settings.audit_file,
        "state-dir": settings.local.state_dir,
        "nodes.ca-file": settings.local.authority_file,
        "nodes.certificate-file": settings.local.certificate_file,
        "nodes.key-file": settings.local.key_file,
        "simulation.token-file": settings.local.simulation_token_file,
    }


EXPECTED: Mapping[str, object] = {
    **{name: Path(value) if value.startswith("/") else value for name, value in VALUES.items()},
    "store.lease": 30,
    "web.listen-address": ("::1", 9),
    "web.max-connections": 7,
    "state-dir": Path("/state/units"),
}


def test_every_option_is_tried_here() -> None:
    assert {option.name for option in OPTIONS} == {*VALUES, "log-level"}
    assert set(VALUES) == set(EXPECTED)


def test_every_option_becomes_its_own_setting() -> None:
    made = made_of([f"--{name}={value}" for name, value in VALUES.items()])

    assert EXPECTED == figures(made)


def test_every_option_is_a_variable_too() -> None:
    made = made_of(env={one.variable: VALUES[one.name] for one in OPTIONS if one.name in VALUES})

    assert EXPECTED == figures(made)


def test_what_is_logged_is_an_option_and_a_variable_too() -> None:
    """It is no setting of what runs: the command itself sees to it."""
    levels: list[str] = []

    @click.command()
    @run_options
    def command(*, log_level: str, **_: Any) -> None:
        levels.append(log_level)

    for words, level in (([], ""), ([], "debug"), (["--log-level=error"], "debug")):
        env = {"OLLAMA_FLEET_PROVISIONER_LOG_LEVEL": level}
        assert 0 == CliRunner().invoke(command, words, env=env).exit_code
    wrong = CliRunner().invoke(command, env={"OLLAMA_FLEET_PROVISIONER_LOG_LEVEL": "loud"})

    assert ["info", "debug", "error"] == levels
    assert "'loud' is not one of 'debug', 'info', 'warning', 'error'" in wrong.output


def test_a_word_wins_over_the_variable() -> None:
    made = made_of(["--fleet=mine"], {"OLLAMA_FLEET_PROVISIONER_FLEET": "theirs"})

    assert "mine" == made.fleet


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("web.listen-address", "OLLAMA_FLEET_PROVISIONER_WEB_LISTEN_ADDRESS"),
        ("state-dir", "OLLAMA_FLEET_PROVISIONER_STATE_DIR"),
    ],
)
def test_a_variable_is_named_as_its_option(name: str, variable: str) -> None:
    assert variable == Option(name, "").variable


def test_without_options_everything_is_on_this_machine() -> None:
    made = made_of()

    assert ("fleet", "127.0.0.1", 8080) == (made.fleet, made.host, made.port)
    assert "sqlite:/xdg/ollama-fleet/fleet.db" == made.store_url
    assert Path("/xdg/ollama-fleet/provisioner.token") == made.token_file
    assert Path("/xdg/ollama-fleet/units") == made.local.state_dir
    assert Path("/xdg/ollama-fleet/simulate.token") == made.local.simulation_token_file
    assert made.audit_file is None


def test_the_default_store_is_the_fleets_own_in_the_state_folder() -> None:
    made = made_of(["--fleet=lab", "--state-dir=/here"])

    assert "sqlite:/here/lab.db" == made.store_url


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        (":65535", ("0.0.0.0", 65_535)),  # noqa: S104 - what leaving it out means
        ("[::]:0", ("::", 0)),
        ("fleet.example:80", ("fleet.example", 80)),
    ],
)
def test_an_address_is_taken_apart(address: str, expected: tuple[str, int]) -> None:
    made = made_of([f"--web.listen-address={address}"])

    assert expected == (made.host, made.port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "8080",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "host:1.5",
        "host:²",
        "h:9" * 9,
        "::1:80",
        "[::1]",
        "a b:1",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    result, _ = run([f"--web.listen-address={address}"])

    assert 2 == result.exit_code
    assert f"--web.listen-address must be host:port, such as 127.0.0.1:8080, got {address!r}" in (
        result.output
    )


@pytest.mark.parametrize("name", ["ca-file", "certificate-file", "key-file"])
def test_a_certificate_for_nodes_is_given_whole_or_not_at_all(name: str) -> None:
    given = {name: value for name, value in VALUES.items() if name.startswith("nodes.")}
    del given[f"nodes.{name}"]
    result, _ = run([f"--{name}={value}" for name, value in given.items()])

    assert 2 == result.exit_code
    assert "--nodes.ca-file, .certificate-file and .key-file go together" in result.output


@pytest.mark.parametrize("lease", ["1", "601", "x"])
def test_a_lease_that_etcd_would_not_grant_is_refused(lease: str) -> None:
    assert 2 == run([f"--store.lease={lease}"])[0].exit_code


@pytest.mark.parametrize("option", [one for one in OPTIONS if one.name.endswith("-file")])
def test_a_folder_is_no_file(option: Option, tmp_path: Path) -> None:
    result, _ = run([f"--{option.name}={tmp_path}"])

    assert 2 == result.exit_code
    assert f"'{tmp_path}' is a directory" in result.output


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    result, _ = run([f"--state-dir={tmp_path / 'file'}"])

    assert 2 == result.exit_code
    assert f"'{tmp_path / 'file'}' is a file" in result.output


@pytest.mark.parametrize("lease", [2, 600])
def test_a_lease_may_be_short_or_long(lease: int) -> None:
    assert (lease, 10) == (made_of([f"--store.lease={lease}"]).lease_s, made_of().lease_s)


def test_help_tells_every_option_with_its_default() -> None:
    text = " ".join(run(["--help"])[0].output.split())

    assert [] == [option.name for option in OPTIONS if f"--{option.name}" not in text]
    assert "127.0.0.1:8080" in text


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 61])
def test_a_fleets_name_is_looked_at_before_anything_begins(name: str) -> None:
    result, made = run([f"--fleet={name}"])

    assert (2, []) == (result.exit_code, made)
    assert "--fleet must be" in result.output


def test_a_fleets_name_may_be_long() -> None:
    assert "x" * 60 == made_of([f"--fleet={'x' * 60}"]).fleet


@pytest.mark.parametrize("address", [":8080", "0.0.0.0:8080", "[::]:8080"])
def test_an_address_that_is_none_is_not_told_to_others(address: str) -> None:
    words = [f"--web.listen-address={address}", "--store.url=etcd://a:1"]

    result, made = run(words)

    assert (2, []) == (result.exit_code, made)
    assert "give --web.external-url too" in " ".join(result.output.split())
    assert made_of([*words, "--web.external-url=http://a:8080"]).advertised_url
    assert made_of(words[:1]).host
