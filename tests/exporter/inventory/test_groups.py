"""Prometheus service discovery as inventory."""

from __future__ import annotations

import json

import pytest

from exporter.errors import InputError
from exporter.inventory.entries import targets_of
from exporter.inventory.formats import Format, records
from exporter.model import EngineName, State, Target

NAME = "http://host/sd"


def read(*groups: object) -> tuple[Target, ...]:
    return targets_of(records(json.dumps(groups).encode(), NAME, Format.HTTP), NAME)


def problems(*groups: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(*groups)
    return [str(problem) for problem in caught.value.problems]


def test_a_group_gives_one_target_for_each_address() -> None:
    first, second = read({"targets": ["10.0.0.1:11434", "[::1]:80"], "labels": {"rack": "r1"}})

    assert ("10.0.0.1:11434", "[::1]:80") == (first.id, second.id)
    assert ("10.0.0.1", "::1") == (first.node, second.node)
    assert {"rack": "r1"} == first.labels == second.labels
    assert f"{NAME}[0].targets[1]" == second.origin


@pytest.mark.parametrize("prefix", ["", "__meta_ollama_"])
@pytest.mark.parametrize("id_label", ["id", "instance_id"])
def test_labels_that_name_fields_are_those_fields(prefix: str, id_label: str) -> None:
    fields = {
        id_label: "a",
        "node": "n1",
        "model": "m",
        "engine": "fleet",
        "state": "provisioning",
        "developer": "ada",
    }
    (target,) = read({"targets": ["h:1"], "labels": {prefix + k: v for k, v in fields.items()}})

    assert (
        Target(
            id="a",
            host="h",
            port=1,
            node="n1",
            model="m",
            engine=EngineName.FLEET,
            state=State.PROVISIONING,
            developer="ada",
        )
        == target
    )


def test_prometheus_own_labels_are_left_out() -> None:
    (target,) = read({"targets": ["h:1"], "labels": {"__meta_dc": "x", "__param_a": "y", "b": "z"}})

    assert {"b": "z"} == target.labels


def test_the_scheme_label_makes_it_https_and_gives_the_port() -> None:
    secure, plain = read(
        {"targets": ["a"], "labels": {"__scheme__": "https"}}, {"targets": ["b"], "labels": {}}
    )

    assert "https://a:443" == secure.url
    assert "http://b:80" == plain.url


def test_two_labels_for_one_field_may_agree_but_not_differ() -> None:
    (target,) = read({"targets": ["h:1"], "labels": {"node": "n", "__meta_ollama_node": "n"}})
    (problem,) = problems({"targets": ["h:1"], "labels": {"id": "a", "instance_id": "b"}})

    assert "n" == target.node
    assert "labels.instance_id is 'b', but labels.id is 'a'; both mean id" in problem


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"targets": "h:1"}, "targets must be a list of host:port, got 'h:1'"),
        ({"targets": [7]}, "targets[0] must be host:port, got 7"),
        ({"targets": ["http://h:1"]}, "put the scheme into the label __scheme__"),
        ({"targets": ["h:1/x"]}, "targets[0] must be host:port, got 'h:1/x'"),
        ({"targets": ["h:0"]}, "targets[0] must be a whole number from 1 to 65535"),
        ({"targets": [], "label": {}}, "unknown key 'label'; did you mean labels?"),
        ({"targets": [], "labels": []}, "labels must be an object of texts, got a list"),
        ({"targets": [], "labels": {"__scheme__": "ws"}}, "must be http or https, got 'ws'"),
        ({"targets": [], "labels": {"__scheme__": []}}, "must be http or https, got a list"),
        ({"targets": [], "labels": {"state": "gone"}}, "labels.state must be one of running"),
        ({"targets": [], "labels": {"id": 7}}, "labels.id must be a text, got 7"),
        ({"targets": [], "labels": {"a b": ""}}, "labels.a b is not a label name"),
        ({"targets": [], "labels": {"ab": 1}}, "labels.ab must be a text, got 1"),
    ],
)
def test_a_group_that_is_wrong_is_refused_with_what_would_be_right(
    group: dict[str, object], message: str
) -> None:
    (problem,) = problems(group)

    assert message in problem


def test_yaml_names_the_line_of_each_address() -> None:
    text = b"- labels: {rack: r1}\n  targets:\n  - a:1\n  - b:0\n  - c:2\n"

    with pytest.raises(InputError) as caught:
        targets_of(records(text, "sd.yml", Format.YAML), "sd.yml")
    good = targets_of(records(text.replace(b"b:0", b"b:1"), "sd.yml", Format.YAML), "sd.yml")

    assert ["sd.yml:4"] == [problem.place for problem in caught.value.problems]
    assert ["sd.yml:3", "sd.yml:4", "sd.yml:5"] == [target.origin for target in good]
