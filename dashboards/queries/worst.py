"""The instances that a table of few shows: those that are down, then the slowest.

In:   how many, and matchers of those among which to look.
Out:  expressions with a value of each of them.

Ten thousand are looked at for each column, so each looks once: what is up has a speed where one is
known, and what is down has none but is told to be down.
"""

from __future__ import annotations

from dashboards.queries.select import Ask
from exporter import catalogue
from exporter.catalogue import INSTANCE, Series

UNKNOWN = "1e9"
"""Tokens per second that none has: instances whose speed is not known come last."""


def worst(ask: Ask, limit: str, *matchers: str) -> str:
    """Return the instances: 0 where down, else the speed, or UNKNOWN."""
    up = ask.series(catalogue.INSTANCE_UP, *matchers)
    speed = ask.series(catalogue.INSTANCE_TOKENS_PER_SECOND, *matchers)
    # Of replicas first: one that was restarted knows no speed yet, and must not hide the other's.
    each = f"max {ask.by(*INSTANCE)}"
    return f"bottomk({limit}, {each} ({speed}) or {UNKNOWN} * {each} ({up}))"


def value(ask: Ask, series: Series, limit: str, *matchers: str) -> str:
    """Return a value of each of the instances, whichever replica tells it."""
    told = ask.series(series, *matchers)
    of_worst = f"{told}\nand {ask.on('instance_id', 'node')} {worst(ask, limit, *matchers)}"
    return f"max {ask.by(*INSTANCE)} (\n{of_worst}\n)"
