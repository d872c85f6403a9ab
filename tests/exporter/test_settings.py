from __future__ import annotations

from dataclasses import fields

import pytest

from exporter.config import Config
from exporter.inventory import Shard
from exporter.settings import (
    SETTINGS,
    canary_prompt,
    canary_tokens,
    host_name,
    prometheus_url,
    switch,
    telemetry_path,
)

NAMES = [setting.name for setting in SETTINGS]


@pytest.mark.parametrize("text", ["", "yes", "1", "on", "truee"])
def test_a_switch_is_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="neither true nor false"):
        switch(text)


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


@pytest.mark.parametrize("text", ["a:11440", "http://a", "*.example.org", "a b", "ü.example"])
def test_what_is_no_host_name_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host name such as"):
        host_name(text)


@pytest.mark.parametrize("text", ["1", "101", "8.5", ""])
def test_a_canary_generates_a_few_tokens(text: str) -> None:
    with pytest.raises(ValueError, match=r"tokens|whole number"):
        canary_tokens(text)


@pytest.mark.parametrize("text", ["", "x" * 1001])
def test_a_canarys_prompt_is_short_and_not_empty(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 1,000 characters"):
        canary_prompt(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "metrics",
        "/a b",
        "/metrics/",
        "/m?x=1",
        "/fleet",
        "/-/ready",
        "/config",
        "/upstreams",
    ],
)
def test_a_telemetry_path_is_a_path_that_nothing_else_has(text: str) -> None:
    assert ["/m", "/fleet-metrics"] == [telemetry_path("/m"), telemetry_path("/fleet-metrics")]
    with pytest.raises(ValueError, match="is not a path of its own such as"):
        telemetry_path(text)


def test_by_default_nothing_is_open_to_the_network() -> None:
    defaults = {setting.name: setting.parse(setting.default) for setting in SETTINGS}

    assert ("127.0.0.1", 11440) == defaults["web.listen-address"]
    assert defaults["poll.insecure-skip-verify"] is False
    assert Shard(0, 1) == defaults["shard"]


def test_the_configuration_has_a_field_for_each_setting() -> None:
    names = [field.name for field in fields(Config)]
    assert [*(setting.attribute for setting in SETTINGS), "given"] == names
