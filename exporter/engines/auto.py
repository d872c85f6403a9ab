"""List the engines, and find out which one an instance needs from what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.engines import fleet, llamacpp, ollama
from exporter.engines.base import (
    HEALTH,
    MAX_DETAIL_CHARACTERS,
    Answers,
    clipped,
    read_health,
    status_verdict,
    without_metrics,
)
from exporter.engines.ollama import VERSION, read_version
from exporter.errors import PollError
from exporter.model import Answer, EngineName, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.engines.base import Engine


PROBES = (HEALTH, fleet.METRICS, VERSION, llamacpp.METRICS)

HALF_DETAIL = MAX_DETAIL_CHARACTERS // 2

LLAMACPP_PREFIX = b"llamacpp:"
LLAMACPP_SWITCHED_OFF = b"not_supported_error"


def recognise(answers: Answers) -> EngineName | None:
    """Return the engine that the answers fit, or None.

    What only one kind has is looked at first: `/health` alone proves nothing, many servers have it.
    """
    if _is_fleet(answers[fleet.METRICS]):
        return EngineName.FLEET
    if read_version(answers[VERSION]) is not None:
        return EngineName.OLLAMA
    if _is_llamacpp(answers[llamacpp.METRICS]):
        return EngineName.LLAMACPP
    return None


def unrecognised(answers: Answers) -> Verdict:
    """Return the verdict on an instance that no engine fits.

    It may still be up: a good `/health` counts as healthy, with its metrics missing.
    """
    verdict = read_health(answers[HEALTH])
    if verdict.outcome is Outcome.OK:
        detail = f"none of {', '.join(PROBES[1:])} answered as a known server does"
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


def _is_fleet(answer: Answer | PollError) -> bool:
    if not isinstance(answer, Answer) or answer.status != 200:
        return False
    try:
        fleet.decode(answer.body)
    except PollError:
        return False
    return True


def _is_llamacpp(answer: Answer | PollError) -> bool:
    """llama-server has `/metrics`, or says in JSON with status 501 that it was not switched on."""
    if not isinstance(answer, Answer):
        return False
    if answer.status == 501:
        return LLAMACPP_SWITCHED_OFF in answer.body
    return answer.status == 200 and LLAMACPP_PREFIX in answer.body


def all_engines(*, latency_unit_s: float) -> Mapping[EngineName, Engine]:
    """Return every engine but `auto`, which is a way to choose among these."""
    return {
        EngineName.FLEET: fleet.engine(latency_unit_s=latency_unit_s),
        EngineName.OLLAMA: ollama.ENGINE,
        EngineName.LLAMACPP: llamacpp.ENGINE,
    }
