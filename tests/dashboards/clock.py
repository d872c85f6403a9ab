"""Time that passes only when somebody sleeps."""

from __future__ import annotations


class FakeClock:
    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
