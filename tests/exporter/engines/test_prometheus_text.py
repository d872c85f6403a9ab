"""Figures from pages of Prometheus text."""

from __future__ import annotations

import time

import msgspec
import pytest

from exporter.engines.prometheus_text import ErrorSeries, PageLayout, PageReader
from exporter.model import NO_VALUES, Histogram, Values

READER = PageReader(
    PageLayout(
        requests_running=("x:running",),
        requests_queued=("x:queued",),
        generated_tokens_total=("x:tokens_total", "x:old_tokens_total"),
        kv_cache_usage_ratio=("x:cache",),
        request_duration=("x:duration_seconds",),
        errors=(ErrorSeries("x:failed_total", "reason", failures="(?!abort$).*"),),
        model_label="model",
        repeats='[{,]rank="[1-9]',
    )
)
RUNNING = "# TYPE x:running gauge\n"
QUEUED = "# TYPE x:queued gauge\nx:queued 2\n"
DURATION = "# TYPE x:duration_seconds histogram\n"


def read(*families: str) -> tuple[Values, list[str]]:
    return READER.read("".join(families).encode())


def figures(*families: str) -> Values:
    values, faults = read(*families)
    assert [] == faults
    return values


def histogram(*buckets: tuple[str, float], labels: str = "", sum_s: str = "1") -> str:
    name, comma = "x:duration_seconds", "," if labels else ""
    lines = [f'{name}_bucket{{{labels}{comma}le="{le}",role="9"}} {n}\n' for le, n in buckets]
    braces = f"{{{labels}}}" if labels else ""
    return "".join([*lines, f"{name}_count{braces} 9\n", f"{name}_sum{braces} {sum_s}\n"])


def test_samples_of_one_family_are_added_up_over_their_labels() -> None:
    values = figures(
        RUNNING,
        'x:running{engine="0",model="b"} 1\nx:running{engine="1",model="b"} 2.5 1700000000\n',
        'x:running{model="a",note="} 9 \\" x:running 7"} 4e0\n',
        '# TYPE x:cache gauge\nx:cache{engine="0"} 0.25\nx:cache{engine="1"} 0.75\n',
    )

    assert (7.5, 0.75, ("a", "b")) == (
        values.requests_running,
        values.kv_cache_usage_ratio,
        values.models,
    )


def test_the_first_name_that_the_page_has_counts() -> None:
    old = "# TYPE x:old_tokens_total counter\nx:old_tokens_total 1\n"
    new = "# TYPE x:tokens_total counter\nx:tokens_total 2\n"

    assert 1.0 == figures(old).generated_tokens_total
    assert 2.0 == figures(old, new).generated_tokens_total


def test_samples_that_repeat_others_are_left_out() -> None:
    repeated = 'x:running{rank="0"} 3\nx:running{rank="1"} 3\nx:running{rank="12"} 3\n'

    assert 3.0 == figures(RUNNING, repeated).requests_running


def test_names_that_only_begin_or_end_like_a_wanted_one_are_others() -> None:
    others = ("# TYPE x:running_more gauge\nx:running_more 1\n", "# TYPE xx:running gauge\n")

    assert NO_VALUES == msgspec.structs.replace(
        figures(*others, "xx:running 1\n", "# HELP x:running 5\nx:running 5\n"), errors_total=()
    )


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n# EOF"])
def test_the_last_line_of_a_page_is_read(end: str) -> None:
    assert 2.0 == figures(QUEUED.rstrip() + end).requests_queued


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "1e300", "many", "0x10"])
def test_a_bad_sample_costs_its_figure_and_is_named(value: str) -> None:
    values, faults = read(RUNNING, "x:running 1\n", f'x:running{{a="b"}} {value}\n', QUEUED)

    assert (None, 2.0) == (values.requests_running, values.requests_queued)
    assert [f"x:running has no usable value: {value}"] == faults


