"""Read a gateway's series as Prometheus does."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.provisioning.gateway.nginx import Gateway, ask, wait_until

PREFIX = "ollama_gateway_"


@dataclass(frozen=True)
class Samples:
    """What one scrape holds."""

    text: str
    families: dict[str, Metric]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of all series with these labels."""
        return sum(self.by("", name, **labels).values())

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the sums of series with these labels, by another one."""
        found: dict[str, float] = {}
        for family in self.families.values():
            for sample in family.samples:
                is_wanted = sample.name == PREFIX + name and labels.items() <= sample.labels.items()
                if is_wanted:
                    value = sample.labels.get(label, "")
                    found[value] = found.get(value, 0.0) + sample.value
        return found


def samples(gateway: Gateway) -> Samples:
    """Scrape a gateway."""
    status, _, body = ask(gateway.ops_url + "/metrics")
    assert status == 200
    text = body.decode()
    return Samples(text, {one.name: one for one in text_string_to_metric_families(text)})


def wait_total(gateway: Gateway, n: float, name: str = "requests_total", **labels: str) -> Samples:
    """Return the series once those with these labels come to n: workers add theirs each second."""
    wait_until(lambda: samples(gateway).total(name, **labels) >= n)
    return samples(gateway)
