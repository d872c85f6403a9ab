from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from exporter.config import Config, Given, build, read_file
from exporter.errors import InputError
from exporter.inventory import Shard
from exporter.settings import SETTINGS
from ollama_fleet.problems import Problem

ENOUGH = {"inventory": Given(("fleet.yml",), "--inventory")}


def layer(place: str, **texts: str) -> dict[str, Given]:
    """Return a layer; `poll__metrics_timeout` stands for `poll.metrics-timeout`."""
    names = {key: key.replace("__", ".").replace("_", "-") for key in texts}
    return {names[key]: Given((text,), f"{place} {names[key]}") for key, text in texts.items()}


def problems(*layers: dict[str, Given]) -> list[str]:
    """Return what is wrong with the layers, each with its place."""
    with pytest.raises(InputError) as caught:
        build(*layers)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "exporter.yml"


def read(file: Path, text: str) -> dict[str, Given]:
    file.write_text(text, encoding="utf-8")
    given, faults = read_file(file)
    assert [] == faults
    return given


def built(file: Path, text: str) -> Config:
    """Return the configuration that a file alone gives, with an inventory beneath it."""
    return build(read(file, text), ENOUGH)


def file_problems(file: Path, text: str | bytes) -> list[str]:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    _, faults = read_file(file)
    return [str(fault) for fault in faults]


# Layers


def test_an_inventory_is_all_that_must_be_given() -> None:
    config = build(ENOUGH)

    assert ("fleet.yml",) == config.inventory
    assert (10.0, 2.0, 5.0) == (
        config.poll_interval,
        config.poll_health_timeout,
        config.poll_metrics_timeout,
    )
    assert (("127.0.0.1", 11440),) == config.web_listen_address
    assert 2**20 == config.poll_max_body_bytes


def test_without_an_inventory_it_says_what_to_name() -> None:
    assert ["inventory: required: name a file or URL with the list of instances"] == problems()


def test_the_first_layer_that_holds_a_setting_counts() -> None:
    option = layer("option", poll__interval="30s")
    variable = layer("variable", poll__interval="40s", poll__metrics_timeout="6s")
    key = layer("key", poll__interval="50s", poll__metrics_timeout="7s", log__level="debug")

    config = build(option, variable, key, ENOUGH)

    assert (30.0, 6.0, "debug") == (
        config.poll_interval,
        config.poll_metrics_timeout,
        config.log_level,
    )


def test_a_setting_that_is_not_repeatable_is_given_once() -> None:
    twice = {"poll.interval": Given(("10s", "20s"), "exporter.yml: poll.interval")}

    assert ["exporter.yml: poll.interval: is given more than once"] == problems(twice, ENOUGH)


# What settings mean to each other


def test_a_poll_must_end_before_the_next_begins() -> None:
    assert [
        "option poll.metrics-timeout: poll.metrics-timeout (5s) must be shorter than "
        "poll.interval (5s): lower it as well, for instance --poll.metrics-timeout 4s"
    ] == problems(layer("option", poll__interval="5s", poll__metrics_timeout="5s"), ENOUGH)
    assert [
        "option poll.metrics-timeout: poll.metrics-timeout (1m) must be shorter than "
        "poll.interval (10s, the default): lower it as well, for instance "
        "--poll.metrics-timeout 8s"
    ] == problems(layer("option", poll__metrics_timeout="1m"), ENOUGH)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (5.0, 2.0, 90.0, 15.0)),
        ({"poll__interval": "5s"}, (4.0, 2.0, 90.0, 15.0)),
        ({"poll__interval": "100ms"}, (0.08, 0.04, 90.0, 15.0)),
        ({"poll__interval": "1m"}, (5.0, 2.0, 90.0, 15.0)),
        ({"poll__interval": "10m"}, (5.0, 2.0, 900.0, 15.0)),
        ({"poll__metrics_timeout": "1s"}, (1.0, 0.5, 90.0, 15.0)),
        ({"canary__period": "10s"}, (5.0, 2.0, 90.0, 5.0)),
        ({"poll__interval": "2m", "poll__grace_period": "3m"}, (5.0, 2.0, 180.0, 15.0)),
    ],
)
def test_defaults_follow_the_settings_that_they_have_to_fit(
    given: dict[str, str], expected: tuple[float, ...]
) -> None:
    config = build(layer("option", **given), ENOUGH)

    times = (config.poll_metrics_timeout, config.poll_health_timeout)
    assert (*times, config.poll_grace_period, config.canary_timeout) == pytest.approx(expected)


