from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bench import table
from tests.bench.figures import Durations, Row, Target

OURS = Row(what="ours", user_s=0.25, system_s=0.15, is_baseline=True, targets=frozenset(Target))


def _cells(text: str, what: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(what))
    return line.removeprefix(what).split()


def test_ratios_are_to_the_baseline_wherever_it_stands() -> None:
    text = table.render([Row(what="peer", user_s=1.8, system_s=0.2), OURS])

    assert "5.0x" in _cells(text, "peer")
    assert "1.0x" in _cells(text, "ours")


def test_without_a_baseline_there_are_no_ratios() -> None:
    assert None is table.ratio(Row(what="peer", user_s=1.0, system_s=1.0), None)
    assert None is table.ratio(Row(what="peer"), OURS)


def test_every_column_is_aligned_under_its_head() -> None:
    text = table.render([OURS, Row(what="a peer with a long name", healthy=10_000)])
    head, unit, ours, peer = text.splitlines()[:4]
    end = unit.index("healthy") + len("healthy")

    assert end == head.index("seen") + len("seen")
    assert "10,000" == peer[:end].split()[-1]
    assert "–" == ours[:end].split()[-1]


@pytest.mark.parametrize(
    ("target", "good", "bad"),
    [
        (Target.CPU, {"user_s": 0.3, "system_s": 0.2}, {"user_s": 0.3, "system_s": 0.21}),
        (Target.MEMORY, {"resident_bytes": 200_000_000}, {"resident_bytes": 200_000_001}),
        (Target.FLAT, {"grown_bytes": 20_000_000}, {"grown_bytes": 20_000_001}),
        (Target.PAGE, {"render_s": 0.050}, {"render_s": 0.051}),
        (Target.BLOCKING, {"blocked_s": 0.020}, {"blocked_s": 0.021}),
        (Target.BELOW_OURS, {"user_s": 0.2, "system_s": 0.1}, {"user_s": 0.3, "system_s": 0.1}),
    ],
)
def test_each_target_is_met_up_to_its_limit(
    target: Target, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    targets = frozenset({target})

    assert [] == table.missed(Row(what="x", targets=targets, **good), OURS)
    assert [target] == table.missed(Row(what="x", targets=targets, **bad), OURS)
    assert [target] == table.missed(Row(what="x", targets=targets), OURS)
    assert [] == table.missed(Row(what="x", **bad), OURS)


def test_the_verdict_names_what_is_missed() -> None:
    row = Row(what="x", render_s=0.06, resident_bytes=1, targets=frozenset(Target))

    assert "no: CPU, growth, page, blocking, CPU below healthy" in table.render([row])


def test_units_are_those_of_the_head() -> None:
    row = Row(
        what="x",
        resident_bytes=131_600_000,
        render_s=0.0494,
        gzip_fetch_s=Durations(0.015, 0.09, 0.093),
    )

    assert {"131.6", "49", "15/93"} <= set(_cells(table.render([row]), "x"))


def test_sentences_stand_below_the_table() -> None:
    text = table.render(["recovery: quick", OURS])

    assert "recovery: quick" == text.splitlines()[-1]
    assert text.index("targets: at most") < text.index("recovery")


def test_sentences_alone_come_without_a_table() -> None:
    assert "recovery: quick" == table.render(["recovery: quick"])


def test_json_holds_the_same() -> None:
    document = json.loads(table.as_json([OURS, "a note"]))

    assert ["a note"] == document["notes"]
    assert 0.25 == document["rows"][0]["user_s"]
