"""The words that `up` says once all runs: how the fleet is, where to look, what to try.

In:   the Plan of the run, the FleetStatus by Prometheus, which pages there are, the processes' ids.
Out:  a text for people, or one line of JSON for programs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from provisioning.stack.commands import Plan
from provisioning.stack.status import INSTANCES_BY_STATUS, FleetStatus

LEAST_KILLED = 20
KILLED_PERCENT = 2
"""What the command that is printed kills at least: twice what the alert tolerates."""
ALERT = "OllamaFleetHealthyInstancesLow"
"""The alert that then fires; it waits for two minutes, and ends six minutes after its cause."""


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
  logs and data        {plan.run_dir.path}
{_breaking(plan) if plan.n_simulated else ""}
Ctrl-C stops everything."""


def as_json(plan: Plan, seen: FleetStatus, pids: Mapping[str, int]) -> str:
    """Return one line of JSON: the status, the URLs, files and process ids."""
    return json.dumps(
        {
            **seen.as_json(),
            "exporter_url": plan.observers.exporter_url,
            "fleet_url": fleet_url(plan),
            "prometheus_url": plan.observers.prometheus_url,
            "alertmanager_url": plan.observers.alertmanager_url,
            "control_url": plan.control_url,
            "control_token_file": str(plan.run_dir.token),
            "llama_urls": plan.llama_urls,
            "run_dir": str(plan.run_dir.path),
            "pids": dict(pids),
        }
    )


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


def break_command(plan: Plan) -> str:
    """Return a shell command that kills some simulated instances."""
    n_killed = max(LEAST_KILLED, plan.n_simulated * KILLED_PERCENT // 100)
    fault = json.dumps({"kind": "kill", "count": min(n_killed, plan.n_simulated)})
    return f"{_curl(plan)} -d {shlex.quote(fault)} {plan.control_url}/faults"


def heal_command(plan: Plan) -> str:
    """Return a shell command that heals all simulated instances."""
    return f"{_curl(plan)} -X DELETE {plan.control_url}/faults"


def _breaking(plan: Plan) -> str:
    return f"""
Break something, and heal it again:

  {break_command(plan)}
  {heal_command(plan)}

Between the two, wait about two minutes: {ALERT} fires, the alert that
wakes somebody. It ends six minutes after the fleet is whole again.
"""


def _curl(plan: Plan) -> str:
    # The shell reads the token: it is neither printed nor part of the history.
    return f'curl -H "Authorization: Bearer $(cat {shlex.quote(str(plan.run_dir.token))})"'
