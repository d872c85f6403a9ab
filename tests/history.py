"""A past for Prometheus: hours in which the whole fleet was healthy.

In:   the fleet's size, promtool, and the folder of Prometheus' time series before it starts.
Out:  blocks in there, made by promtool, with the recorded series that rules look back at.
Without a past, rules on hours stay silent, and a proof with fresh data would hide their pages.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from alerts import names
from provisioning.stack.prometheus import EXPORTER_JOB

PAST_S = 7 * 3600
GAP_S = 60
"""Between its end and now; rules bridge more."""
TIMEOUT_S = 120.0


def write(
    folder: Path, *, promtool: Path, n_instances: int, exporter: str, step_s: int, now_s: float
) -> None:
    """Write the past up to a minute ago.

    Args:
        folder: Where Prometheus will keep its time series.
        promtool: The program.
        n_instances: All of them healthy.
        exporter: The address that Prometheus scrapes.
        step_s: The evaluation interval: means are over samples, so the past must have as many.
        now_s: Seconds since 1970 UTC.
    """
    source = folder.parent / "history.txt"
    text = lines(samples(n_instances, exporter), step_s=step_s, now_s=now_s)
    source.write_text("\n".join([*text, "# EOF\n"]))
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", source, folder],
        check=True,
        timeout=TIMEOUT_S,
        stdout=subprocess.DEVNULL,
    )


def lines(value_by_series: Mapping[str, float], *, step_s: int, now_s: float) -> Iterator[str]:
    """Yield the samples as OpenMetrics, series after series."""
    end_s = int(now_s) - GAP_S
    for series, value in value_by_series.items():
        yield f"# TYPE {series.partition('{')[0]} gauge"
        for at_s in range(end_s - PAST_S, end_s + 1, step_s):
            yield f"{series} {value} {at_s}"


def samples(n_instances: int, exporter: str) -> dict[str, float]:
    """Return what a healthy fleet's recorded series say, and that its exporter was there."""
    return {
        f'up{{job="{EXPORTER_JOB}",instance="{exporter}"}}': 1,
        f'{names.INSTANCES}{{status="healthy"}}': n_instances,
        names.INVENTORY: n_instances,
        names.EXPECTED: n_instances,
        names.HEALTHY_RATIO: 1,
    }