def test_the_time_out_that_helps_is_one_that_is_taken() -> None:
    short = layer(
        "option",
        poll__interval="500ms",
        poll__metrics_timeout="500ms",
        poll__health_timeout="400ms",
    )
    (problem,) = problems(short, ENOUGH)
    advised = problem.rpartition("--poll.metrics-timeout ")[2]

    assert "400ms" == advised
    config = build(layer("option", poll__metrics_timeout=advised), short, ENOUGH)
    assert 0.4 == config.poll_metrics_timeout


def test_no_canaries_are_sent_unless_they_are_switched_on() -> None:
    periods = [build(layer("option", **texts), ENOUGH).canary_period for texts in (
        {}, {"canary__period": "0"}, {"canary__period": "5m"},
    )]  # fmt: skip

    assert [0.0, 0.0, 300.0] == periods


def test_a_canary_ends_before_the_next_and_its_result_is_kept_until_then() -> None:
    assert [
        "option canary.timeout: canary.timeout (15s) must be shorter than "
        "canary.period (10s): lower it as well, for instance --canary.timeout 5s"
    ] == problems(layer("option", canary__period="10s", canary__timeout="15s"), ENOUGH)
    assert [
        "option canary.period: canary.period (1h) must be at most 30m: results count for an hour"
    ] == problems(layer("option", canary__period="1h"), ENOUGH)


def test_the_health_check_ends_within_the_poll() -> None:
    assert [
        "option poll.health-timeout: poll.health-timeout (5s) must not be longer than "
        "poll.metrics-timeout (4s, the default): lower it as well, for instance "
        "--poll.health-timeout 2s"
    ] == problems(layer("option", poll__interval="5s", poll__health_timeout="5s"), ENOUGH)
    assert (
        1.0
        == build(
            layer("option", poll__metrics_timeout="1s", poll__health_timeout="1s"), ENOUGH
        ).poll_health_timeout
    )


@pytest.mark.parametrize("name", ["inventory.token-file", "inventory.ca-file", "poll.ca-file"])
def test_files_that_settings_name_must_be_there(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    given = {name: Given((str(file),), name)}
    assert [f"{name}: there is no file {file}"] == problems(given, ENOUGH)

    trustme.CA().cert_pem.write_to_path(str(file))

    build(given, ENOUGH)


@pytest.mark.parametrize("name", ["inventory.ca-file", "poll.ca-file"])
def test_a_file_of_authorities_must_hold_some(name: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")

    (problem,) = problems({name: Given((str(file),), name)}, ENOUGH)

    assert problem.startswith(f"{name}: no certificates can be read from {file}: ")


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (("d1.yml", "d1.yml"), "'d1.yml'"),
        (("d1.yml", "d2.yml", "./d1.yml"), "'d1.yml'"),
        (("http://h/a", "http://h/a"), "'http://h/a'"),
        (("http://me:secret@h/a", "http://me:secret@h/a"), "'http://***@h/a'"),
        (("http://h/a|http://h/a",), "'http://h/a'"),
        (("http://h/a|http://h/b", "http://h/b"), "'http://h/b'"),
    ],
)
def test_an_inventory_is_named_once(texts: tuple[str, ...], shown: str) -> None:
    assert [f"inventory: {shown} is given 2 times; name each file or URL once"] == problems(
        {"inventory": Given(texts, "--inventory")}
    )


# The file


@pytest.mark.parametrize(
    "text",
    [
        "poll:\n  interval: 30s\n  metrics-timeout: 6s",
        "poll.interval: 30s\npoll.metrics-timeout: 6s",
        "poll: {interval: 30s}\npoll.metrics-timeout: 6s",
    ],
)
def test_dots_in_keys_may_be_nesting(file: Path, text: str) -> None:
    config = built(file, text)

    assert (30.0, 6.0) == (config.poll_interval, config.poll_metrics_timeout)


