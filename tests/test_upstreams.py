from __future__ import annotations

import msgspec
import pytest

from ollama_fleet.upstreams import Document, UpstreamList, ip_address


def listed(*instances: tuple[str, tuple[str, ...]]) -> bytes:
    """Return a list of instances with these models in memory."""
    upstreams = UpstreamList()
    for number, (id_, loaded) in enumerate(instances):
        upstreams.add(
            id_,
            "10.0.0.7",
            11434 + number,
            node="n1",
            engine="ollama",
            loaded=loaded,
            installed=("phi3", "qwen3:8b"),
            developer="",
        )
    return upstreams.encode()


def test_models_and_nodes_are_named_once_and_found_by_their_index() -> None:
    assert {
        "format": 1,
        "models": ["qwen3:8b", "phi3"],
        "nodes": ["n1"],
        "instances": [
            ["a", "10.0.0.7", 11434, 0, "ollama", [0], [1, 0], ""],
            ["b", "10.0.0.7", 11435, 0, "ollama", [1, 0], [1, 0], ""],
        ],
    } == msgspec.json.decode(listed(("a", ("qwen3:8b",)), ("b", ("phi3", "qwen3:8b"))))


def test_the_order_in_which_a_server_names_its_models_changes_nothing() -> None:
    names = tuple("abcdefghijklmn")

    assert listed(("a", names)) == listed(("a", names[::-1]))
    assert names == msgspec.json.decode(listed(("a", names[::-1])), type=Document).models[:14]


def test_latest_and_unknown_models_are_no_models_of_their_own() -> None:
    document = msgspec.json.decode(listed(("a", ("phi3:latest", ""))), type=Document)

    assert ("phi3", "qwen3:8b") == document.models
    assert [0] == document.instances[0][5]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "::1"),
        ("fd00:0::7", "fd00::7"),
        ("n1", None),
        ("n1.rack.4", None),
        ("fe80::1%eth0", None),
        ("a:b", None),
    ],
)
def test_only_addresses_that_a_gateway_can_connect_to_are_addresses(
    host: str, address: str | None
) -> None:
    assert address == ip_address(host)
