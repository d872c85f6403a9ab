"""Write what was found as text for people and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exporter.warehouse.explain import Explanation, Subject
from exporter.warehouse.trend import ALPHA, Estimate, NodeTrend, Trend
from ollama_fleet.tables import count_text, table

UNLABELLED = "(no hardware label)"
MAX_NODES = 20


def trend_text(found: Trend, share: float) -> str:
    """Return the trend, a table by hardware, and the nodes that age faster than their peers."""
    return "\n".join(_trend_lines(found, share))


def _trend_lines(found: Trend, share: float) -> Iterator[str]:
    fleet = found.fleet
    yield f"Speed per instance from {found.first} to {found.last}: {_percent(fleet)}"
    yield f"({count_text(fleet.n_instances, 'instance')} on {count_text(fleet.n_nodes, 'node')})"
    yield f"Hardware is down to {share:.0%} of new speed after {_months(fleet, share)}."
    yield ""
    yield table(
        ("hardware", "% a month", "95 % interval", "nodes", "instances", f"months to {share:.0%}"),
        [
            (
                name or UNLABELLED,
                f"{one.percent:+.3f}",
                f"{one.low:+.3f} to {one.high:+.3f}",
                f"{one.n_nodes}",
                f"{one.n_instances}",
                _number(one.months_until(share)[0]),
            )
            for name, one in found.by_hardware.items()
        ],
    )
    yield ""
    if not found.ageing:
        yield "No node ages faster than its peers."
        return
    yield "Nodes that age faster than their peers:"
    yield table(
        ("node", "hardware", "% a month", "p-value", f"at {share:.0%}"),
        [
            (
                one.node,
                one.hardware or UNLABELLED,
                f"{one.slope.percent:+.3f}",
                f"{one.p_value:.1g}",
                str(found.falls_on(one, share) or "-"),
            )
            for one in found.ageing[:MAX_NODES]
        ],
    )
    if len(found.ageing) > MAX_NODES:
        yield f"and {len(found.ageing) - MAX_NODES} more, see --json"


def _percent(one: Estimate) -> str:
    return f"{one.percent:+.3f} % a month (95 %: {one.low:+.3f} to {one.high:+.3f})"


def _months(one: Estimate, share: float) -> str:
    middle, soonest, latest = one.months_until(share)
    if math.isinf(middle):
        return "no time that the trend shows"
    return f"{middle:.0f} months (95 %: {soonest:.0f} to {_number(latest)})"


def _number(months: float) -> str:
    return "never" if math.isinf(months) else f"{months:.0f}"


def trend_json(found: Trend, share: float) -> Mapping[str, Any]:
    """Return all of the trend, every node included."""
    return {
        "first_day": found.first.isoformat(),
        "last_day": found.last.isoformat(),
        "fleet": _estimate(found.fleet, share),
        "by_hardware": {name: _estimate(one, share) for name, one in found.by_hardware.items()},
        "nodes": [_node(found, one, share) for one in found.nodes],
        "significance": ALPHA,
    }


def _estimate(one: Estimate, share: float) -> Mapping[str, Any]:
    return {
        "percent_a_month": one.percent,
        "interval": [one.low, one.high],
        "nodes": one.n_nodes,
        "instances": one.n_instances,
        "months_until": [_finite(months) for months in one.months_until(share)],
    }


def _node(found: Trend, one: NodeTrend, share: float) -> Mapping[str, Any]:
    falls_on = found.falls_on(one, share)
    return {
        "cluster": one.cluster,
        "node": one.node,
        "hardware": one.hardware,
        "percent_a_month": one.slope.percent,
        "instances": len(one.instances),
        "p_value": _finite(one.p_value),
        "ages_faster": one.ages_faster,
        "replace_on": None if falls_on is None else falls_on.isoformat(),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def explained_text(subjects: Sequence[Subject], found: Sequence[Explanation], kind: str) -> str:
    """Return what explains outliers, most probable first."""
    outliers = [one for one in subjects if one.is_outlier]
    nodes = len({one.place for one in outliers})
    head = f"{len(outliers):,} of {count_text(len(subjects), 'instance')} {VERBS[kind]}, on "
    lines = [head + count_text(nodes, "node") + "."]
    if not found:
        return "\n".join([*lines, "No label explains them."])
    rows = [
        (
            " = ".join(one.value) + "".join(f", {' = '.join(same)}" for same in one.same_as),
            f"{one.n_outliers} of {one.n_instances}",
            f"{one.n_nodes}",
            f"{one.support:.0%}",
            f"{one.lift:.1f}",
            f"{one.p_value:.1g}",
        )
        for one in found[:MAX_NODES]
    ]
    heads = ("label", "outliers with it", "nodes", "of all outliers", "lift", "p-value")
    lines += ["", table(heads, rows)]
    if len(found) > MAX_NODES:
        lines.append(f"and {len(found) - MAX_NODES} more, see --json")
    return "\n".join(lines)


VERBS = {"slow": "are slow", "failing": "fail", "ageing": "are on nodes that age faster"}


def explained_json(subjects: Sequence[Subject], found: Sequence[Explanation]) -> Mapping[str, Any]:
    """Return all explanations, and the outliers by id."""
    return {
        "instances": len(subjects),
        "outliers": [one.instance_id for one in subjects if one.is_outlier],
        "explanations": [
            {
                "label": one.value.label,
                "value": one.value.text,
                "outliers": one.n_outliers,
                "instances": one.n_instances,
                "nodes": one.n_nodes,
                "support": one.support,
                "lift": one.lift,
                "p_value": one.p_value,
                "same_as": [same._asdict() for same in one.same_as],
            }
            for one in found
        ],
    }
