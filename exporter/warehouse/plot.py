"""Draw a trend: the speed of each hardware over time, and how fast each node ages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exporter.warehouse.errors import StorageError
from exporter.warehouse.trend import MONTH_DAYS, WEEK_DAYS, Stretch, Trend
from ollama_fleet.files import write_whole

UNLABELLED = "no hardware label"
SIZE_INCHES = (10, 8)
AGEING = "tab:red"


def draw(found: Trend, stretches: Sequence[Stretch], path: Path) -> None:
    """Write the picture as PNG or SVG, as its name says.

    Raises:
        StorageError: The file cannot be written.
    """
    # Equal trends give equal bytes.
    with mpl.rc_context({"svg.hashsalt": "ollama-fleet", "svg.fonttype": "none"}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        above, below = figure.subplots(2, 1)
        _levels(above, found, stretches)
        _nodes(below, found)
        body = BytesIO()
        is_svg = path.suffix == ".svg"
        figure.savefig(
            body,
            format=path.suffix[1:],
            metadata={"Date": None} if is_svg else {"Software": None},
        )
    try:
        write_whole(path, body.getvalue())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _levels(axes: Axes, found: Trend, stretches: Sequence[Stretch]) -> None:
    """Draw weekly speeds as a share of each instance's own median, and the lines of the trend."""
    by_week = defaultdict[str, dict[int, list[float]]](lambda: defaultdict(list))
    for one in stretches:
        for week, log in zip(one.days // WEEK_DAYS, one.logs - np.median(one.logs), strict=True):
            by_week[one.unit.hardware][int(week)].append(float(log))
    for hardware, estimate in found.by_hardware.items():
        weeks = sorted(by_week[hardware])
        levels = np.exp([np.median(by_week[hardware][week]) for week in weeks])
        at = np.array(weeks) * WEEK_DAYS
        line = (1 + estimate.percent / 100) ** ((at - at.mean()) / MONTH_DAYS) * np.median(levels)
        moments = [found.first + timedelta(days=int(day)) for day in at]
        label = f"{hardware or UNLABELLED}: {estimate.percent:+.2f} % a month"
        (drawn,) = axes.plot(moments, 100 * levels, ".", alpha=0.6)  # type: ignore[arg-type]
        axes.plot(moments, 100 * line, color=drawn.get_color(), label=label)  # type: ignore[arg-type]
    axes.set_title("Speed of an instance, as a share of its median")
    axes.set_ylabel("%")
    axes.legend()


def _nodes(axes: Axes, found: Trend) -> None:
    """Draw how fast each node ages, slowest first, with those that age faster in red."""
    ordered = sorted(found.nodes, key=lambda one: one.slope.percent)
    percents = [one.slope.percent for one in ordered]
    colours = [AGEING if one.ages_faster else "tab:grey" for one in ordered]
    axes.scatter(range(len(ordered)), percents, c=colours, s=12)
    for place, one in enumerate(ordered):
        if one.ages_faster:
            axes.annotate(one.node, (place, percents[place]), color=AGEING)
    axes.axhspan(found.fleet.low, found.fleet.high, alpha=0.2)
    axes.axhline(found.fleet.percent)
    axes.set_title("Change a month of each node; the band is the fleet's 95 % interval")
    axes.set_ylabel("% a month")
    axes.set_xlabel("nodes, fastest ageing first")
