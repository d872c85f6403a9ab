"""URLs of servers that settings name."""

from __future__ import annotations

import pytest

from ollama_fleet.urls import base_url, host_port, host_port_text, http_url, is_address

EXAMPLE = "http://127.0.0.1:9090"


@pytest.mark.parametrize("url", [EXAMPLE, "HTTPS://[::1]:9090/a?b=c", "http://prometheus"])
def test_a_url_of_a_server_is_taken_as_it_is(url: str) -> None:
    assert url == http_url(url, example=EXAMPLE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a URL such as http://127.0.0.1:9090"),
        ("127.0.0.1:9090", "must be a URL such as http://127.0.0.1:9090"),
        ("ftp://host", "must be a URL such as http://127.0.0.1:9090"),
        ("http://two words", "must be visible ASCII"),
        ("http://hö", "must be visible ASCII"),
        ("http://host/\x00", "must be visible ASCII"),
        ("http://", "must name a host"),
        ("http://:9090", "must name a host"),
        ("http://host:0", "must name a host, and a port from 1 to 65535"),
        ("http://a..b", "must name a host"),
        (f"http://{'a' * 64}", "must name a host"),
        ("http://host:65536", "is not a URL: its host or port cannot be read"),
        ("http://host:http", "is not a URL: its host or port cannot be read"),
        ("http://[::1", "is not a URL: its host or port cannot be read"),
        ("http://ann:hunter2@host", "must not hold a user or password"),
        ("http://hunter2@host/[", "must not hold a user or password"),
    ],
)
def test_anything_else_is_refused_and_not_repeated(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        http_url(text, example=EXAMPLE)

    assert "hunter2" not in str(caught.value)


def test_the_refusal_of_a_password_says_where_it_belongs() -> None:
    with pytest.raises(ValueError, match="could read; give --token-file"):
        http_url("http://a@b", example=EXAMPLE, instead="give --token-file")


def test_paths_can_be_added_to_a_base_url() -> None:
    assert "http://host/prom" == base_url("http://host/prom/", example=EXAMPLE)


@pytest.mark.parametrize("text", ["http://host?token=hunter2", "http://host#hunter2"])
def test_a_base_url_has_no_query(text: str) -> None:
    with pytest.raises(ValueError, match=r"must end before the \? or #"):
        base_url(text, example=EXAMPLE)


def test_an_address_is_a_host_and_a_port() -> None:
    addresses = {
        "127.0.0.1:11440": ("127.0.0.1", 11440),
        "localhost:0": ("localhost", 0),
        "[::1]:11440": ("::1", 11440),
        ":65535": ("", 65535),
    }

    assert addresses == {text: host_port(text, example="a:1") for text in addresses}
    assert list(addresses) == [host_port_text(*address) for address in addresses.values()]


@pytest.mark.parametrize(
    "text",
    ["", "11440", "127.0.0.1", "h:", "h:65536", "::1:80", "http://h:1", "h:1/x", "[a"],
)
def test_what_is_not_an_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT such as 127"):
        host_port(text, example="127.0.0.1:80")


def test_a_name_is_not_an_address() -> None:
    assert [True, True, False, False] == [is_address(one) for one in ("1.2.3.4", "::1", "h", "")]
