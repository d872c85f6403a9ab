from __future__ import annotations

from dataclasses import fields

import pytest

from exporter.config import Config
from exporter.inventory import Shard
from exporter.settings import (
    SETTINGS,
    Setting,
    count,
    host_name,
    one_of,
    prometheus_url,
    switch,
)

NAMES = [setting.name for setting in SETTINGS]


def test_a_count_is_a_whole_number_from_one_on() -> None:
    assert 1 == count("1")
    assert 1048576 == count(" 1048576 ")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e6", "1_000", "", "many", "1MB"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number of at least 1"):
        count(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("false", False), ("True", True), (" FALSE ", False)]
)
def test_a_switch_is_true_or_false(text: str, expected: bool) -> None:
    assert expected is switch(text)


@pytest.mark.parametrize("text", ["", "yes", "1", "on", "truee"])
def test_a_switch_is_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="neither true nor false"):
        switch(text)


def test_a_choice_is_one_of_the_choices_and_the_refusal_names_them() -> None:
    parse = one_of("seconds", "milliseconds")

    assert "milliseconds" == parse("milliseconds")
    with pytest.raises(ValueError, match="none of seconds, milliseconds: 'hours'"):
        parse("hours")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("http://127.0.0.1:9090", "http://127.0.0.1:9090"),
        (" https://[::1]:9090/prom/ ", "https://[::1]:9090/prom"),
        ("http://prometheus", "http://prometheus"),
    ],
)
def test_a_prometheus_has_a_base_url_or_there_is_none(text: str, expected: str) -> None:
    assert expected == prometheus_url(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Exporter.example.org", "exporter.example.org"), ("*", "*"), ("a_b.c-d. ", "a_b.c-d")],
)
def test_a_host_name_is_kept_in_lower_case(text: str, expected: str) -> None:
    assert expected == host_name(text)


@pytest.mark.parametrize("text", ["a:11440", "http://a", "*.example.org", "a b", "ü.example"])
def test_what_is_no_host_name_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host name such as"):
        host_name(text)


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_every_default_is_a_good_value(setting: Setting) -> None:
    setting.parse(setting.default)


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_every_setting_says_what_it_means(setting: Setting) -> None:
    assert setting.help.endswith(".")
    assert setting.metavar


def test_by_default_nothing_is_open_to_the_network() -> None:
    defaults = {setting.name: setting.parse(setting.default) for setting in SETTINGS}

    assert ("127.0.0.1", 11440) == defaults["web.listen-address"]
    assert defaults["poll.insecure-skip-verify"] is False
    assert Shard(0, 1) == defaults["shard"]


def test_one_name_gives_the_option_the_variable_and_the_attribute() -> None:
    setting = next(setting for setting in SETTINGS if setting.name == "poll.max-body-bytes")

    assert "--poll.max-body-bytes" == setting.option
    assert "OLLAMA_FLEET_POLL_MAX_BODY_BYTES" == setting.variable
    assert "poll_max_body_bytes" == setting.attribute


@pytest.mark.parametrize("spelling", ["name", "option", "variable", "attribute"])
def test_no_two_settings_share_a_spelling(spelling: str) -> None:
    spellings = [getattr(setting, spelling) for setting in SETTINGS]

    assert len(SETTINGS) == len(set(spellings))


def test_the_configuration_has_a_field_for_each_setting() -> None:
    assert [setting.attribute for setting in SETTINGS] == [field.name for field in fields(Config)]
