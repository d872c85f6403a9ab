"""Find out which engine an instance needs from what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.engines import ENGINES, fleet
from exporter.engines.base import (
    HEALTH,
    MAX_DETAIL_CHARACTERS,
    Answers,
    clipped,
    read_health,
    status_verdict,
    without_metrics,
)
from exporter.engines.ollama import VERSION
from exporter.model import Answer, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.engines.base import Engine


_ALL_PROBES = dict.fromkeys(path for engine in ENGINES for path in engine.probes)
PROBES = tuple(sorted(_ALL_PROBES, key=lambda path: path.endswith("metrics")))
"""Metrics may be slow, so they come last: the first answer has only the health timeout."""

HALF_DETAIL = MAX_DETAIL_CHARACTERS // 2


def recognise(answers: Answers) -> str | None:
    """Return the name of the first engine that the answers to PROBES fit, or None."""
    return next((engine.name for engine in ENGINES if engine.recognise(answers)), None)


def has_answered(answers: Answers) -> bool:
    """Return whether the instance answered a probe, so that it is worth asking for `/health`."""
    return any(isinstance(answer, Answer) for answer in answers.values())


def unrecognised(answers: Answers) -> Verdict:
    """Return the verdict on an instance that no engine fits, by its `/health` if that was asked.

    It may still be up: a good `/health` counts as healthy, with its metrics missing.
    """
    if HEALTH not in answers:
        return read_health(answers[PROBES[0]])
    verdict = read_health(answers[HEALTH])
    if verdict.outcome is Outcome.OK:
        detail = f"none of {', '.join(PROBES)} answered as a known server does"
        return without_metrics(Outcome.UNRECOGNISED, detail)
    version = answers[VERSION]
    if verdict.outcome is Outcome.HTTP_STATUS and isinstance(version, Answer):
        return _neither(verdict, status_verdict(VERSION, version))
    return verdict


def _neither(health: Verdict, version: Verdict) -> Verdict:
    if version.outcome is Outcome.FORBIDDEN:
        return version
    said = f"{clipped(health.detail, HALF_DETAIL)}; {clipped(version.detail, HALF_DETAIL)}"
    return Verdict(Outcome.UNRECOGNISED, f"no known server: {said}")


def all_engines(*, latency_unit_s: float) -> Mapping[str, Engine]:
    """Return every engine by its name; `auto` is none, but a way to choose among them."""
    known = {engine.name: engine for engine in ENGINES}
    return known | {fleet.ENGINE.name: fleet.engine(latency_unit_s=latency_unit_s)}
