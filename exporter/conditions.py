"""What is wrong with an instance that may be healthy all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model import MAX_LOADED, Condition, LoadedModel, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from exporter.counters import CounterState
    from exporter.model import CanaryState, Reading, Target


FLAPS = 4
FLAPPING_S = 900.0
"""An instance is flapping if its polls change between good and bad more than FLAPS times in this
time, whatever its status."""
KV_CACHE_FULL_RATIO = 0.95
NOT_SERVING_S = 600.0
"""How long an instance may have a queue and generate no token."""


def conditions_of(
    target: Target,
    reading: Reading | None,
    counters: CounterState,
    canary: CanaryState | None = None,
    *,
    models_on_gpu: Collection[str] = (),
    turns_s: Sequence[float] = (),
) -> tuple[Condition, ...]:
    """Return the conditions of an instance: flapping, others if it runs and its last poll was good.

    A model that is not among `models_on_gpu` is meant to run on the CPU. `turns_s` are the times
    at which its polls changed between good and bad, in seconds since 1970 UTC.
    """
    if reading is None:
        return ()
    flapping: tuple[Condition, ...] = ()
    if turns_s and _is_flapping(turns_s, reading.polled_at_s):
        flapping = (Condition.FLAPPING,)
    if target.state is not State.RUNNING or reading.verdict.outcome is not Outcome.OK:
        return flapping
    conditions = _conditions_of_healthy(target, reading, counters, models_on_gpu)
    if canary and canary.n_stalled:
        conditions = (*conditions, Condition.STALLED)
    return (*conditions, *flapping) if flapping else conditions


def _is_flapping(turns_s: Sequence[float], now_s: float) -> bool:
    return len(turns_s) > FLAPS and now_s - turns_s[-FLAPS - 1] <= FLAPPING_S


def _conditions_of_healthy(
    target: Target, reading: Reading, counters: CounterState, models_on_gpu: Collection[str]
) -> tuple[Condition, ...]:
    values = reading.verdict.values
    conditions: tuple[Condition, ...] = ()
    if values.loaded is not None:
        loaded = [model.name for model in values.loaded]
        conditions = _missing(target.model, loaded, counters.installed)
        if any(_has_left_gpu(model, models_on_gpu) for model in values.loaded):
            conditions = (*conditions, Condition.ON_CPU)
    # Its queue is asked first: few have one.
    if values.requests_queued and reading.polled_at_s - counters.served_at_s >= NOT_SERVING_S:
        conditions = (*conditions, Condition.NOT_SERVING)
    if (values.kv_cache_usage_ratio or 0.0) >= KV_CACHE_FULL_RATIO:
        conditions = (*conditions, Condition.KV_CACHE_FULL)
    return conditions


def _has_left_gpu(model: LoadedModel, models_on_gpu: Collection[str]) -> bool:
    return is_on_cpu(model) and (bool(model.vram_bytes) or model.name in models_on_gpu)


def _missing(
    listed: str, loaded: Collection[str], installed: Collection[str] | None
) -> tuple[Condition, ...]:
    if not listed:
        return () if loaded else (Condition.NOTHING_LOADED,)
    if listed in loaded or len(loaded) >= MAX_LOADED:  # then it may be among those cut off
        return ()
    if installed is None or listed in installed:
        return (Condition.MODEL_NOT_LOADED,)
    return (Condition.MODEL_NOT_LOADED, Condition.MODEL_NOT_INSTALLED)


def is_on_cpu(model: LoadedModel) -> bool:
    """Return whether a model is known to be partly or wholly outside GPU memory."""
    size_bytes, vram_bytes = model.size_bytes, model.vram_bytes
    return size_bytes is not None and vram_bytes is not None and vram_bytes < size_bytes
