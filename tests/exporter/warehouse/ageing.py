"""A simulated year of speeds: hardware that ages, noise, restarts, swapped models, lost days."""

from __future__ import annotations

from datetime import date

import numpy as np

from exporter.warehouse.trend import MONTH_DAYS, Identity, Stretch, Unit

FIRST, LAST = date(2025, 1, 1), date(2025, 12, 31)
N_DAYS = 365
NODES = 40
ON_NODE = 10
LOSS = 0.2
FAST_LOSS = 0.5
FAST = ("node-07", "node-23")
REPLACED = 2
MODELS = (("llama3.1:8b", 42.0), ("qwen3:14b", 23.0))


def year(
    seed: int, *, loss: float = LOSS, fast: tuple[str, ...] = FAST, noise: float = 0.05
) -> list[Stretch]:
    """Return the daily speeds of a fleet that loses so many percent a month.

    One instance in three gets another model for good, each restarts every month and is then up to
    1 % faster or slower, one day in ten is missing, one in fifty is bad (half as fast), and of some
    nodes the hardware is replaced: they are as new again.
    """
    random = np.random.default_rng(seed)
    found = []
    for node in range(NODES):
        name = f"node-{node:02d}"
        per_day = np.log1p(-(FAST_LOSS if name in fast else loss) / 100) / MONTH_DAYS
        new_from = random.integers(60, 300) if node < REPLACED else 0
        for one in range(ON_NODE):
            unit = Unit("", f"{name}-{one}", name, "epyc" if node % 2 else "xeon")
            found += _instance(random, unit, float(per_day), int(new_from), noise)
    return found


def _instance(
    random: np.random.Generator, unit: Unit, per_day: float, new_from: int, noise: float
) -> list[Stretch]:
    days = np.arange(float(N_DAYS))
    age = np.where(days >= new_from, days - new_from, days)
    restarts = np.cumsum(random.random(N_DAYS) < 1 / 30)
    levels = random.uniform(-0.01, 0.01, N_DAYS)[restarts]
    logs = per_day * age + levels + random.normal(0, noise, N_DAYS) + random.normal(0, 0.05)
    logs -= np.log(2) * (random.random(N_DAYS) < 0.02)
    swapped = random.integers(40, 330) if random.random() < 1 / 3 else N_DAYS
    kept = random.random(N_DAYS) > 0.1
    return [
        Stretch(unit, Identity(model, "ollama", "1"), days[some], logs[some] + np.log(speed))
        for (model, speed), when in zip(MODELS, (days < swapped, days >= swapped), strict=True)
        if (some := kept & when).any()
    ]
