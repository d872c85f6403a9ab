"""What Prometheus says about the fleet, and what `up` prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from ollama_fleet.prometheus import PrometheusClient, Series
from ollama_fleet.tables import count_text
from provisioning.cli.common import PREFIX
from provisioning.demo import processes
from provisioning.demo.fleet import Demo
from provisioning.demo.observers import CANARY_PERIOD_S, CANARY_TIMEOUT_S
from provisioning.demo.plan import Plan

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

QUERY_TIMEOUT_S = 5.0


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
    """What the healthy instances can generate; 0: no speed is known yet."""
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
            "tokens_per_second": self.tokens_per_second or None,
            "alerts_firing": [alert.name for alert in self.firing],
        }

    def __str__(self) -> str:
        others = [
            f", {n:,} {status}"
            for status, n in sorted(self.n_by_status.items())
            if n and status != HEALTHY
        ]
        return (
            f"{self.n_healthy:,} of {count_text(self.n_inventory, 'instance')} healthy"
            f"{''.join(others)}; {self._speed_words()}; {self._alert_words()}"
        )

    def _speed_words(self) -> str:
        if not self.tokens_per_second:
            return "their speed is not known yet"
        return f"they generate up to {self.tokens_per_second:,.0f} tokens/s"

    def _alert_words(self) -> str:
        firing = f"alerts firing: {_listed(self.firing)}" if self.firing else "no alert fires"
        return f"{firing}; pending: {_listed(self.pending)}" if self.pending else firing


async def ask(prometheus_url: str) -> FleetStatus:
    """Ask Prometheus how the fleet is.

    Raises:
        PrometheusError: It does not answer, or refuses a query.
    """
    async with PrometheusClient(prometheus_url, timeout_s=QUERY_TIMEOUT_S) as client:
        by_status, inventory, speed, alerts = [
            (await client.query(text)).series
            for text in (INSTANCES_BY_STATUS, INVENTORY, TOKENS_PER_SECOND, ALERTS)
        ]
    return FleetStatus(
        n_by_status={one.metric["status"]: int(one.number) for one in by_status},
        n_inventory=int(_only(inventory)),
        tokens_per_second=_only(speed),
        alerts=tuple(sorted(map(_alert, alerts))),
    )


def _alert(one: Series) -> Alert:
    return Alert(
        name=one.metric["alertname"],
        severity=one.metric.get("severity", "no severity"),
        is_firing=one.metric["alertstate"] == FIRING,
        n=int(one.number),
    )


def _listed(alerts: tuple[Alert, ...]) -> str:
    return ", ".join(map(str, alerts))


def _only(series: Sequence[Series]) -> float:
    return series[0].number if series else 0.0


MOST_KILLED = 20
FOUND_WITHIN_S = CANARY_PERIOD_S + CANARY_TIMEOUT_S
FROZEN_S = 3600
"""Longer than any demonstration's canary waits: a server replaces the runner while one does."""
ALERT = "OllamaFleetHealthyInstancesLow"
"""What a lost node brings: it waits for two minutes, and ends six minutes after its cause. The
provisioner gives the node five (`demo.LIMITS`) before it moves the instances."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Which pages for people these builds of the programs have."""

    has_graph: bool
    """Prometheus' graph_url."""
    has_alertmanager: bool


def for_people(plan: Plan, seen: FleetStatus, pages: Pages) -> str:
    """Return the text for a terminal."""
    observers = plan.observers
    graph = f"\n  the fleet over time  {graph_url(plan)}" if pages.has_graph else ""
    page = (
        f"\n  Alertmanager         {observers.alertmanager_url}/" if pages.has_alertmanager else ""
    )
    return f"""
{seen} (Prometheus says so)

  the whole fleet      {fleet_url(plan)}
  the exporter         {observers.exporter_url}/
  its metrics          {observers.exporter_url}/metrics
  who is unhealthy     {observers.exporter_url}/instances?status=unhealthy
  who is unreachable   {observers.exporter_url}/instances?status=unreachable
  Prometheus           {query_url(plan)}{graph}
  alerts that fire     {alerts_url(plan)}{page}
  the provisioner      {plan.provisioner_url}/instances
  the gateway          {plan.gateway.url}/api/tags
  what it counts       {plan.gateway.ops_url}/metrics
  what it keeps        {plan.spec}
  logs and data        {plan.run_dir.path}
{_changing(plan)}{_breaking(plan, plan.demo) if plan.demo else ""}
{_ending(plan)}"""


def as_json(
    plan: Plan, seen: FleetStatus, pids: Mapping[str, int], llama_urls: Sequence[str]
) -> str:
    """Return one line of JSON: the status, the URLs, files and process ids."""
    demo = plan.demo
    return json.dumps(
        {
            **seen.as_json(),
            "exporter_url": plan.observers.exporter_url,
            "fleet_url": fleet_url(plan),
            "prometheus_url": plan.observers.prometheus_url,
            "alertmanager_url": plan.observers.alertmanager_url,
            "gateway_url": plan.gateway.url,
            "provisioner_url": plan.provisioner_url,
            "provisioner_token_file": str(plan.run_dir.provisioner_token),
            "spec": str(plan.spec),
            "control_url": demo.control_url if demo else None,
            "control_token_file": str(plan.run_dir.token) if demo else None,
            "llama_urls": list(llama_urls),
            "run_dir": str(plan.run_dir.path),
            "pids": dict(pids),
        }
    )


