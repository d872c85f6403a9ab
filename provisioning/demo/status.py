"""What Prometheus says about the fleet and its alerts, and the words for it.

In:   answers of Prometheus' query API to a few expressions over `ollama_fleet_…` series and ALERTS.
Out:  a FleetStatus; sentences for people and a JSON object for programs.
Fails with QueryError when Prometheus cannot be asked; a series that does not exist yet is a zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from provisioning.demo.errors import QueryError

HEALTHY = "healthy"
PROVISIONING = "provisioning"
ON_THE_WAY = (PROVISIONING, "loading", "unknown")
"""Being made, loading its model, not polled yet."""
INSTANCES_BY_STATUS = "sum by (status) (ollama_fleet_instances)"
INVENTORY = "sum(ollama_fleet_inventory_instances)"
TOKENS_PER_SECOND = "sum(ollama_fleet_tokens_per_second)"
# Watchdog fires always: it proves that alerts arrive, and says nothing about the fleet.
ALERTS = 'count by (alertname, severity, alertstate) (ALERTS{alertname!="Watchdog"})'
FIRING = "firing"

Sample = tuple[dict[str, str], float]
Samples = list[Sample]


@dataclass(frozen=True, slots=True, order=True)
class Alert:
    """An alert that fires, or is pending: it will fire if its condition holds on."""

    name: str
    severity: str
    is_firing: bool
    n: int = 1
    """How many there are of it, such as one for each node."""

    def __str__(self) -> str:
        return f"{self.name} ({self.severity})" + (f" × {self.n:,}" if self.n > 1 else "")


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The fleet as Prometheus has it."""

    n_by_status: Mapping[str, int]
    n_inventory: int
    tokens_per_second: float
    alerts: tuple[Alert, ...] = ()

    @property
    def n_healthy(self) -> int:
        """Return how many instances are healthy."""
        return self.n_by_status.get(HEALTHY, 0)

    @property
    def n_provisioning(self) -> int:
        """Return how many instances are being made."""
        return self.n_by_status.get(PROVISIONING, 0)

    @property
    def is_there(self) -> bool:
        """Say whether some instance is healthy, and none is on its way to that."""
        return self.n_healthy > 0 and not any(map(self.n_by_status.get, ON_THE_WAY))

    @property
    def firing(self) -> tuple[Alert, ...]:
        """Return the alerts that fire."""
        return tuple(alert for alert in self.alerts if alert.is_firing)

    @property
    def pending(self) -> tuple[Alert, ...]:
        """Return the alerts that do not fire yet."""
        return tuple(alert for alert in self.alerts if not alert.is_firing)

    def as_json(self) -> dict[str, object]:
        """Return the status as JSON's types."""
        return {
            "healthy": self.n_healthy,
            "inventory": self.n_inventory,
            "instances": dict(self.n_by_status),
            "tokens_per_second": self.tokens_per_second,
            "alerts_firing": [alert.name for alert in self.firing],
        }

    def __str__(self) -> str:
        others = [
            f", {n:,} {status}"
            for status, n in sorted(self.n_by_status.items())
            if n and status != HEALTHY
        ]
        return (
            f"{self.n_healthy:,} of {self.n_inventory:,} instances healthy{''.join(others)}; "
            f"they generate up to {self.tokens_per_second:,.0f} tokens/s; "
            f"{self._alert_words()}"
        )

    def _alert_words(self) -> str:
        firing = f"alerts firing: {_listed(self.firing)}" if self.firing else "no alert fires"
        return f"{firing}; pending: {_listed(self.pending)}" if self.pending else firing


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
        alerts=tuple(sorted(map(_alert, await query(session, prometheus_url, ALERTS)))),
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


def _alert(sample: Sample) -> Alert:
    labels, n = sample
    return Alert(
        name=labels["alertname"],
        severity=labels.get("severity", "no severity"),
        is_firing=labels["alertstate"] == FIRING,
        n=int(n),
    )


def _listed(alerts: tuple[Alert, ...]) -> str:
    return ", ".join(map(str, alerts))


def _only(samples: Samples) -> float:
    return samples[0][1] if samples else 0.0