@pytest.mark.parametrize(
    "text",
    [
        "inventory: [a.yml, 'http://127.0.0.1:8080/instances']",
        "inventory:\n  - a.yml\n  - http://127.0.0.1:8080/instances",
        "inventory:\n  sources: [a.yml, 'http://127.0.0.1:8080/instances']\n  timeout: 3s",
        "inventory.sources: [a.yml, 'http://127.0.0.1:8080/instances']",
    ],
)
def test_inventories_are_a_list_or_the_sources_of_a_mapping(file: Path, text: str) -> None:
    paths = (str(file.parent / "a.yml"), "http://127.0.0.1:8080/instances")
    assert paths == built(file, text).inventory


def test_paths_in_the_file_are_relative_to_the_file(file: Path) -> None:
    """Of every setting that is one; absolute ones and URLs stay, those of options as well."""
    (file.parent / "token").touch()

    config = built(file, "inventory: [a.yml, /b.yml, 'http://h:1/x']\ninventory.token-file: token")

    assert (str(file.parent / "a.yml"), "/b.yml", "http://h:1/x") == config.inventory
    assert str(file.parent / "token") == config.inventory_token_file


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("poll.max-body-bytes: 2048", "poll_max_body_bytes", 2048),
        ("poll.max-body-bytes: '2048'", "poll_max_body_bytes", 2048),
        ("metrics.per-instance: false", "metrics_per_instance", False),
        ("metrics.per-instance: no", "metrics_per_instance", False),
        ("metrics.per-instance: 'false'", "metrics_per_instance", False),
        ("metrics.per-instance: auto", "metrics_per_instance", None),
        ("poll.insecure-skip-verify: true", "poll_insecure_skip_verify", True),
        ("web.listen-address: :11440", "web_listen_address", (("", 11440),)),
        ("web.listen-address: '[::1]:11440'", "web_listen_address", (("::1", 11440),)),
        ("shard: 1/4", "shard", Shard(1, 4)),
    ],
)
def test_values_are_written_as_yaml_has_them(
    file: Path, text: str, name: str, expected: object
) -> None:
    assert expected == getattr(built(file, text), name)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "poll:\n  # interval: 30s\n", "{}"])
def test_a_file_that_sets_nothing_is_good(file: Path, text: str) -> None:
    assert build(ENOUGH) == built(file, text)


def test_unknown_keys_are_all_refused_with_what_may_be_meant(file: Path) -> None:
    text = "poll:\n  intervall: 30s\nlog_level: debug\ncolour: blue"

    assert [
        f"{file}:2: poll.intervall: unknown key; did you mean poll.interval?",
        f"{file}:3: log_level: unknown key; did you mean log.level?",
        f"{file}:4: colour: unknown key",
    ] == file_problems(file, text)


def test_a_setting_that_stands_in_two_spellings_is_refused(file: Path) -> None:
    """Which of the two would count, nobody could tell."""
    text = "poll.interval: 10s\npoll:\n  interval: 20s"

    assert [f"{file}:3: poll.interval: is set twice"] == file_problems(file, text)


def test_inventories_are_texts(file: Path) -> None:
    text = "inventory:\n  - url: http://127.0.0.1:8080/instances"

    assert [f"{file}:1: inventory: must be a text, or a list of texts"] == file_problems(file, text)


@pytest.mark.parametrize("text", ["- a\n- b", "fleet.yml", "12"])
def test_a_file_must_be_a_mapping(file: Path, text: str) -> None:
    assert [f"{file}: must be a mapping of settings"] == file_problems(file, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [b", "2: is not valid YAML at column 1: while parsing a flow sequence, did not find "),
        (b"a: 1\nb: \xff\xfe", "2: is not UTF-8: invalid start byte at byte 8"),
    ],
)
def test_what_is_no_yaml_is_refused_with_the_place_and_the_reason(
    file: Path, text: str | bytes, expected: str
) -> None:
    (problem,) = file_problems(file, text)

    assert problem.startswith(f"{file}:{expected}")
    assert "\n" not in problem


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_unread(make: Callable[[Path], None], tmp_path: Path) -> None:
    """A pipe that nobody writes to would be read for ever."""
    path = tmp_path / "exporter.yml"
    make(path)

    assert [Problem(str(path), "cannot be read: it is not a regular file")] == read_file(path)[1]


def test_every_setting_can_be_set_in_the_file(file: Path) -> None:
    names = [setting.name for setting in SETTINGS if setting.default]

    given = read(file, "".join(f"{name}: x\n" for name in names))

    assert names == list(given)
