from __future__ import annotations

from typing import Any

import msgspec
import pytest

from exporter.instances import Filter, parse_filter, to_json
from exporter.model import CanaryOutcome, CanaryState, Outcome, State, Target, Values
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
        }
    ] == seen(C)


def test_an_instance_that_stalls_says_since_how_many_canaries() -> None:
    stalled = CanaryState(CanaryOutcome.STALLED, "no answer", NOW_S, 2, NOW_S)

    (view,) = seen(row(Target("a", "h", 1), reading(), stalled))

    assert ("healthy", "stalled", "no answer", 5.0, 2) == (
        view["status"],
        *[view[f"canary_{name}"] for name in ("outcome", "error", "age_seconds", "stalled")],
    )


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


@pytest.mark.parametrize("text", ['"', "\\", "\n\r\t\x00", "</script>", "\u2028", "größe", "🦙"])
def test_hostile_texts_arrive_as_they_were(text: str) -> None:
    hostile = Target(text, "h", 1, node=text, developer=text, labels={"a": text})
    failure = LastFailure(Outcome.BAD_BODY, text, NOW_S)

    (view,) = seen(row(hostile), failure=failure)

    assert {text} == {
        view["id"],
        view["node"],
        view["developer"],
        view["labels"]["a"],
        view["last_failure"],
    }