def left_behind(plan: Plan, n_processes: int) -> str:
    """Return what still runs after the command ended; empty: nothing."""
    left = []
    if n_processes:
        left.append(f"instances that go on as processes, as --keep-instances asks: {n_processes:,}")
    if plan.has_containers:
        left.append("containers of the fleet go on")
    return "; ".join(left)


def fleet_url(plan: Plan) -> str:
    """Return the page that shows every instance."""
    return f"{plan.observers.exporter_url}/fleet"


def query_url(plan: Plan) -> str:
    """Return Prometheus' JSON of the fleet by status, which every build of it answers."""
    return f"{plan.observers.prometheus_url}/api/v1/query?" + urlencode(
        {"query": INSTANCES_BY_STATUS}
    )


def alerts_url(plan: Plan) -> str:
    """Return Alertmanager's JSON of the alerts that fire, which every build of it answers."""
    return f"{plan.observers.alertmanager_url}/api/v2/alerts"


def alertmanager_script_url(plan: Plan) -> str:
    """Return what Alertmanager's page runs; a build without it has a page that only says so."""
    return f"{plan.observers.alertmanager_url}/script.js"


def graph_url(plan: Plan) -> str:
    """Return the page of Prometheus that draws the fleet by status."""
    return f"{plan.observers.prometheus_url}/graph?" + urlencode(
        {"g0.expr": INSTANCES_BY_STATUS, "g0.tab": "0", "g0.range_input": "15m"}
    )


def kill_command(plan: Plan, demo: Demo) -> str:
    """Return a shell command that kills some simulated instances, which are then replaced."""
    return _inject(plan, demo, kind="kill", count=min(MOST_KILLED, demo.n_simulated))


def break_command(plan: Plan, demo: Demo) -> str:
    """Return a shell command that makes a node go away."""
    return _inject(plan, demo, **node_gone(demo))


def node_gone(demo: Demo) -> dict[str, object]:
    """Return the fault that takes the demonstration's last node away."""
    return {"kind": "node_gone", "node": demo.last_node}


def freeze_command(plan: Plan, demo: Demo) -> str:
    """Return a shell command that freezes the process in which a stock Ollama runs its model."""
    return _inject(plan, demo, kind="runner_hang", ids=[demo.first_stock], seconds=FROZEN_S)


def stalled_url(plan: Plan) -> str:
    """Return the list of instances whose last canary was not answered in time."""
    return f"{plan.observers.exporter_url}/instances?condition=stalled"


def heal_command(plan: Plan, demo: Demo) -> str:
    """Return a shell command that heals all simulated instances."""
    return f"{_curl(plan)} -X DELETE {demo.control_url}/faults"


def variables(plan: Plan) -> str:
    """Return shell commands after which our own commands find the provisioner."""
    token_file = shlex.quote(str(plan.run_dir.provisioner_token))
    return (
        f"export {PREFIX}PROVISIONER_URL={plan.provisioner_url}\n"
        f"  export {PREFIX}PROVISIONER_TOKEN_FILE={token_file}"
    )


def _ending(plan: Plan) -> str:
    if plan.is_kept:
        return "Ctrl-C stops everything but the instances, which go on."
    if plan.has_containers:
        return "Ctrl-C stops everything but containers of the fleet, which go on."
    return "Ctrl-C stops everything."


def _changing(plan: Plan) -> str:
    program = shlex.quote(processes.our_program())
    pool = plan.fleet.pools[0].name
    return f"""
Look at the fleet, replace an instance, change {plan.spec.name} and apply it:

  {variables(plan)}
  {program} instances list
  {program} instances replace {pool}-00001
  {program} provisioner apply {shlex.quote(str(plan.spec))}
"""


def _breaking(plan: Plan, demo: Demo) -> str:
    return f"""
Kill some instances; they are back within seconds, each a generation older:

  {kill_command(plan, demo)}

Take a node away, and give it back:

  {break_command(plan, demo)}
  {heal_command(plan, demo)}

Between the two, wait about two minutes: {ALERT} fires, and on-call is paged:
the page is printed here. `--break` does all of it. The alert ends six minutes after the fleet is
whole again. After five minutes without the node, its instances are created on the others.
{_freezing(plan, demo) if demo.first_stock else ""}"""


def _freezing(plan: Plan, demo: Demo) -> str:
    return f"""
Freeze the model of {demo.first_stock}, a stock Ollama: its pages answer as before, its model
generates nothing:

  {freeze_command(plan, demo)}

Within {FOUND_WITHIN_S} s the exporter's canary finds it: condition `stalled`, on /fleet and here:

  who is stalled       {stalled_url(plan)}
"""


def _inject(plan: Plan, demo: Demo, **fault: object) -> str:
    return f"{_curl(plan)} -d {shlex.quote(json.dumps(fault))} {demo.control_url}/faults"


def _curl(plan: Plan) -> str:
    # The shell reads the token: it is neither printed nor part of the history.
    return f'curl -H "Authorization: Bearer $(cat {shlex.quote(str(plan.run_dir.token))})"'
