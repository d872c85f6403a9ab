"""What a load test found, whether that reaches the service level, and how people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ollama_fleet.levels import percent
from ollama_fleet.tables import count_text, table
from provisioning.load.endpoints import HEALTH
from provisioning.load.settings import ServiceLevel

HEAD = ("", "requests", "failed", "p50", "p99", "mean", "requests/s")


class Requests(msgspec.Struct, frozen=True):
    """Requests of one kind; durations in seconds, failed ones included."""

    name: str
    n: int
    n_failed: int
    p50_s: float
    p99_s: float
    mean_s: float
    per_s: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the users saw."""

    text: Requests
    """All requests for text, together; these are judged."""
    requests: tuple[Requests, ...]
    duration_s: float
    failures: Mapping[str, int]
    """Of requests for text and of health checks, by kind."""
    rejected: int
    """Requests that a gateway answered with 429; they are in no other number."""
    swapped: int
    lost_workers: int = 0
    """Of their users and last figures nothing is known."""
    generated_tokens: int
    tokens_per_s: float
    first_token_p50_s: float | None = None
    """Of streams only."""
    first_token_p99_s: float | None = None

    @property
    def failed_ratio(self) -> float:
        """Return the share of requests for text that failed, 0 to 1."""
        return self.text.n_failed / self.text.n if self.text.n else 0.0

    @property
    def rejected_ratio(self) -> float:
        """Return the share of all tries that were rejected, 0 to 1."""
        tries = self.rejected + sum(one.n for one in self.requests)
        return self.rejected / tries if tries else 0.0


def misses(report: Report, level: ServiceLevel) -> list[str]:
    """Return each point in which a report misses the service level."""
    if not report.text.n:
        return ["no request for text was answered"]
    found = []
    if report.text.p99_s > level.p99_s:
        found.append(f"p99 {_ms(report.text.p99_s)} is above {_ms(level.p99_s)}")
    if report.failed_ratio > level.failed_ratio:
        found.append(f"{_percent(report.failed_ratio)} failed, limit {percent(level.failed_ratio)}")
    if level.rejected_ratio is not None and report.rejected_ratio > level.rejected_ratio:
        limit = percent(level.rejected_ratio)
        found.append(f"{_percent(report.rejected_ratio)} were rejected, limit {limit}")
    if report.lost_workers:
        lost = count_text(report.lost_workers, "worker")
        found.append(f"{lost} went away during the test; their last figures are not known")
    return found


def verdict(report: Report, level: ServiceLevel) -> str:
    """Return the closing line."""
    seen = (
        f"p99 {_ms(report.text.p99_s)}, {_percent(report.failed_ratio)} of "
        f"{count_text(report.text.n, 'request')} failed, {report.rejected:,} rejected with 429 "
        f"({_percent(report.rejected_ratio)})"
    )
    if found := misses(report, level):
        return f"MISSED the service level: {'; '.join(found)} [{seen}]"
    return f"met the service level: {seen}"


def to_json(report: Report, level: ServiceLevel) -> bytes:
    """Return all of it for programs, on one line."""
    found = misses(report, level)
    return msgspec.json.encode(
        {
            "met": not found,
            "misses": found,
            "failed_ratio": report.failed_ratio,
            "rejected_ratio": report.rejected_ratio,
            **msgspec.to_builtins(report),
        }
    )


def to_text(report: Report) -> str:
    """Return the tables for people."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield table(HEAD, [*map(_row, report.requests), _row(report.text)])
    yield ""
    tokens = f"{report.generated_tokens:,} tokens generated, {report.tokens_per_s:,.1f} a second"
    yield f"{tokens}; {count_text(report.swapped, 'instance')} swapped"
    if report.first_token_p50_s is not None and report.first_token_p99_s is not None:
        p50, p99 = _ms(report.first_token_p50_s), _ms(report.first_token_p99_s)
        yield f"time to first token: p50 {p50}, p99 {p99}"
    if report.failures:
        yield f"failures: {_counts(report.failures)}"


def _row(one: Requests) -> Sequence[str]:
    durations = (_ms(one.p50_s), _ms(one.p99_s), _ms(one.mean_s))
    return one.name, f"{one.n:,}", f"{one.n_failed:,}", *durations, f"{one.per_s:,.1f}"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{n:,} {kind}" for kind, n in ordered)


def _ms(duration_s: float) -> str:
    return f"{1000 * duration_s:,.0f} ms"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2g}%" if ratio < 0.1 else f"{100 * ratio:.1f}%"


def is_for_text(name: str) -> bool:
    """Return whether requests of a name are judged: health checks are not, they flatter."""
    return name != HEALTH
