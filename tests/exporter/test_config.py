from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from exporter.config import Config, Given, build, misspelt, read_file
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
    assert ("127.0.0.1", 11440) == config.web_listen_address
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


def test_a_layer_that_holds_an_empty_setting_leaves_it_to_the_next() -> None:
    config = build(
        {"poll.interval": Given((), "--poll.interval")}, layer("key", poll__interval="30s"), ENOUGH
    )

    assert 30.0 == config.poll_interval


def test_a_repeatable_setting_is_taken_whole_from_one_layer() -> None:
    """What the command line names replaces the file's list, rather than adding to it."""
    option = {"inventory": Given(("a.yml", "b.yml"), "--inventory")}
    key = {"inventory": Given(("c.yml",), "exporter.yml: inventory")}

    assert ("a.yml", "b.yml") == build(option, key).inventory


def test_a_bad_value_is_reported_with_the_place_that_counts() -> None:
    option, key = layer("option", log__window="soon"), layer("key", log__window="later")

    assert [
        "option log.window: must be a duration such as 7d, 1h30m, 15s or 500ms, got 'soon'"
    ] == problems(option, key, ENOUGH)


def test_all_that_is_wrong_is_reported_at_once() -> None:
    option = layer("option", poll__interval="fast", shard="3/2")
    key = layer("key", log__level="loud", metrics__per_instance="maybe", poll__max_body_bytes="0")

    places = [problem.split(":")[0] for problem in problems(option, key, ENOUGH)]

    assert {
        "option poll.interval",
        "option shard",
        "key log.level",
        "key metrics.per-instance",
        "key poll.max-body-bytes",
    } == set(places)


def test_a_setting_that_is_not_repeatable_is_given_once() -> None:
    twice = {"poll.interval": Given(("10s", "20s"), "exporter.yml: poll.interval")}

    assert ["exporter.yml: poll.interval: is given more than once"] == problems(twice, ENOUGH)


# What settings mean to each other


def test_a_poll_must_end_before_the_next_begins() -> None:
    assert [
        "option poll.interval: poll.metrics-timeout (5s, the default) must be shorter than "
        "poll.interval (5s): lower it as well, for instance --poll.metrics-timeout 4s"
    ] == problems(layer("option", poll__interval="5s"), ENOUGH)
    assert [
        "option poll.metrics-timeout: poll.metrics-timeout (1m) must be shorter than "
        "poll.interval (10s, the default): lower it as well, for instance "
        "--poll.metrics-timeout 8s"
    ] == problems(layer("option", poll__metrics_timeout="1m"), ENOUGH)


def test_the_time_out_that_helps_is_one_that_is_taken() -> None:
    short = layer("option", poll__interval="500ms", poll__health_timeout="400ms")
    (problem,) = problems(short, ENOUGH)
    advised = problem.rpartition("--poll.metrics-timeout ")[2]

    assert "400ms" == advised
    config = build(short, layer("option", poll__metrics_timeout=advised), ENOUGH)
    assert 0.4 == config.poll_metrics_timeout


def test_the_health_check_ends_within_the_poll() -> None:
    assert [
        "option poll.metrics-timeout: poll.health-timeout (2s, the default) must not be longer "
        "than poll.metrics-timeout (1s): lower it as well, for instance "
        "--poll.health-timeout 500ms"
    ] == problems(layer("option", poll__metrics_timeout="1s"), ENOUGH)
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


def test_the_unit_of_latencies_is_a_factor() -> None:
    assert 1.0 == build(ENOUGH).latency_unit_s
    in_milliseconds = layer("option", metrics__latency_unit="milliseconds")
    assert 0.001 == build(in_milliseconds, ENOUGH).latency_unit_s


# The environment


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OLLAMA_FLEET_POLL_INTERVALL", "OLLAMA_FLEET_POLL_INTERVAL"),
        ("OLLAMA_FLET_POLL_INTERVAL", "OLLAMA_FLEET_POLL_INTERVAL"),
        ("OLLAMA_FLEET_INTERVAL", "OLLAMA_FLEET_POLL_INTERVAL"),
        ("OLLAMA_FLEET_LOGLEVEL", "OLLAMA_FLEET_LOG_LEVEL"),
        ("OLLAMA_FLEET_POLL.INTERVAL", "OLLAMA_FLEET_POLL_INTERVAL"),
        ("ollama_fleet_shard", "OLLAMA_FLEET_SHARD"),
        ("OLLAMA_FLEET_CONFG_FILE", "OLLAMA_FLEET_CONFIG_FILE"),
    ],
)
def test_a_misspelt_variable_is_told_with_what_may_be_meant(name: str, meant: str) -> None:
    assert [
        f"the environment variable {name} is ignored: it sets nothing; did you mean {meant}?"
    ] == misspelt({name: "5s", "PATH": "/bin"})


