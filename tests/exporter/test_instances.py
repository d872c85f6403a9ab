from __future__ import annotations

from typing import Any

import msgspec
import pytest

from exporter.instances import Filter, parse_filter, to_json
from exporter.model import (
    CanaryOutcome,
    CanaryState,
    Condition,
    Generation,
    LoadedModel,
    Outcome,
    State,
    Target,
    Values,
)
from exporter.scrape_target import LastFailure
from exporter.snapshot import Row
from tests.exporter.fleets import NOW_S, reading, row

A = row(
    Target("a", "10.0.0.1", 11434, node="n1", model="llama3.1:8b", developer="ada"),
    reading(values=Values(tokens_per_second=42.0, version="0.4.0")),
)
B = row(Target("b", "10.0.0.2", 11434, node="n2", model="phi3"), reading(Outcome.TIMEOUT))
C = row(Target("c", "10.0.0.2", 11435, node="n2", engine="ollama"))
D = row(Target("d", "10.0.0.2", 11436, node="n2", state=State.PROVISIONING))

PARTLY_ON_CPU = LoadedModel("phi3", 4e9, 3e9, expires_at_s=NOW_S + 300.0, context_length=4096.0)
PINNED = LoadedModel("tiny", is_pinned=True)
E = row(
    Target("e", "10.0.0.3", 11434, node="n3", model="llama3.1:8b", started_s=NOW_S - 60.0),
    reading(values=Values(loaded=(PARTLY_ON_CPU, PINNED), installed=("phi3", "tiny"))),
)

FAILURE = LastFailure(Outcome.REFUSED, "connection refused", NOW_S - 90.0)


def seen(
    *rows: Row, failure: LastFailure | None = None, wanted: Filter | None = None
) -> list[dict[str, Any]]:
    """Return what the page says of rows, 5 s after their last poll."""
    body = to_json([(one, failure) for one in rows], wanted or Filter(), now_s=NOW_S + 5.0)
    views: list[dict[str, Any]] = msgspec.json.decode(body)
    return views


def ids(**query: str) -> list[str]:
    return [view["id"] for view in seen(A, B, C, D, wanted=parse_filter(query))]


def test_a_healthy_instance_is_described_in_full() -> None:
    assert [
        {
            "id": "a",
            "url": "http://10.0.0.1:11434",
            "node": "n1",
            "model": "llama3.1:8b",
            "engine": "fleet",
            "state": "running",
            "status": "healthy",
            "version": "0.4.0",
            "developer": "ada",
            "last_outcome": "ok",
            "metrics_outcome": "ok",
            "latency_seconds": 0.002,
            "age_seconds": 5.0,
            "tokens_per_second": 42.0,
        }
    ] == seen(A)


def test_what_is_not_known_is_left_out() -> None:
    assert [
        {
            "id": "c",
            "url": "http://10.0.0.2:11435",
            "node": "n2",
            "model": "",
            "engine": "ollama",
            "state": "running",
            "status": "unknown",
            "failing_seconds": 5.0,
        }
    ] == seen(C)


def test_an_instance_that_stalls_says_since_how_many_canaries() -> None:
    stalled = CanaryState(CanaryOutcome.STALLED, "no answer", NOW_S, 2, NOW_S)

    (view,) = seen(row(Target("a", "h", 1), reading(), stalled))

    assert ("healthy", "stalled", "no answer", 5.0, 2) == (
        view["status"],
        *[view[f"canary_{name}"] for name in ("outcome", "error", "age_seconds", "stalled")],
    )


def test_an_instance_says_which_models_it_has_in_memory_and_on_disk_and_what_is_wrong() -> None:
    (listed,) = seen(E)
    (alone,) = seen(E, wanted=Filter(id="e"))

    assert ["model_not_loaded", "model_not_installed", "on_cpu"] == listed["conditions"]
    assert [
        {
            "model": "phi3", "bytes": 4e9, "vram_bytes": 3e9, "context_length": 4096.0,
            "expires_timestamp_seconds": NOW_S + 300.0,
        },
        {"model": "tiny", "never_expires": True},
    ] == listed["loaded_models"]  # fmt: skip
    assert (2, None) == (listed["n_installed_models"], listed.get("installed_models"))
    assert ["phi3", "tiny"] == alone["installed_models"]
    assert NOW_S - 60.0 == listed["start_time_seconds"]


