"""A past for Prometheus, so that what looks back over hours finds something there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alerts import names
from provisioning.demo.observers import EXPORTER_JOB

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """When it was."""

    end_s: float
    """Seconds since 1970 UTC; half a minute or so before Prometheus' own first sample."""
    step_s: int
    """From sample to sample: as long as scrapes and evaluations are apart."""
    length_s: int = 7 * 3600


def write(folder: Path, values: Mapping[str, float], past: Past, *, promtool: Path) -> None:
    """Write the past.

    Args:
        folder: Where Prometheus will keep its time series.
        values: By series, as PromQL writes one: `name{label="value"}`.
        past: When it was.
        promtool: The program.
    """
    source = folder.parent / "history.txt"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(lines(values, past))
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", source, folder],
        check=True,
        timeout=TIMEOUT_S,
        stdout=subprocess.DEVNULL,
    )
    source.unlink()


def lines(values: Mapping[str, float], past: Past) -> Iterator[str]:
    """Yield the samples as OpenMetrics, series after series."""
    end_s = int(past.end_s)
    for series, value in values.items():
        yield f"# TYPE {series.partition('{')[0]} gauge\n"
        for at_s in range(end_s - past.length_s, end_s + 1, past.step_s):
            yield f"{series} {value} {at_s}\n"
    yield "# EOF\n"


def of_a_healthy_fleet(n_instances: int, exporter: str) -> dict[str, float]:
    """Return what a healthy fleet's recorded series say, and that its exporter was there.

    Without it rules on hours stay silent, and a proof with fresh data would hide their pages.
    """
    return {
        f'up{{job="{EXPORTER_JOB}",instance="{exporter}"}}': 1,
        f'{names.INSTANCES}{{status="healthy"}}': n_instances,
        names.INVENTORY: n_instances,
        names.EXPECTED: n_instances,
        names.AVAILABLE: n_instances,
        names.AVAILABLE_RATIO: 1,
    }
