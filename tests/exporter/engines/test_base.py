"""Values that no server has."""

from __future__ import annotations

import msgspec
import pytest

from exporter.engines.base import drop_implausible
from exporter.model import Outcome, Values, Verdict

NOW_S = 1_800_000_000.0
HONEST = Values(
    ("m",),
    "1",
    42.0,
    0.1,
    2.0,
    3.0,
    NOW_S - 60.0,
    5000.0,
    6000.0,
    100.0,
    (("oom", 1.0),),
    kv_cache_usage_ratio=0.5,
)
HIGHEST = {
    "tokens_per_second": 10_000.0,
    "latency_p99_s": 86_400.0,
    "requests_running": 100_000.0,
    "requests_queued": 100_000.0,
    "kv_cache_usage_ratio": 1.0,
    "start_time_s": NOW_S + 3600.0,
    "generated_tokens_total": 3e12,
    "prompt_tokens_total": 3e14,
}


def judged(verdict: Verdict, max_tokens_per_second: float = 10_000.0) -> Verdict:
    return drop_implausible(verdict, now_s=NOW_S, max_tokens_per_second=max_tokens_per_second)


@pytest.mark.parametrize("figure", HIGHEST)
def test_a_figure_that_no_server_has_is_left_out_and_the_others_stay(figure: str) -> None:
    high = msgspec.structs.replace(HONEST, **{figure: HIGHEST[figure]})
    liar = msgspec.structs.replace(HONEST, **{figure: 2.0**53})

    verdict = judged(Verdict(Outcome.OK, values=liar))

    assert high == judged(Verdict(Outcome.OK, values=high)).values
    assert msgspec.structs.replace(HONEST, **{figure: None}) == verdict.values
    assert (Outcome.OK, Outcome.IMPLAUSIBLE) == (verdict.outcome, verdict.metrics_outcome)
    assert figure in verdict.metrics_detail


def test_a_start_that_is_no_unix_time_is_left_out() -> None:
    """Such as seconds since the machine booted."""
    verdict = judged(Verdict(Outcome.OK, values=Values(start_time_s=4.0)))

    assert (None, Outcome.IMPLAUSIBLE) == (verdict.values.start_time_s, verdict.metrics_outcome)


def test_a_faster_server_is_believed_where_the_setting_says_so() -> None:
    fast = Verdict(Outcome.OK, values=Values(tokens_per_second=250_000.0))

    assert "metrics.max-tokens-per-second" in judged(fast).metrics_detail
    assert fast is judged(fast, max_tokens_per_second=250_000.0)


def test_where_other_figures_are_broken_that_stays_the_outcome() -> None:
    values = Values(tokens_per_second=2.0**53)

    verdict = judged(Verdict(Outcome.OK, "", values, Outcome.BAD_BODY, "model: too long"))

    assert Outcome.BAD_BODY is verdict.metrics_outcome
    assert verdict.metrics_detail.startswith("model: too long; tokens_per_second is 9.0072e+15")
