"""Pages of gateways, as `fleet/metrics.lua` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from exporter import catalogue
from exporter.catalogue import Series

BOUNDARIES_S = (0.15, 1.0)


@dataclass(frozen=True, slots=True)
class Counted:
    """What a gateway has counted for one model on one node."""

    codes: Mapping[str, int] = field(default_factory=dict)
    """Requests by status code."""
    durations: Sequence[int] = (0, 0, 0)
    """Requests up to 0.15 s, up to 1 s, and longer."""
    tokens: int = 0


def page(counted: Mapping[tuple[str, str], Counted]) -> bytes:
    """Return the page of a gateway, by model and node."""
    lines: list[str] = []
    for series in (catalogue.GATEWAY_REQUEST_DURATION, catalogue.GATEWAY_TIME_TO_FIRST_TOKEN):
        lines.append(f"# TYPE {series.name} histogram")
        for (model, node), one in counted.items():
            lines += _histogram(series, f'model="{model}",node="{node}"', one.durations)
    lines.append(f"# TYPE {catalogue.GATEWAY_QUEUE_TIME.name} histogram")
    for model in dict.fromkeys(model for model, _ in counted):
        lines += _histogram(catalogue.GATEWAY_QUEUE_TIME, f'model="{model}"', (1, 0, 0))
    for (model, node), one in counted.items():
        labels = f'model="{model}",node="{node}"'
        name = catalogue.GATEWAY_REQUESTS.name
        lines += [f'{name}{{{labels},code="{code}"}} {n}' for code, n in one.codes.items()]
        lines.append(f"{catalogue.GATEWAY_GENERATED_TOKENS.name}{{{labels}}} {one.tokens}")
    lines.append(f'{catalogue.GATEWAY_REJECTED.name}{{reason="fleet_full"}} 7')
    lines.append(f'{catalogue.GATEWAY_BUILD_INFO.name}{{version="0.1"}} 1')
    return "\n".join([*lines, ""]).encode()


def _histogram(series: Series, labels: str, counts: Sequence[int]) -> list[str]:
    cumulative = list(accumulate(counts))
    les = (*map(str, BOUNDARIES_S), "+Inf")
    return [
        *[
            f'{series.name}_bucket{{{labels},le="{le}"}} {count}'
            for le, count in zip(les, cumulative, strict=True)
        ],
        f"{series.name}_sum{{{labels}}} {0.1 * cumulative[-1]!r}",
        f"{series.name}_count{{{labels}}} {cumulative[-1]}",
    ]
