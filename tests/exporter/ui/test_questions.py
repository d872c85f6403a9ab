from __future__ import annotations

import pytest
from multidict import MultiDict

from exporter.ui.cells import Value
from exporter.ui.protocol import ChangesQuery, parse_changes, parse_map, parse_worst

SINCE = {"layout": "l-1", "revision": "7"}


def test_changes_are_asked_for_since_a_revision_of_a_layout() -> None:
    assert ChangesQuery("l-1", 7, None, is_value_whole=False) == parse_changes(SINCE)
    assert ChangesQuery("l-1", 7, Value.AGE, is_value_whole=False) == parse_changes(
        {**SINCE, "value": "age"}
    )
    assert 10**15 - 1 == parse_changes({**SINCE, "revision": "9" * 15}).revision
    assert ChangesQuery("l-1", 7, Value.AGE, is_value_whole=True) == parse_changes(
        {**SINCE, "value": "age", "full": "value"}
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("colour=red", "there is no parameter 'colour', only value"),
        ("value=heat", "there is no value 'heat', only speed, p99, errors, age"),
        ("value=", "there is no value ''"),
        ("value=status", "there is no value 'status'"),
        ("value=speed&value=age", "can take one value at a time"),
        ("layout=1", "there is no parameter 'layout'"),
    ],
)
def test_another_map_is_refused_with_what_there_is(query: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_map(dict_of(query))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "layout is required"),
        ("layout=1", "revision is required"),
        ("revision=1", "layout is required"),
        ("layout=1&revision=x", "revision must be a whole number"),
        ("layout=1&revision=", "revision must be a whole number"),
        ("layout=1&revision=-1", "revision must be a whole number"),
        ("layout=1&revision=1.5", "revision must be a whole number"),
        ("layout=1&revision=²", "revision must be a whole number"),
        ("layout=1&revision=1234567890123456", "revision must be a whole number"),
        ("layout=1&revision=1&revision=2", "can take one revision"),
        ("layout=1&revision=1&full=status", "full can only be value, not 'status'"),
        ("layout=1&revision=1&value=heat", "there is no value 'heat'"),
        ("layout=1&revision=1&node=n1", "no parameter 'node', only layout, revision, value, full"),
    ],
)
def test_other_changes_are_refused_with_what_there_is(query: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_changes(dict_of(query))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("value=heat", "there is no value 'heat', only status, speed, p99, errors, age"),
        ("value=status&value=speed", "can take one value at a time"),
        ("status=red", "no status 'red', only healthy"),
        ("node=a&node=b", "can take one node at a time"),
        ("colour=red", "no parameter 'colour', only value, id, status, node, model, engine"),
    ],
)
def test_other_worst_ones_are_refused_with_what_there_is(query: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_worst(dict_of(query))


def dict_of(query: str) -> MultiDict[str]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    return MultiDict([(key, text) for key, _, text in pairs])
