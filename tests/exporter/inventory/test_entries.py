"""What entries and service-discovery groups mean, and how their faults are told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import InputError
from exporter.inventory.entries import targets_of
from exporter.inventory.formats import Format, records
from exporter.model import HealthCheck, State, Target
from tests.exporter.inventory.fakes import entry

NAME = "http://host/instances"


def read(*entries: object, form: Format = Format.HTTP) -> tuple[Target, ...]:
    return targets_of(records(json.dumps(entries).encode(), NAME, form), NAME)


def read_yaml(text: str) -> tuple[Target, ...]:
    return targets_of(records(text.encode(), "fleet.yml", Format.YAML), "fleet.yml")


def problems(*entries: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(*entries)
    return [str(problem) for problem in caught.value.problems]


def test_every_field_of_an_entry_arrives() -> None:
    (target,) = read(
        {
            "id": "a",
            "url": "https://node1.test:8443/llm/",
            "node": "node1",
            "model": "llama3.1:8b",
            "engine": "llamacpp",
            "state": "draining",
            "developer": "ada@example.test",
            "started": 1_800_000_000.5,
            "health": "canary",
            "labels": {"rack": "r7"},
        }
    )

    assert (
        Target(
            id="a",
            host="node1.test",
            port=8443,
            tls=True,
            path="/llm",
            node="node1",
            model="llama3.1:8b",
            engine="llamacpp",
            state=State.DRAINING,
            developer="ada@example.test",
            started_s=1_800_000_000.5,
            health=HealthCheck.CANARY,
            labels={"rack": "r7"},
        )
        == target
    )
    assert f"{NAME}[0]" == target.origin


def test_a_model_and_its_latest_are_one() -> None:
    (target,) = read({"host": "10.0.0.1", "port": 11434, "model": "llama3.1:latest"})

    assert "llama3.1" == target.model


def test_what_an_entry_leaves_out_has_a_default() -> None:
    (target,) = read({"host": "10.0.0.1", "port": 11434, "model": None, "developer": ""})

    assert Target(id="10.0.0.1:11434", host="10.0.0.1", port=11434, node="10.0.0.1") == target
    assert "auto" == target.engine
    assert State.RUNNING is target.state


@pytest.mark.parametrize(
    "started",
    [1_800_000_000, 1.8e9, "1800000000", "2027-01-15T08:00:00Z", "2027-01-15T10:00:00.000+02:00"],
)
def test_a_start_is_a_time_in_seconds_or_of_rfc_3339(started: object) -> None:
    (target,) = read({"url": "http://h", "started": started})

    assert 1_800_000_000.0 == target.started_s


@pytest.mark.parametrize(
    "started",
    [0, -1, True, 1e12, 10**400, "nan", "inf", "yesterday", "2027-01-15T08:00:00", [1], "²"],
)
def test_what_is_no_time_is_refused(started: object) -> None:
    (problem,) = problems({"url": "http://h", "started": started})

    assert "started must be a time such as 2026-01-31T08:00:00Z, or in seconds since" in problem


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ({"url": "http://h"}, "http://h:80"),
        ({"url": "https://h/"}, "https://h:443"),
        ({"url": "HTTP://h:1/a/b"}, "http://h:1/a/b"),
        ({"url": "http://[2001:db8::1]:65535"}, "http://[2001:db8::1]:65535"),
        ({"host": "2001:db8::1", "port": 80}, "http://[2001:db8::1]:80"),
        ({"host": "[::1]", "port": "80"}, "http://[::1]:80"),
        ({"host": "gpu_01.rack-2.test", "port": 1}, "http://gpu_01.rack-2.test:1"),
    ],
)
def test_an_instance_is_found_by_url_or_by_host_and_port(
    address: dict[str, object], url: str
) -> None:
    (target,) = read(address)

    assert url == target.url
    assert target.netloc == target.id


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"url": "ftp://h"}, "url must begin with http:// or https://, got 'ftp://h'"),
        ({"url": "h:80"}, "url must begin with http:// or https://"),
        ({"url": "http://h:0"}, "url must have a port from 1 to 65535, got 0"),
        ({"url": "http://h:65536"}, "got 65536"),
        (
            {"url": "http://h:99999999999999999999"},
            "url must have a port from 1 to 65535, got 999999",
        ),
        ({"url": "http://h/a?b=c"}, "url must be a base URL, without ? and #"),
        ({"url": "http://h/a b"}, "visible ASCII"),
        ({"url": "http://h/\r\nX: y"}, "visible ASCII"),
        ({"url": "http://hö"}, "visible ASCII"),
        ({"url": "http://[::g]:1"}, "visible ASCII"),
        ({"url": "http://[1:2]:1"}, "host is not an IPv6 address"),
        ({"url": f"http://{'h' * 254}"}, "host must be at most 253 characters"),
        ({"url": f"http://h/{'a' * 1_024}"}, "path must be at most 1,024 characters"),
        ({"url": 7}, "url must be a text, got 7"),
        ({"url": "http://h", "port": 1}, "url stands beside host or port"),
        ({}, "url is missing; give url, or host and port"),
        ({"host": "h"}, "port is missing"),
        ({"port": 1}, "host is missing"),
        ({"host": "a b", "port": 1}, "host must be a host name or an IP address"),
        ({"host": "fe80::1%eth0", "port": 1}, "host must be a host name or an IP address"),
        ({"host": "h", "port": 0}, "got 0"),
        ({"host": "h", "port": 65_536}, "got 65536"),
        ({"host": "h", "port": True}, "got True"),
        ({"host": "h", "port": 1.5}, "got 1.5"),
        ({"host": "h", "port": "²"}, "port must be a whole number"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_the_reason(
    bad: dict[str, object], message: str
) -> None:
    (problem,) = problems(bad)

    assert message in problem


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"modle": "x"}, "unknown key 'modle'; did you mean model? (instance 'a')"),
        ({"target": "x"}, "unknown key 'target'; did you mean targets?"),
        ({"qqq": 1}, "unknown key 'qqq' (instance 'a')"),
        ({"engine": "olama"}, "engine must be one of auto, fleet, "),
        ({"engine": "olama"}, "; did you mean ollama?"),
        ({"state": "Running"}, "state must be one of running, provisioning, draining"),
        ({"state": 1}, "got 1"),
        ({"state": ["running"]}, "got a list"),
        ({"model": 7}, "model must be a text, got 7; put it in quotes"),
        ({"node": "n" * 257}, "node must be at most 256 characters long, got 257"),
        ({"developer": "a\nb"}, "developer must not contain control characters, got 'a\\nb'"),
        ({"developer": "a\x7fb"}, "control characters"),
        ({"developer": "a\x9bb"}, "control characters"),
        ({"labels": ["rack"]}, "labels must be an object of texts, got a list"),
        ({"labels": {"rack": 7}}, "labels.rack must be a text, got 7; put it in quotes"),
        ({"labels": {"rack": None}}, "labels.rack must be a text, got nothing"),
        ({"labels": {"1st": "x"}}, "labels.1st is not a label name"),
        ({"labels": {"a-b": "x"}}, "labels.a-b is not a label name"),
        ({"labels": {"rack\n": "x"}}, "is not a label name"),
        ({"labels": {"räck": "x"}}, "is not a label name"),
        ({"labels": {"": "x"}}, "is not a label name"),
        ({"labels": {"__name__": "up"}}, "labels.__name__ is not allowed"),
        ({"labels": {"node": "x"}}, "labels.node is a key of the instance itself"),
        ({"labels": {"instance_id": "x"}}, "labels.instance_id is a key of the instance itself"),
        ({"labels": {"a": "x" * 257}}, "labels.a must be at most 256 characters long"),
        ({"labels": {"a" * 257: "x"}}, "must be at most 256 characters long"),
        ({"labels": {f"l{i}": "" for i in range(65)}}, "must hold at most 64 labels, got 65"),
    ],
)
def test_a_field_that_is_wrong_is_refused_with_what_would_be_right(
    more: dict[str, Any], message: str
) -> None:
    (problem,) = problems(entry("a", **more))

    assert message in problem


@pytest.mark.parametrize(
    "text",
    [
        '"} up 1',
        "\\",
        "{{ $labels.x }}",
        "=cmd()",
        "<script>",
        "🦙",
        "\u00a0\u202e\u2028",
        "%s {0}",
    ],
)
def test_hostile_texts_arrive_as_they_are(text: str) -> None:
    (target,) = read({"id": text, "url": "http://h:1", "model": text, "labels": {"x": text}})

    assert (text, text, text) == (target.id, target.model, target.labels["x"])


def test_all_problems_are_told_at_once_each_with_its_place() -> None:
    found = problems(entry("a", state="x", engine="y"), entry("b"), "c", entry("d", port=1))

    assert [f"{NAME}[0]", f"{NAME}[0]", f"{NAME}[2]", f"{NAME}[3]"] == [
        problem.partition(": ")[0] for problem in found
    ]


def test_one_id_at_two_places_names_both() -> None:
    (problem,) = problems(entry("a"), entry("b"), entry("a"))

    assert f"{NAME}[2]: id 'a' is also at {NAME}[0]; " in problem


@pytest.mark.parametrize("bad_at", [0, 1])
def test_an_id_is_told_to_stand_twice_even_where_an_address_is_bad(bad_at: int) -> None:
    entries = [entry("a"), entry("a")]
    entries[bad_at]["url"] = "h:1"

    address, repeated = problems(*entries)

    assert f"{NAME}[{bad_at}]: url must begin with http://" in address
    assert f"{NAME}[1]: id 'a' is also at {NAME}[0]; " in repeated


@pytest.mark.parametrize(
    "url",
    [
        "http://ada:s3cret@h:1",
        "http://ada:s3/cret@h:1",
        "ftp://ada:s3cret@h",
        "http://h:1/?token=s3cret",
        "h:1/?token=s3cret",
    ],
)
def test_credentials_in_an_address_are_refused_and_never_repeated(url: str) -> None:
    found = [
        *problems({"id": "a", "url": url}),
        *problems({"host": url, "port": 1}),
        *problems({"targets": [url]}),
    ]

    assert 3 == len(found)
    assert "s3" not in "".join(found)


def test_yaml_faults_carry_the_line_of_the_value() -> None:
    with pytest.raises(InputError) as caught:
        read_yaml(
            "# fleet\n- id: a\n  url: http://h:1\n  labels:\n    ok: x\n    a-b: y\n  nod: z\n"
        )

    assert ["fleet.yml:7", "fleet.yml:6"] == [problem.place for problem in caught.value.problems]


def test_yaml_words_stay_the_texts_they_are() -> None:
    (target,) = read_yaml("- {id: 007, host: h, port: 80, node: no, model: 1.10, developer: ~}")

    assert ("007", 80, "no", "1.10", "") == (
        target.id,
        target.port,
        target.node,
        target.model,
        target.developer,
    )


# JSON escapes what lies beyond by surrogate pairs, which YAML does not know.
TEXT = st.text(st.characters(max_codepoint=0xFFFF), max_size=300)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": TEXT, "host": st.just("h") | TEXT, "port": st.integers(-1, 70_000)},
            optional={
                "model": TEXT | st.none() | st.integers(),
                "state": st.sampled_from(["running", "draining", "gone"]),
                "labels": st.dictionaries(st.just("rack") | TEXT, TEXT | st.booleans()),
            },
        ),
        max_size=4,
    )
)
def test_whatever_an_entry_holds_it_is_read_or_refused_and_yaml_agrees(
    entries: list[dict[str, object]],
) -> None:
    """Nothing but InputError ever comes out, and JSON means the same in a YAML file."""
    body = json.dumps(entries).encode()
    try:
        expected = targets_of(records(body, "f", Format.HTTP), "f")
    except InputError:
        return

    assert expected == targets_of(records(body, "f", Format.YAML), "f")
    assert [e["id"] or t.netloc for e, t in zip(entries, expected, strict=True)] == [
        t.id for t in expected
    ]


SD_NAME = "http://host/sd"


def read_groups(*groups: object) -> tuple[Target, ...]:
    return targets_of(records(json.dumps(groups).encode(), SD_NAME, Format.HTTP), SD_NAME)


def group_problems(*groups: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_groups(*groups)
    return [str(problem) for problem in caught.value.problems]


def test_a_group_gives_one_target_for_each_address() -> None:
    first, second = read_groups(
        {"targets": ["10.0.0.1:11434", "[::1]:80"], "labels": {"rack": "r1"}}
    )

    assert ("10.0.0.1:11434", "[::1]:80") == (first.id, second.id)
    assert ("10.0.0.1", "::1") == (first.node, second.node)
    assert {"rack": "r1"} == first.labels == second.labels
    assert f"{SD_NAME}[0].targets[1]" == second.origin


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
        "started": "1800000000.5",
        "health": "canary",
    }
    (target,) = read_groups(
        {"targets": ["h:1"], "labels": {prefix + k: v for k, v in fields.items()}}
    )

    assert (
        Target(
            id="a",
            host="h",
            port=1,
            node="n1",
            model="m",
            engine="fleet",
            state=State.PROVISIONING,
            developer="ada",
            started_s=1_800_000_000.5,
            health=HealthCheck.CANARY,
        )
        == target
    )


def test_prometheus_own_labels_are_left_out() -> None:
    (target,) = read_groups(
        {"targets": ["h:1"], "labels": {"__meta_dc": "x", "__param_a": "y", "b": "z"}}
    )

    assert {"b": "z"} == target.labels


def test_the_scheme_label_makes_it_https_and_gives_the_port() -> None:
    secure, plain = read_groups(
        {"targets": ["a"], "labels": {"__scheme__": "https"}}, {"targets": ["b"], "labels": {}}
    )

    assert "https://a:443" == secure.url
    assert "http://b:80" == plain.url


def test_two_labels_for_one_field_may_agree_but_not_differ() -> None:
    (target,) = read_groups(
        {"targets": ["h:1"], "labels": {"node": "n", "__meta_ollama_node": "n"}}
    )
    (problem,) = group_problems({"targets": ["h:1"], "labels": {"id": "a", "instance_id": "b"}})

    assert "n" == target.node
    assert "labels.instance_id is 'b', but labels.id is 'a'; both mean id" in problem


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"targets": "h:1"}, "targets must be a list of host:port, got 'h:1'"),
        ({"targets": [7]}, "targets[0] must be host:port, got 7"),
        ({"targets": ["http://h:1"]}, "put the scheme into the label __scheme__"),
        ({"targets": ["h:1/x"]}, "targets[0] must be host:port, got 'h:1/x'"),
        ({"targets": ["h:0"]}, "targets[0] must have a port from 1 to 65535, got 0"),
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
    (problem,) = group_problems(group)

    assert message in problem


def test_yaml_names_the_line_of_each_address() -> None:
    text = b"- labels: {rack: r1}\n  targets:\n  - a:1\n  - b:0\n  - c:2\n"

    with pytest.raises(InputError) as caught:
        targets_of(records(text, "sd.yml", Format.YAML), "sd.yml")
    good = targets_of(records(text.replace(b"b:0", b"b:1"), "sd.yml", Format.YAML), "sd.yml")

    assert ["sd.yml:4"] == [problem.place for problem in caught.value.problems]
    assert ["sd.yml:3", "sd.yml:4", "sd.yml:5"] == [target.origin for target in good]
