"""Look into PromQL as trees: which series, functions and labels an expression has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    LabelModifierType,
    Matcher,
    MatchOp,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    SubqueryExpr,
    UnaryExpr,
    ValueType,
    VectorMatchCardinality,
    VectorSelector,
    parse,
    walk,
)

SET_OPERATORS = frozenset({"and", "or", "unless"})
CHOOSING = frozenset({"topk", "bottomk"})
"""Aggregations that leave series as they are."""
NONE: frozenset[str] = frozenset()

LabelsOf = Callable[[VectorSelector], frozenset[str]]
"""Returns the labels of a series by its selector."""


@cache
def nodes(text: str) -> tuple[Expr, ...]:
    """Return every part of an expression, the whole first."""
    found: list[Expr] = []
    walk(parse(text), found.append)
    return tuple(found)


def selectors(text: str) -> tuple[VectorSelector, ...]:
    """Return the selectors of series, those below a range included."""
    return tuple(node for node in nodes(text) if isinstance(node, VectorSelector))


def calls(text: str) -> tuple[Call, ...]:
    return tuple(node for node in nodes(text) if isinstance(node, Call))


def aggregations(text: str) -> tuple[AggregateExpr, ...]:
    return tuple(node for node in nodes(text) if isinstance(node, AggregateExpr))


def operations(text: str) -> tuple[BinaryExpr, ...]:
    return tuple(node for node in nodes(text) if isinstance(node, BinaryExpr))


def ranges_s(text: str) -> tuple[float, ...]:
    """Return how far back each range and subquery looks, in seconds."""
    spans = (node.range for node in nodes(text) if isinstance(node, MatrixSelector | SubqueryExpr))
    return tuple(span.total_seconds() for span in spans if span is not None)


def offsets_s(text: str) -> tuple[float, ...]:
    """Return every offset, in seconds; subqueries' too."""
    shifts = (
        node.offset for node in nodes(text) if isinstance(node, VectorSelector | SubqueryExpr)
    )
    return tuple(shift.total_seconds() for shift in shifts if shift is not None)


def matchers(selector: VectorSelector) -> Iterator[Matcher]:
    """Yield the matchers of a selector, those of alternatives included."""
    yield from selector.matchers.matchers
    for alternative in selector.matchers.or_matchers:
        yield from alternative


def values(matcher: Matcher) -> tuple[str, ...]:
    """Return the values that a matcher names; an expression such as `a|b` names two."""
    is_expression = matcher.op in (MatchOp.Re, MatchOp.NotRe)
    return tuple(matcher.value.split("|")) if is_expression else (matcher.value,)


def grouping(node: AggregateExpr) -> frozenset[str] | None:
    """Return the labels that an aggregation is by; None where it says `without`."""
    if node.modifier is None:
        return NONE
    is_by = node.modifier.type == AggModifierType.By
    return frozenset(node.modifier.labels) if is_by else None


def matching(node: BinaryExpr) -> frozenset[str] | None:
    """Return the labels that an operation matches `on`; None where it does not say `on`."""
    modifier = node.modifier
    if modifier is None or modifier.matching is None:
        return None
    is_on = modifier.matching.type == LabelModifierType.Include
    return frozenset(modifier.matching.labels) if is_on else None


def brought(node: BinaryExpr) -> frozenset[str]:
    """Return the labels that `group_left` or `group_right` brings from the other side."""
    return frozenset((node.modifier and node.modifier.group_labels) or ())


def is_scalar(node: Expr) -> bool:
    """Return whether a part is a number, not a vector."""
    match node:
        case NumberLiteral():
            return True
        case Call():
            return bool(node.func.return_type == ValueType.Scalar)
        case ParenExpr() | UnaryExpr():
            return is_scalar(node.expr)
        case BinaryExpr():
            return is_scalar(node.lhs) and is_scalar(node.rhs)
        case _:
            return False


def labels(node: Expr, labels_of: LabelsOf) -> frozenset[str]:
    """Return the labels that all series of a part's result have, without the metric's name."""
    match node:
        case VectorSelector():
            return labels_of(node)
        case MatrixSelector():
            return labels_of(node.vector_selector)
        case ParenExpr() | UnaryExpr() | SubqueryExpr():
            return labels(node.expr, labels_of)
        case AggregateExpr():
            return _of_aggregation(node, labels_of)
        case BinaryExpr():
            return _of_operation(node, labels_of)
        case Call():
            return _of_call(node, labels_of)
        case _:
            return NONE


def _of_aggregation(node: AggregateExpr, labels_of: LabelsOf) -> frozenset[str]:
    if str(node.op) in CHOOSING:
        return labels(node.expr, labels_of)
    kept = grouping(node)
    if kept is not None:
        return kept
    dropped = node.modifier.labels if node.modifier else ()
    return labels(node.expr, labels_of) - frozenset(dropped)


def _of_call(node: Call, labels_of: LabelsOf) -> frozenset[str]:
    if node.func.name == "absent":
        told = (matchers(part) for part in node.args if isinstance(part, VectorSelector))
        return frozenset(one.name for each in told for one in each if one.op == MatchOp.Equal)
    if node.func.name == "label_replace":
        series, label, *_ = node.args
        return labels(series, labels_of) | {label.val}
    kept = [labels(part, labels_of) for part in node.args if _is_series(part)]
    dropped = {"le"} if node.func.name == "histogram_quantile" else NONE
    return kept[0] - dropped if kept else NONE


def _is_series(node: Expr) -> bool:
    return not is_scalar(node) and not isinstance(node, StringLiteral)


def _of_operation(node: BinaryExpr, labels_of: LabelsOf) -> frozenset[str]:
    left, right = labels(node.lhs, labels_of), labels(node.rhs, labels_of)
    if is_scalar(node.lhs) or is_scalar(node.rhs):
        return left | right
    if str(node.op) in SET_OPERATORS:
        return left & right if str(node.op) == "or" else left
    cardinality = node.modifier.card if node.modifier else None
    if cardinality == VectorMatchCardinality.ManyToOne:
        return left | brought(node)
    if cardinality == VectorMatchCardinality.OneToMany:
        return right | brought(node)
    on = matching(node)
    return left & right if on is None else on