def test_errors_are_told_by_their_label_and_none_is_a_count_of_zero() -> None:
    family = "# TYPE x:failed_total counter\n"
    failed = 'x:failed_total{reason="oom"} 2\nx:failed_total{n="1",reason="oom"} 1\n'
    gone = 'x:failed_total{reason="abort"} 7\n'

    assert (("oom", 3.0),) == figures(QUEUED, family, failed, gone).errors_total
    assert (("unspecified", 0.0),) == figures(QUEUED, family, gone).errors_total
    assert (("unspecified", 0.0),) == figures(QUEUED).errors_total
    assert () == figures("").errors_total
    assert () == read(QUEUED, family, failed, 'x:failed_total{reason="b"} NaN\n')[0].errors_total


def test_label_values_are_unescaped_and_bounded() -> None:
    text = r"a \"quoted\" \\ name"

    assert ('a "quoted" \\ name',) == figures(RUNNING, f'x:running{{model="{text}"}} 1\n').models
    (long,) = figures(RUNNING, f'x:running{{model="{"m" * 1500}"}} 1\n').models
    assert 257 == len(long)


def test_histograms_are_added_up_and_share_their_boundaries() -> None:
    buckets = (("0.1", 1), ("2.0", 3), ("+Inf", 4))
    one = figures(DURATION, histogram(*buckets, labels='engine="0"'))
    two = figures(
        DURATION,
        histogram(*buckets, labels='engine="0",handle="le=\\"9\\""', sum_s="2.5"),
        histogram(*buckets, labels='engine="1"', sum_s="0.5"),
    )

    assert Histogram((2.0, 6.0, 8.0), 3.0, (0.1, 2.0)) == two.request_duration
    assert one.request_duration is not None
    assert two.request_duration is not None
    assert one.request_duration.boundaries_s is two.request_duration.boundaries_s


def test_a_histogram_of_no_request_yet_is_nothing() -> None:
    assert figures(DURATION).request_duration is None


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (histogram(("0.1", 5), ("+Inf", 4)), "not cumulative"),
        (histogram(("0.1", 5)), "lacks the bucket +Inf"),
        (histogram(("+Inf", 5)), "no bucket but +Inf"),
        (histogram(("2", 1), ("1", 2), ("+Inf", 3)), "order"),
        (histogram(("-1", 1), ("+Inf", 3)), "order"),
        (histogram(("fast", 1), ("+Inf", 3)), "fast"),
        (histogram(("1", float("nan")), ("+Inf", 3)), "not cumulative"),
        (histogram(("1", 1), ("+Inf", 3), sum_s="-1"), "usable"),
        (histogram(*[(str(n), n) for n in range(200)], ("+Inf", 200)), "more than 64"),
        (
            histogram(("1", 1), ("+Inf", 3), labels='a="1"')
            + histogram(("2", 1), ("+Inf", 3), labels='a="2"'),
            "different buckets",
        ),
    ],
)
def test_a_histogram_that_is_none_is_left_out_and_named(bad: str, said: str) -> None:
    values, faults = read(DURATION, bad, QUEUED)

    assert (None, 2.0) == (values.request_duration, values.requests_queued)
    assert 1 == len(faults)
    assert "x:duration_seconds" in faults[0]
    assert said in faults[0]


def test_samples_without_end_cost_their_figure() -> None:
    endless = "".join([f'x:running{{n="{n}"}} 1\n' for n in range(10_001)])

    values, faults = read(RUNNING, endless, QUEUED)

    assert (None, 2.0) == (values.requests_running, values.requests_queued)
    assert ["x:running has more than 10,000 samples"] == faults


def test_a_line_without_end_does_not_hold_up_the_exporter() -> None:
    """Of boundaries only: to look for the value behind each of them would take minutes."""
    line = "x:duration_seconds_bucket{" + ',le="1"' * 200_000 + "\n"
    began_s = time.monotonic()

    values, _ = read(DURATION, line, "x:duration_seconds_sum 1\n", QUEUED)

    assert (None, 2.0) == (values.request_duration, values.requests_queued)
    assert time.monotonic() - began_s < 100


def test_types_of_errors_without_end_cost_the_errors() -> None:
    endless = "".join([f'x:failed_total{{reason="r{n}"}} 1\n' for n in range(101)])

    values, faults = read("# TYPE x:failed_total counter\n", endless)

    assert () == values.errors_total
    assert ["more than 100 types of errors"] == faults
