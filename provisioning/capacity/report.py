"""Write plans of capacity for a terminal, and as JSON's types."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ollama_fleet.levels import percent
from ollama_fleet.tables import count_text, table
from provisioning.capacity.data import Hardware, Quantisation
from provisioning.capacity.sizing import Plan, Step, figure

WIDTH = 96


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
    yield (
        f"Cost: {costs.per_month:,.0f} $ a month, {costs.per_month * 12:,.0f} $ a year, "
        f"{costs.per_million_tokens:,.2f} $ a million tokens."
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
