"""The releases of Ollama that instances run, and how their answers differ.

What is said here was measured on real servers of these three releases; a release is data, so one
more is one more row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the server."""

    version: str
    fleet_weight: int
    """How common it is among fleet-mode instances, against the others."""
    stock_weight: int
    """How common it is among stock Ollama instances."""
    runner_step_ns: int
    """`prompt_eval_duration` and `eval_duration` are multiples of it; a zero is left out."""
    refuses_methods: bool
    """A known path with a wrong method: 405 where true, 404 where false."""
    has_status: bool
    """Whether it serves /api/status."""
    ps_has_context_length: bool
    tags_have_capabilities: bool
    show_has_capabilities: bool
    max_queue: int | None
    """Requests that may wait for a loaded model before 503; None: any number."""
    ignores_case_of_host: bool
    embeds_with_any_model: bool
    """False: 501 from a model that is not made for embedding, as all of the simulation's are."""


RELEASES = (
    Release(
        version="0.4.7",
        fleet_weight=9,
        stock_weight=1,
        runner_step_ns=1_000_000,
        refuses_methods=False,
        has_status=False,
        ps_has_context_length=False,
        tags_have_capabilities=False,
        show_has_capabilities=False,
        max_queue=512,
        ignores_case_of_host=False,
        embeds_with_any_model=True,
    ),
    Release(
        version="0.23.0",
        fleet_weight=1,
        stock_weight=7,
        runner_step_ns=1,
        refuses_methods=True,
        has_status=True,
        ps_has_context_length=True,
        tags_have_capabilities=False,
        show_has_capabilities=True,
        max_queue=None,
        ignores_case_of_host=True,
        embeds_with_any_model=False,
    ),
    Release(
        version="0.32.15",
        fleet_weight=0,
        stock_weight=2,
        runner_step_ns=1_000,
        refuses_methods=True,
        has_status=True,
        ps_has_context_length=True,
        tags_have_capabilities=True,
        show_has_capabilities=True,
        max_queue=None,
        ignores_case_of_host=True,
        embeds_with_any_model=False,
    ),
)
