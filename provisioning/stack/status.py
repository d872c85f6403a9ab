"""What Prometheus says about the fleet, and the words for it.

In:   answers of Prometheus' query API to a few expressions over `ollama_fleet_…` series.
Out:  a FleetStatus; sentences for people and a JSON object for programs.
Fails with QueryError when Prometheus cannot be asked; a series that does not exist yet is a zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from provisioning.stack.errors import QueryError

HEALTHY = "healthy"
INSTANCES_BY_STATUS = "sum by (status) (ollama_fleet_instances)"
INVENTORY = "sum(ollama_fleet_inventory_instances)"
TOKENS_PER_SECOND = "sum(ollama_fleet_tokens_per_second)"

Samples = list[tuple[dict[str, str], float]]


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The fleet as Prometheus has it."""

    n_by_status: Mapping[str, int]
    n_inventory: int
    tokens_per_second: float

    @property
    def n_healthy(self) -> int:
        """Return how many instances are healthy."""
        return self.n_by_status.get(HEALTHY, 0)

    def as_json(self) -> dict[str, object]:
        """Return the status as JSON's types."""
        return {
            "healthy": self.n_healthy,
            "inventory": self.n_inventory,
            "instances": dict(self.n_by_status),
            "tokens_per_second": self.tokens_per_second,
        }

    def __str__(self) -> str:
        others = [
            f", {n:,} {status}"
            for status, n in sorted(self.n_by_status.items())
            if n and status != HEALTHY
        ]
        return (
            f"{self.n_healthy:,} of {self.n_inventory:,} instances healthy{''.join(others)}; "
            f"they generate up to {self.tokens_per_second:,.0f} tokens/s"
        )


async def ask(session: aiohttp.ClientSession, prometheus_url: str) -> FleetStatus:
    """Ask Prometheus how the fleet is.

    Raises:
        QueryError: It does not answer, or refuses the query.
    """
    by_status = await query(session, prometheus_url, INSTANCES_BY_STATUS)
    return FleetStatus(
        n_by_status={labels["status"]: int(value) for labels, value in by_status},
        n_inventory=int(_only(await query(session, prometheus_url, INVENTORY))),
        tokens_per_second=_only(await query(session, prometheus_url, TOKENS_PER_SECOND)),
    )


async def query(session: aiohttp.ClientSession, prometheus_url: str, promql: str) -> Samples:
    """Return the labels and value of each series of an instant query's answer.

    Raises:
        QueryError: Prometheus does not answer, or refuses the query.
    """
    url = f"{prometheus_url}/api/v1/query"
    try:
        async with session.get(url, params={"query": promql}) as answer:
            body = await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise QueryError(f"cannot ask {url} for {promql}: {error!r}") from error
    if body["status"] != "success":
        raise QueryError(f"{url} refuses {promql}: {body['error']}")
    return [(one["metric"], float(one["value"][1])) for one in body["data"]["result"]]


def _only(samples: Samples) -> float:
    return samples[0][1] if samples else 0.0
