"""Read the wanted figures from a page of Prometheus text, within bounds.

A page of vLLM or TGI has thousands of samples, and prometheus-client's parser takes 50 ms for it.
This one looks for the `# TYPE` lines of the wanted families and reads nothing else. Samples are
summed up over their labels: the engines of one server, its models, streamed requests and others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from exporter.engines.base import (
    MAX_AMOUNT,
    MAX_NAME_CHARACTERS,
    UNSPECIFIED,
    clipped,
    excerpt,
    healthy,
    metrics_body,
    without_metrics,
)
from exporter.errors import PollError
from exporter.histograms import MAX_BOUNDARY_CHARACTERS, boundaries_of
from exporter.model import NO_VALUES, Histogram, Outcome, Values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.model import Answer, Verdict


MAX_SAMPLES: Final = 10_000
"""Of one family; a histogram of 40 buckets over 64 engines, streaming and not, has 5,000."""
MAX_ERROR_TYPES: Final = 100
MAX_MODELS: Final = 16
MAX_SHOWN_BYTES: Final = 50
MAX_LABELS_BYTES: Final = 2048
MAX_SHORT_BYTES: Final = 100
"""A block of a family below this may hold just one sample: that case is tried first."""

Names = tuple[str, ...]
"""The names that versions of a server give one figure; the first one that a page has counts."""


@dataclass(frozen=True, slots=True)
class ErrorSeries:
    """A counter of requests; a label says which failed, and why."""

    name: str
    label: str
    failures: str = ".*"
    """Regular expression for the label's values that are failures."""
    prefix: str = ""
    """Put before the label's value where that alone says too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLayout:
    """The names of a server's series; each field is one of `Values`, but the last two."""

    requests_running: Names = ()
    requests_queued: Names = ()
    generated_tokens_total: Names = ()
    prompt_tokens_total: Names = ()
    generating_seconds_total: Names = ()
    tokens_per_second: Names = ()
    """Zero counts as not reported: the server is idle."""
    start_time_s: Names = ()
    kv_cache_usage_ratio: Names = ()
    """The largest sample counts: requests wait first at that engine."""
    request_duration: Names = ()
    time_to_first_token: Names = ()
    queue_time: Names = ()
    errors: tuple[ErrorSeries, ...] = ()
    model_label: str = ""
    """The label that names the model, on the series of `requests_running`."""
    repeats: str = ""
    """Regular expression for the labels of samples that repeat others."""

    @property
    def totals(self) -> Names:
        """Return the names of all series without buckets."""
        return (
            *self.requests_running,
            *self.requests_queued,
            *self.generated_tokens_total,
            *self.prompt_tokens_total,
            *self.generating_seconds_total,
            *self.tokens_per_second,
            *self.start_time_s,
            *self.kv_cache_usage_ratio,
            *[series.name for series in self.errors],
        )

    @property
    def histograms(self) -> Names:
        """Return the names of all histograms."""
        return (*self.request_duration, *self.time_to_first_token, *self.queue_time)


METRICS = "/metrics"


def page_verdict(
    answer: Answer | PollError, reader: PageReader, known: Values, *, hint: str
) -> Verdict:
    """Return the verdict on a healthy instance with what its `/metrics` says.

    What is known of it from other answers counts before what the page says. The hint is what to
    look at where the page is missing or has none of the server's series.
    """
    try:
        page = metrics_body(METRICS, answer)
    except PollError as error:
        detail = f"{error.detail}; {hint}" if error.outcome is Outcome.HTTP_STATUS else error.detail
        return without_metrics(error.outcome, detail, known)
    said, faults = reader.read(page)
    if said == NO_VALUES and not faults:
        return without_metrics(
            Outcome.BAD_BODY, f"{METRICS} has no series of this engine; {hint}", known
        )
    values = msgspec.structs.replace(
        said, models=known.models or said.models, version=known.version, loaded=known.loaded
    )
    if not faults:
        return healthy(values)
    return without_metrics(Outcome.BAD_BODY, f"{METRICS}: {clipped('; '.join(faults))}", values)


Samples = list[tuple[bytes, bytes, bytes]]
"""(name, labels without braces, value), as they stand there."""

_find_samples: Callable[[bytes], Samples] = re.compile(
    rb"^([^{\s]+)(?:\{([^\n]*)\})?[ \t]+(\S+)", re.MULTILINE
).findall


