"""Write plans of capacity, and what a live fleet has left, for a terminal and as JSON's types."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ollama_fleet.levels import percent
from ollama_fleet.tables import count_text, table
from provisioning.capacity.data import Hardware, Quantisation
from provisioning.capacity.live import Live
from provisioning.capacity.sizing import Plan, Step, figure

WIDTH = 96
DAY_S = 86_400.0
DAYS_IN_WORDS = 60
"""From here on weeks are said, not days."""


def plan_text(plan: Plan, hardware: Hardware, model: Quantisation) -> str:
    """Return the answer, every step, and where the data come from."""
    steps = [(one.what, one.working, "=", _result(one)) for one in plan.steps]
    working = table(("STEP", "WORKING", "", "RESULT"), steps)
    answer = "\n".join(_wrapped(sentence) for sentence in _answer(plan, model))
    sources = "\n".join(_wrapped(one) for one in _sources(hardware, model))
    return "\n\n".join(filter(None, (answer, working, sources and f"SOURCES\n{sources}")))


def _result(step: Step) -> str:
    noun, space, rest = step.unit.partition(" ")
    is_one = step.value == 1 and noun in ("instances", "nodes")
    return f"{figure(step.value)} {noun.removesuffix('s') if is_one else noun}{space}{rest}"


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _answer(plan: Plan, model: Quantisation) -> Iterator[str]:
    yield _nodes(plan)
    if plan.at_full_speed is not None and plan.at_full_speed < plan.per_node:
        yield (
            f"Of a node's instances {plan.at_full_speed:,} can generate at once at full speed: its "
            "memory cannot deliver the weights to more."
        )
    if plan.at_full_speed is None:
        yield "Speed is not judged: --memory-bandwidth and --weights are not known."
    yield _headroom(plan)
    yield from _money(plan)
    if model.quality is not None:
        yield f"Quality: {percent(model.quality)} of the model's output is correct."


def _nodes(plan: Plan) -> str:
    what = f"{count_text(plan.n_instances, 'instance')}, {plan.per_node:,} a node at most"
    if not plan.is_enough:
        needed = plan.needed_nodes + plan.spare_nodes
        return (
            f"TOO FEW: {count_text(plan.nodes, 'node')} for {what}; it takes {needed:,}, and "
            f"{plan.binds} binds."
        )
    spare = f", {plan.spare_nodes:,} of them spare" if plan.spare_nodes else ""
    return f"{count_text(plan.nodes, 'node')}{spare}, for {what}; {plan.binds} binds."


def _headroom(plan: Plan) -> str:
    """Say what is left when nodes are lost."""
    lost = max(plan.spare_nodes, 1)
    rest = max(plan.nodes - lost, 0)
    held = min(rest * plan.per_node, plan.n_instances)
    return (
        f"With {count_text(lost, 'node')} lost, {rest:,} are left of the {plan.needed_nodes:,} "
        f"that it takes. They hold {held:,} of {plan.n_instances:,} instances: "
        f"{'enough' if rest >= plan.needed_nodes else 'too few'}."
    )


def _money(plan: Plan) -> Iterator[str]:
    costs = plan.costs
    if costs.per_month is None or costs.per_million_tokens is None:
        yield "No cost: the price of a node is not known (--price-per-month)."
        return
    of_what = "" if costs.is_of_demand else " if it generates all it can"
    yield (
        f"Cost: {costs.per_month:,.0f} $ a month, {costs.per_month * 12:,.0f} $ a year, "
        f"{costs.per_million_tokens:,.2f} $ a million tokens{of_what}."
    )
    if costs.api_per_month is not None:
        yield f"A hosted API costs {costs.api_per_month:,.0f} $ a month for the same tokens."
    even, share = costs.break_even_million_tokens_per_month, costs.break_even_of_possible
    if even is not None and share is not None:
        yield (
            f"Break-even: {figure(even)} million tokens a month, {share:.0%} of what the fleet can "
            "generate." + (" The hosted API is always cheaper." if share > 1 else "")
        )


def _sources(hardware: Hardware, model: Quantisation) -> Iterator[str]:
    if hardware.source:
        yield f"hardware: {hardware.source.strip()}"
    if model.source:
        yield f"model: {model.source.strip()}"


def plan_json(plan: Plan, hardware: Hardware, model: Quantisation) -> dict[str, Any]:
    """Return the same."""
    return {
        **asdict(plan),
        "is_enough": plan.is_enough,
        "held": plan.held,
        "held_without_spare": plan.held_without_spare,
        "quality": model.quality,
        "sources": {"hardware": hardware.source, "model": model.source},
    }


def live_text(live: Live, *, now_s: float) -> str:
    """Return what a fleet has, uses, and when that is no longer enough."""
    rows = [
        (
            "HAS",
            f"{count_text(live.n_healthy, 'healthy instance')}, {_speed(live.capacity)} if each "
            "generates alone",
        ),
        ("PEAK", f"{_speed(live.peak)} at {_moment(live.peak_at_s)}"),
        (
            "BUSIEST HOUR",
            f"{_speed(live.busiest_hour)} on average, {live.busiest_hour_share:.0%} of the "
            f"capacity, until {_moment(live.busiest_hour_at_s)}",
        ),
        (
            "P95 HOUR",
            f"{_speed(live.normal_hour)}, {live.normal_hour / live.capacity:.0%} of the capacity "
            f"now; 95 of 100 hours are not busier, of {live.n_hours:,}",
        ),
        ("TREND", _trend(live)),
        ("RUNS OUT", _runs_out(live, live.capacity, now_s)),
        ("ONE NODE LESS", _without_largest(live, now_s)),
    ]
    return "\n".join(
        textwrap.fill(text, WIDTH, initial_indent=f"{what:<15}", subsequent_indent=" " * 15)
        for what, text in rows
    )


def _speed(tokens_per_second: float) -> str:
    return f"{figure(tokens_per_second)} tokens/s"


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _trend(live: Live) -> str:
    if (trend := live.trend) is None:
        return "not known: it takes three weeks of whole days"
    ends = f"between {trend.low_per_week:+,.3g} and {trend.high_per_week:+,.3g} tokens/s a week"
    seen = f"by the busiest hours of {trend.n_days} days"
    if not trend.is_clear:
        return f"no trend: {ends}, {seen}"
    return f"{trend.per_week:+,.3g} tokens/s a week, {ends}, {seen}"


def _runs_out(live: Live, capacity: float, now_s: float) -> str:
    """Say when busy days reach a capacity."""
    if (trend := live.trend) is None:
        return "not known without a trend"
    level = f"busy days reach {_speed(trend.level)} now"
    if (days := trend.days_until(capacity)) is None:
        why = "in five years" if trend.is_clear and trend.per_week > 0 else "by any trend"
        return f"not {why}: {level}"
    if not days[0]:
        return f"now: {level}"
    expected, earliest, latest = days
    when = datetime.fromtimestamp(now_s + expected * DAY_S, UTC).date()
    return f"in {_days(expected)}, on {when} (in {_days(earliest)} to {_days(latest)}): {level}"


def _days(n: float) -> str:
    return count_text(round(n / 7), "week") if n > DAYS_IN_WORDS else count_text(round(n), "day")


def _without_largest(live: Live, now_s: float) -> str:
    """Say what the loss of the largest node would do."""
    if live.largest is None or live.capacity_without_largest is None:
        return "not known: the inventory names no nodes, or none reports its speed"
    rest, node = live.capacity_without_largest, live.largest
    left = f"{node.node} has {count_text(node.n_instances, 'instance')} and {node.share:.0%} of the"
    if rest <= 0:
        return f"{left} capacity: nothing remains"
    return (
        f"{left} capacity. Without it {_speed(rest)} remain, and the busiest hour takes "
        f"{live.busiest_hour / rest:.0%} of them. Runs out then: {_runs_out(live, rest, now_s)}"
    )


def live_json(live: Live, *, now_s: float) -> dict[str, Any]:
    """Return the same."""
    trend, rest = live.trend, live.capacity_without_largest
    found = asdict(live) | {"at_s": now_s, "capacity_without_largest": rest}
    if trend is not None:
        found["trend"] |= {"is_clear": trend.is_clear}
        found["runs_out_days"] = trend.days_until(live.capacity)
        found["runs_out_days_without_largest"] = None if rest is None else trend.days_until(rest)
    return found
