"""Answer "why is this one red?": every instance with its last outcome and last failure, as JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from exporter.counters import is_stale, speed_now
from exporter.model import CanaryOutcome, Condition, Generation, Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from exporter.model import CanaryState, LoadedModel
    from exporter.scrape_target import LastFailure
    from exporter.snapshot import Row

    Seen = tuple[Row, LastFailure | None]


class ModelView(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What `/instances` says of one model in an instance's memory."""

    model: str
    bytes: float | None = None
    vram_bytes: float | None = None
    context_length: float | None = None
    expires_timestamp_seconds: float | None = None
    never_expires: bool = False


class InstanceView(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What `/instances` says of one instance; what is not known is left out."""

    id: str
    url: str
    node: str
    model: str
    engine: str
    state: str
    status: Status
    version: str = ""
    developer: str = ""
    labels: dict[str, str] = {}
    conditions: tuple[Condition, ...] = ()
    start_time_seconds: float | None = None
    """Since 1970 UTC."""
    loaded_models: tuple[ModelView, ...] | None = None
    """Empty where nothing is loaded."""
    n_installed_models: int | None = None
    installed_models: tuple[str, ...] | None = None
    """Only where one instance is asked for by its id: there may be 200."""
    last_outcome: Outcome | None = None
    last_error: str = ""
    """Of the last poll; empty when it went well."""
    metrics_outcome: Outcome | None = None
    metrics_error: str = ""
    latency_seconds: float | None = None
    """How long the last poll took."""
    age_seconds: float | None = None
    """How long ago the last poll began."""
    tokens_per_second: float | None = None
    canary_outcome: CanaryOutcome | None = None
    canary_error: str = ""
    """Of the last canary: what went wrong, or why it was skipped."""
    canary_age_seconds: float | None = None
    canary_stalled: int = 0
    """Stalled canaries in a row."""
    canary_tokens_per_second: float | None = None
    canary_time_to_first_token_seconds: float | None = None
    canary_waiting_seconds: float | None = None
    canary_load_seconds: float | None = None
    canary_duration_seconds: float | None = None
    failing_seconds: float | None = None
    """How long it has failed although it should serve."""
    is_transient: bool = False
    """Whether it comes and goes on purpose."""
    last_failure_outcome: Outcome | None = None
    last_failure: str = ""
    last_failure_age_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which instances are wanted; None takes all."""

    id: str | None = None
    status: str | None = None
    node: str | None = None
    model: str | None = None
    engine: str | None = None
    developer: str | None = None
    condition: str | None = None

    def takes(self, row: Row) -> bool:
        """Return whether an instance is wanted."""
        target = row.target
        return (
            self.status in (None, row.status)
            and self.id in (None, target.id)
            and self.node in (None, target.node)
            and self.model in (None, row.counters.model)
            and self.engine in (None, engine_of(row))
            and self.developer in (None, target.developer)
            and (self.condition is None or self.condition in row.conditions)
        )


NO_GENERATION = Generation(0.0)
CLOSED_SETS: dict[str, type[StrEnum]] = {"status": Status, "condition": Condition}
FILTER_KEYS = tuple(field.name for field in fields(Filter))


def parse_filter(query: Mapping[str, str]) -> Filter:
    """Return the filter that a query string asks for.

    Raises:
        ValueError: It has a key, a status or a condition that there is not.
    """
    check_keys(query, FILTER_KEYS)
    for key, known in CLOSED_SETS.items():
        if key in query and query[key] not in {*known}:
            raise ValueError(f"no {key} {query[key]!r}, only {', '.join(known)}")
    return Filter(**query)


def check_keys(query: Mapping[str, str], allowed: Collection[str]) -> None:
    """Refuse what there is not, and what stands twice.

    Raises:
        ValueError: The query has such a key.
    """
    keys = [key for key, _ in query.items()]  # a query string may repeat a key
    for key in keys:
        if key not in allowed:
            raise ValueError(f"there is no parameter {key!r}, only {', '.join(allowed)}")
        if keys.count(key) > 1:
            raise ValueError(f"can take one {key} at a time")


def to_json(seen: Iterable[Seen], wanted: Filter, *, now_s: float) -> bytes:
    """Return a JSON list of the wanted instances; about 3 µs for each."""
    in_full = wanted.id is not None
    views = [
        view(row, failure, now_s=now_s, in_full=in_full)
        for row, failure in seen
        if wanted.takes(row)
    ]
    return msgspec.json.encode(views)


def view(
    row: Row, failure: LastFailure | None, *, now_s: float, in_full: bool = False
) -> InstanceView:
    """Return what there is to say of one instance; in full, with the names of installed models."""
    target, reading, canary = row.target, row.reading, row.canary
    verdict = None if reading is None else reading.verdict
    generation = last_generation(canary, now_s=now_s) or NO_GENERATION
    installed = row.counters.installed
    return InstanceView(
        id=target.id,
        url=target.url,
        node=target.node,
        model=row.counters.model,
        engine=engine_of(row),
        state=target.state,
        status=row.status,
        version=row.counters.version,
        developer=target.developer,
        labels=dict(target.labels),
        conditions=row.conditions,
        start_time_seconds=start_time_s(row),
        loaded_models=None if verdict is None else _loaded_models(verdict.values.loaded),
        n_installed_models=None if installed is None else len(installed),
        installed_models=installed if in_full else None,
        last_outcome=None if verdict is None else verdict.outcome,
        last_error="" if verdict is None else verdict.detail,
        # Of an instance that is not up, no metrics were read.
        metrics_outcome=verdict.metrics_outcome if verdict is not None and row.is_up else None,
        metrics_error="" if verdict is None else verdict.metrics_detail,
        latency_seconds=None if reading is None else round(reading.duration_s, 6),
        age_seconds=None if reading is None else _age_s(reading.polled_at_s, now_s),
        tokens_per_second=speed_now(row.counters, row.canary, now_s=now_s) if row.is_up else None,
        canary_outcome=None if canary is None else canary.outcome,
        canary_error="" if canary is None else canary.detail,
        canary_age_seconds=None if canary is None else _age_s(canary.at_s, now_s),
        canary_stalled=0 if canary is None else canary.n_stalled,
        canary_tokens_per_second=generation.tokens_per_second,
        canary_time_to_first_token_seconds=generation.time_to_first_token_s,
        canary_waiting_seconds=generation.waiting_s,
        canary_load_seconds=generation.load_s,
        canary_duration_seconds=generation.duration_s or None,
        failing_seconds=_age_s(row.failing_since_s, now_s),
        is_transient=row.is_transient,
        last_failure_outcome=None if failure is None else failure.outcome,
        last_failure="" if failure is None else failure.detail,
        last_failure_age_seconds=None if failure is None else _age_s(failure.at_s, now_s),
    )


def _age_s(since_s: float | None, now_s: float) -> float | None:
    return None if since_s is None else round(now_s - since_s, 3)


def last_generation(canary: CanaryState | None, *, now_s: float) -> Generation | None:
    """Return what the last canary measured, unless that is too long ago to count."""
    return None if canary is None or is_stale(canary, now_s=now_s) else canary.generation


def _loaded_models(loaded: Sequence[LoadedModel] | None) -> tuple[ModelView, ...] | None:
    if loaded is None:
        return None
    return tuple(
        [
            ModelView(
                model.name,
                model.size_bytes,
                model.vram_bytes,
                model.context_length,
                model.expires_at_s,
                model.is_pinned,
            )
            for model in loaded
        ]
    )


def start_time_s(row: Row) -> float | None:
    """Return when an instance started, in seconds since 1970 UTC: as it reports, else as listed."""
    reported = row.counters.start_time_s
    return row.target.started_s if reported is None else reported


def engine_of(row: Row) -> str:
    """Return which server an instance is, as far as that is known."""
    return row.target.engine if row.reading is None else row.reading.engine