def test_an_instance_that_has_nothing_loaded_says_so_with_an_empty_list() -> None:
    (view,) = seen(row(Target("a", "h", 1), reading(values=Values(loaded=()))))

    assert ([], ["nothing_loaded"]) == (view["loaded_models"], view["conditions"])


@pytest.mark.parametrize(
    ("asked_before_s", "expected"), [(60.0, [90.0, 0.25, 0.125, 2.0, 3.0]), (7200.0, [None] * 5)]
)
def test_a_canarys_times_are_shown_for_as_long_as_they_count(
    asked_before_s: float, expected: list[float | None]
) -> None:
    """An hour, as in the series; those since may have been skipped."""
    generation = Generation(8.0, 90.0, 0.25, 0.125, 2.0, 3.0)
    skipped = CanaryState(
        CanaryOutcome.SKIPPED_BUSY, "busy", NOW_S, 0, NOW_S - asked_before_s, generation
    )

    (view,) = seen(row(Target("a", "h", 1), reading(), skipped))

    times = ("time_to_first_token_seconds", "waiting_seconds", "load_seconds", "duration_seconds")
    names = ("tokens_per_second", *times)
    assert expected == [view.get(f"canary_{name}") for name in names]


def test_a_failure_is_told_with_its_age_even_when_later_polls_went_well() -> None:
    (view,) = seen(A, failure=FAILURE)

    assert ("healthy", "ok") == (view["status"], view["last_outcome"])
    assert ("refused", "connection refused", 95.0) == (
        view["last_failure_outcome"],
        view["last_failure"],
        view["last_failure_age_seconds"],
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"id": "b"}, ["b"]),
        ({"status": "healthy"}, ["a"]),
        ({"status": "unhealthy"}, ["b"]),
        ({"status": "unknown"}, ["c"]),
        ({"status": "provisioning"}, ["d"]),
        ({"node": "n2"}, ["b", "c", "d"]),
        ({"model": "phi3"}, ["b"]),
        ({"model": ""}, ["c", "d"]),
        ({"engine": "fleet"}, ["a", "b"]),
        ({"engine": "ollama"}, ["c"]),
        ({"engine": "auto"}, ["d"]),
        ({"developer": "ada"}, ["a"]),
        ({"node": "n2", "status": "unhealthy"}, ["b"]),
        ({"node": "n1", "status": "unhealthy"}, []),
        ({"node": "nowhere"}, []),
    ],
)
def test_filters_take_what_matches_all_of_them(query: dict[str, str], expected: list[str]) -> None:
    assert expected == ids(**query)


@pytest.mark.parametrize("condition", Condition)
def test_a_condition_is_a_filter(condition: Condition) -> None:
    others = {*Condition} - {"model_not_loaded", "model_not_installed", "on_cpu"}

    assert ([] if condition in others else ["e"]) == [
        view["id"] for view in seen(A, E, wanted=parse_filter({"condition": condition}))
    ]


@pytest.mark.parametrize("key", ["status", "condition"])
def test_a_status_or_condition_that_there_is_not_is_refused_with_those_that_there_are(
    key: str,
) -> None:
    with pytest.raises(ValueError, match=f"no {key} 'red', only (healthy|model_not_loaded), "):
        parse_filter({key: "red"})


@pytest.mark.parametrize("text", ['"', "\\", "\n\r\t\x00", "</script>", "\u2028", "größe", "🦙"])
def test_hostile_texts_arrive_as_they_were(text: str) -> None:
    hostile = Target(text, "h", 1, node=text, developer=text, labels={"a": text})
    failure = LastFailure(Outcome.BAD_BODY, text, NOW_S)
    values = Values(loaded=(LoadedModel(text),), installed=(text,))

    (view,) = seen(row(hostile, reading(values=values)), failure=failure, wanted=Filter(id=text))

    assert {text} == {
        view["id"],
        view["node"],
        view["developer"],
        view["labels"]["a"],
        view["last_failure"],
        view["loaded_models"][0]["model"],
        *view["installed_models"],
    }