@lru_cache(maxsize=1024)
def _family(name: str) -> str:
    """Return the name on the TYPE line: that of a histogram also for its sum."""
    return re.sub(r"_(?:sum|count)$", "", name)


class PageReader:
    """Reads pages of one layout; about 0.2 ms for 100 kB."""

    def __init__(self, layout: PageLayout) -> None:
        self._layout = layout
        families = {*layout.totals, *layout.histograms, *map(_family, layout.totals)}
        any_family = "|".join(map(re.escape, sorted(families, reverse=True))).encode()
        self._find_blocks = re.compile(
            rb"\n# TYPE (" + any_family + rb")[ \t][^\n]*((?:\n[^#\s][^\n]*)*)"
        ).findall
        self._find_buckets = {name: _bucket_finder(name) for name in layout.histograms}
        self._drop_repeats: Callable[[bytes], bytes] | None = None
        if layout.repeats:
            self._drop_repeats = _dropper(layout.repeats)

    def read(self, page: bytes) -> tuple[Values, list[str]]:
        """Return the figures that the page has, and what is wrong with those left out."""
        layout = self._layout
        blocks = dict(self._find_blocks(b"\n" + page))
        if self._drop_repeats is not None:
            blocks = {name: self._drop_repeats(block) for name, block in blocks.items()}
        figures = _Figures(blocks, self._find_buckets)
        values = Values(
            models=figures.label_values(layout.requests_running, layout.model_label),
            tokens_per_second=figures.total(layout.tokens_per_second) or None,
            requests_running=figures.total(layout.requests_running),
            requests_queued=figures.total(layout.requests_queued),
            start_time_s=figures.largest(layout.start_time_s),
            generated_tokens_total=figures.total(layout.generated_tokens_total),
            prompt_tokens_total=figures.total(layout.prompt_tokens_total),
            generating_seconds_total=figures.total(layout.generating_seconds_total),
            errors_total=figures.errors(layout.errors),
            request_duration=figures.histogram(layout.request_duration),
            kv_cache_usage_ratio=figures.largest(layout.kv_cache_usage_ratio),
            time_to_first_token=figures.histogram(layout.time_to_first_token),
            queue_time=figures.histogram(layout.queue_time),
        )
        return values, figures.faults


def _bucket_finder(name: str) -> Callable[[bytes], list[tuple[bytes, bytes]]]:
    # In a label's value each quotation mark has a backslash before it, so none ends with `,le="`.
    le = rf'le="([^"\n]{{1,{MAX_BOUNDARY_CHARACTERS}}})"'
    # Atomic: a line of 1 MB with many `,le="1"` and no value would else take a minute.
    start = rf"(?>{re.escape(name)}_bucket\{{(?:[^\n]*,)?{le})"
    pattern = rf"^{start}[^\n]*\}}[ \t]+(\S+)"
    return re.compile(pattern.encode(), re.MULTILINE).findall


def _dropper(labels: str) -> Callable[[bytes], bytes]:
    is_there = re.compile(labels.encode()).search
    lines = re.compile(rf"^[^\n]*(?:{labels})[^\n]*\n?".encode(), re.MULTILINE)
    return lambda block: lines.sub(b"", block) if is_there(block) else block


