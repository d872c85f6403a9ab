"""Leave out the figures that no LLM server can have, so that one instance cannot hide a fleet.

In:   a Verdict, whatever engine made it.
Out:  the same, or one without those figures, whose metrics_outcome is IMPLAUSIBLE. Pure.
One claim of 2^53 tokens/s would keep the sum of 10,000 instances above any threshold. The bounds
here keep nobody honest: they are far above what servers do, and what is beyond them is an error.
How far a counter may rise between two polls is bounded by `memory`, which knows the last poll.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from exporter.engines.base import clipped
from exporter.model import NO_VALUES, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model import Values, Verdict

MAX_TOKENS_PER_SECOND = 10_000.0
"""The default of `metrics.max-tokens-per-second`. The engines that are known here serve a few
requests at once: some 1,000s of tokens/s on the largest GPUs. A server in full batches (a pool
behind one address) may be faster, and is why this is a setting; the lower it is, the fewer
instances one liar can stand for."""
MAX_LATENCY_S = 86_400.0
"""Clients and proxies give up after minutes to hours, overnight batches included."""
MAX_REQUESTS = 100_000.0
"""Each request that runs or waits holds a connection open."""
MAX_CLOCK_SKEW_S = 3600.0
"""By how much a start may seem to be in the future: clocks of two machines differ."""
EARLIEST_START_S = 1_577_836_800.0
"""2020. A start before it is not Unix time: seconds since boot, or a clock that was never set."""
MAX_YEARS_S = 10 * 365 * 86_400.0
"""For so long no server counts tokens."""
PROMPT_FACTOR = 100
"""Reading a prompt is some ten times as fast as generating; cached parts take no time at all."""


def plausible(verdict: Verdict, *, now_s: float, max_tokens_per_second: float) -> Verdict:
    """Return the verdict without implausible figures; the same object where there are none."""
    values = verdict.values
    if values is NO_VALUES:
        return verdict
    highest = {
        "tokens_per_second": max_tokens_per_second,
        "latency_p99_s": MAX_LATENCY_S,
        "requests_running": MAX_REQUESTS,
        "requests_queued": MAX_REQUESTS,
        "start_time_s": now_s + MAX_CLOCK_SKEW_S,
        "generated_tokens_total": max_tokens_per_second * MAX_YEARS_S,
        "prompt_tokens_total": max_tokens_per_second * MAX_YEARS_S * PROMPT_FACTOR,
    }
    beyond = [name for name, most in highest.items() if (getattr(values, name) or 0.0) > most]
    if values.start_time_s is not None and values.start_time_s < EARLIEST_START_S:
        beyond.append("start_time_s")
    if not beyond:
        return verdict
    faults = [_fault(name, values) for name in beyond]
    kept = msgspec.structs.replace(values, **dict.fromkeys(beyond))
    return doubted(msgspec.structs.replace(verdict, values=kept), faults)


def doubted(verdict: Verdict, faults: Sequence[str]) -> Verdict:
    """Return the verdict on an instance of whose figures some are left out as implausible.

    Where others were broken, that stays the outcome: it is why most of them are missing.
    """
    outcome = verdict.metrics_outcome
    known = [verdict.metrics_detail] if verdict.metrics_detail else []
    return msgspec.structs.replace(
        verdict,
        metrics_outcome=Outcome.IMPLAUSIBLE if outcome is Outcome.OK else outcome,
        metrics_detail=clipped("; ".join([*known, *faults])),
    )


def _fault(name: str, values: Values) -> str:
    helps = " (metrics.max-tokens-per-second)" if "tokens" in name else ""
    return f"{name} is {getattr(values, name):.6g}, which no server has{helps}"
