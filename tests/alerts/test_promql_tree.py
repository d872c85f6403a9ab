"""What the trees of expressions tell: labels as Prometheus leaves them, ranges, offsets."""

from __future__ import annotations

import pytest
from promql_parser import VectorSelector

from tests.alerts import promql_tree
from tests.alerts.promql_tree import labels, nodes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "x y z"),
        ("time()", ""),
        ("vector(1)", ""),
        ("-(a)", "x y z"),
        ("sum(a)", ""),
        ("sum by (x) (a)", "x"),
        ("sum without (x) (a)", "y z"),
        ("topk(5, a)", "x y z"),
        ("bottomk by (x) (5, a)", "x y z"),
        ("rate(a[5m])", "x y z"),
        ("max_over_time(a[1h:15s])", "x y z"),
        ("histogram_quantile(0.9, b)", "x"),
        ("quantile_over_time(0.9, b[5m])", "x le"),
        ("absent(a)", ""),
        ('absent(a{y="1", z=~"2"})', "y"),
        ("2 * a", "x y z"),
        ("a > 2 * time()", "x y z"),
        ("a and on (x) b", "x y z"),
        ("a unless on (x) b", "x y z"),
        ("a or b", "x"),
        ("a / on (x) b", "x"),
        ("a > on (x) b", "x"),
        ("a / on (x) group_left (le) b", "x y z le"),
        ("b / on (x) group_right (le) a", "x y z le"),
    ],
)
def test_labels_of_a_result_are_those_that_prometheus_leaves(text: str, expected: str) -> None:
    """The series a has the labels x, y and z; b has x and le."""
    assert set(expected.split()) == labels(nodes(text)[0], _labels_of_a_and_b)


def _labels_of_a_and_b(selector: VectorSelector) -> frozenset[str]:
    return frozenset("xyz") if selector.name == "a" else frozenset({"x", "le"})


def test_the_tree_tells_ranges_and_offsets_at_any_depth() -> None:
    text = "sum by (x) (rate(a[5m] offset 1m)) > max_over_time(a[1h:15s] offset 2m) + a offset 3m"

    assert (300.0, 3600.0) == promql_tree.ranges_s(text)
    assert [60.0, 120.0, 180.0] == sorted(promql_tree.offsets_s(text))