class _Figures:
    """The wanted families of one page."""

    def __init__(
        self,
        blocks: dict[bytes, bytes],
        find_buckets: dict[str, Callable[[bytes], list[tuple[bytes, bytes]]]],
    ) -> None:
        self._blocks = blocks
        self._find_buckets = find_buckets
        self.faults: list[str] = []

    def total(self, names: Names) -> float | None:
        amounts = self._amounts(names)
        return sum(amounts) if amounts else None

    def largest(self, names: Names) -> float | None:
        return max(self._amounts(names), default=None)

    def label_values(self, names: Names, label: str) -> tuple[str, ...]:
        values: set[str] = set()
        for name in names if label else ():
            for _, labels, _ in self._samples(name):
                values.add(_label(labels, label))
        return tuple(sorted(values - {""}))[:MAX_MODELS]

    def errors(self, all_series: Sequence[ErrorSeries]) -> tuple[tuple[str, float], ...]:
        """Return the failures by type; one type of 0 where there were none."""
        if not all_series or not self._blocks:
            return ()
        counts: dict[str, float] = {}
        for series in all_series:
            samples = self._samples(series.name)
            amounts = self._checked(series.name, samples)
            if len(amounts) < len(samples):
                return ()
            for (_, labels, _), amount in zip(samples, amounts, strict=True):
                reason = _label(labels, series.label)
                if re.fullmatch(series.failures, reason):
                    kind = series.prefix + reason or UNSPECIFIED
                    counts[kind] = counts.get(kind, 0.0) + amount
        if len(counts) > MAX_ERROR_TYPES:
            self.faults.append(f"more than {MAX_ERROR_TYPES} types of errors")
            return ()
        return tuple(sorted(counts.items())) or ((UNSPECIFIED, 0.0),)

    def histogram(self, names: Names) -> Histogram | None:
        """Return the sum of the histograms of one family; None, and a fault, if it has none."""
        for name in names:
            block = self._block(name)
            if block is not None:
                try:
                    return self._histogram(name, block)
                except ValueError as error:
                    self.faults.append(f"{name}: {error}")
                    return None
        return None

    def _histogram(self, name: str, block: bytes) -> Histogram | None:
        buckets = self._find_buckets[name](block)
        sums = self._amounts((f"{name}_sum",))
        if not buckets or not sums:
            return None  # no request has ended yet, or it is a summary
        counts: dict[bytes, float] = {}
        for le, value in buckets:
            counts[le] = counts.get(le, 0.0) + float(value)
        if len(buckets) != len(counts) * len(sums):
            raise ValueError("its samples have different buckets")
        boundaries_s = boundaries_of(tuple(counts))
        cumulative = tuple(counts.values())
        if not all(low <= high for low, high in pairwise((0.0, *cumulative, MAX_AMOUNT))):
            raise ValueError("is not cumulative")
        return Histogram(cumulative, sum(sums), boundaries_s)

    def _amounts(self, names: Names) -> list[float]:
        """Return the values of the first series that the page has; none, and a fault, if bad."""
        for name in names:
            block = self._blocks.get(name.encode(), b"")
            words = block.split(None, 3) if len(block) < MAX_SHORT_BYTES else ()
            if len(words) == 2 and words[0] == name.encode():  # the one sample, without labels
                return self._checked(name, [(words[0], b"", words[1])])
            samples = self._samples(name)
            if samples:
                return self._checked(name, samples)
        return []

    def _checked(self, name: str, samples: Samples) -> list[float]:
        amounts = []
        for _, _, text in samples:
            amount = _amount(text)
            if amount is None:
                seen = excerpt(text[:MAX_SHOWN_BYTES])
                self.faults.append(f"{name} has no usable value: {seen}")
                return []
            amounts.append(amount)
        return amounts

    def _samples(self, name: str) -> Samples:
        block = self._block(name)
        if block is None:
            return []
        wanted = name.encode()
        first = max(0, block.find(b"\n" + wanted))  # beyond the buckets, where it is their sum
        return [sample for sample in _find_samples(block[first:]) if sample[0] == wanted]

    def _block(self, name: str) -> bytes | None:
        block = self._blocks.get(name.encode()) or self._blocks.get(_family(name).encode())
        if not block or block.count(b"\n") <= MAX_SAMPLES:
            return block
        fault = f"{clipped(name)} has more than {MAX_SAMPLES:,} samples"
        if fault not in self.faults:
            self.faults.append(fault)
        return None


def _amount(text: bytes) -> float | None:
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if 0 <= amount <= MAX_AMOUNT else None  # nor is NaN


def _label(labels: bytes, name: str) -> str:
    """Return a label's value; empty without one."""
    return _cached_label(labels[:MAX_LABELS_BYTES], name)


@lru_cache(maxsize=4096)
def _cached_label(labels: bytes, name: str) -> str:
    pattern = rf'(?:^|,){re.escape(name)}="((?:[^"\\]|\\.)*)"'
    found = re.search(pattern.encode(), labels)
    if found is None:
        return ""
    text = re.sub(rb"\\(.)", lambda escaped: escaped[1].replace(b"n", b"\n"), found[1])
    return clipped(text.decode(errors="replace"), MAX_NAME_CHARACTERS)