@pytest.mark.parametrize(
    "name",
    [
        *(setting.variable for setting in SETTINGS),
        "OLLAMA_FLEET_CONFIG_FILE",
        "OLLAMA_FLEET_PROGRAMS_DIR",
        "OLLAMA_FLEET_SIMULATE_INVENTORY",
        "OLLAMA_FLEET_SIMULATE_INVENTORY_REFRESH_INTERVAL",
        # Of Ollama itself, and of a service in Kubernetes.
        *("OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_LOAD_TIMEOUT", "OLLAMA_KEEP_ALIVE"),
        *("OLLAMA_FLEET_PORT", "OLLAMA_FLEET_SERVICE_HOST", "OLLAMA_FLEET_SERVICE_PORT"),
        *("OLLAMA_FLEET_EXPORTER_PORT", "OLLAMA_FLEET_EXPORTER_SERVICE_HOST"),
        *("OLLAMA_FLEET_EXPORTER_PORT_11440_TCP_ADDR", "OLLAMA_FLEET_EXPORTER_SERVICE_PORT_WEB"),
        *("PATH", "HOME", "OLLAMA_FLEET"),
    ],
)
def test_variables_with_a_meaning_of_their_own_are_no_misspelling(name: str) -> None:
    assert [] == misspelt([name])


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
    assert ("a.yml", "http://127.0.0.1:8080/instances") == built(file, text).inventory


def test_alternatives_are_one_inventory_wherever_they_are_written(file: Path) -> None:
    both = "http://p1/instances|http://p2/instances"

    assert (both,) == built(file, f"inventory: {both}").inventory
    assert (both, "a.yml") == built(file, f"inventory: [{both}, a.yml]").inventory
    assert (both,) == built(file, f"inventory:\n  - {both}").inventory


def test_one_inventory_needs_no_list(file: Path) -> None:
    assert ("a.yml",) == built(file, "inventory: a.yml").inventory


def test_settings_beside_the_sources_are_settings_of_the_inventory(file: Path) -> None:
    config = built(file, "inventory:\n  sources: a.yml\n  timeout: 3s\n  refresh-interval: 1m")

    assert (3.0, 60.0) == (config.inventory_timeout, config.inventory_refresh_interval)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("poll.max-body-bytes: 2048", "poll_max_body_bytes", 2048),
        ("poll.max-body-bytes: '2048'", "poll_max_body_bytes", 2048),
        ("metrics.per-instance: false", "metrics_per_instance", False),
        ("metrics.per-instance: no", "metrics_per_instance", False),
        ("metrics.per-instance: 'false'", "metrics_per_instance", False),
        ("poll.insecure-skip-verify: true", "poll_insecure_skip_verify", True),
        ("web.listen-address: :11440", "web_listen_address", ("", 11440)),
        ("web.listen-address: '[::1]:11440'", "web_listen_address", ("::1", 11440)),
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


def test_a_key_without_a_value_is_as_if_it_were_not_there(file: Path) -> None:
    assert 10.0 == built(file, "poll:\n  interval:\n").poll_interval


def test_a_bad_value_names_the_file_and_the_key(file: Path) -> None:
    assert [
        f"{file}:2: poll.interval: must be a duration such as 7d, 1h30m, 15s or 500ms, got '10'"
    ] == problems(read(file, "poll:\n  interval: 10"), ENOUGH)


def test_unknown_keys_are_all_refused_with_what_may_be_meant(file: Path) -> None:
    text = "poll:\n  intervall: 30s\nlog_level: debug\ncolour: blue"

    assert [
        f"{file}:2: poll.intervall: unknown key; did you mean poll.interval?",
        f"{file}:3: log_level: unknown key; did you mean log.level?",
        f"{file}:4: colour: unknown key",
    ] == file_problems(file, text)


def test_a_value_with_keys_of_its_own_is_an_unknown_key(file: Path) -> None:
    assert [
        f"{file}:3: poll.interval.seconds: unknown key; did you mean poll.interval?"
    ] == file_problems(file, "poll:\n  interval:\n    seconds: 10")


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


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.yml"

    missing = Problem(str(path), "cannot be read: No such file or directory")
    assert ({}, [missing]) == read_file(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_unread(make: Callable[[Path], None], tmp_path: Path) -> None:
    """A pipe that nobody writes to would be read for ever."""
    path = tmp_path / "exporter.yml"
    make(path)

    assert [Problem(str(path), "cannot be read: it is not a regular file")] == read_file(path)[1]


def test_faults_of_the_file_are_reported_with_those_of_the_other_layers(file: Path) -> None:
    file.write_text("log.level: loud\ncolour: blue")
    given, faults = read_file(file)

    with pytest.raises(InputError) as caught:
        build(layer("option", poll__interval="fast"), given, faults=faults)

    assert [f"{file}:2: colour", "option poll.interval", f"{file}:1: log.level"] == [
        problem.place for problem in caught.value.problems
    ]


def test_every_setting_can_be_set_in_the_file(file: Path) -> None:
    names = [setting.name for setting in SETTINGS if setting.default]

    given = read(file, "".join(f"{name}: x\n" for name in names))

    assert names == list(given)
