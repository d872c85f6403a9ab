"""The words that `up` says once all runs: how the fleet is, where to look, what to try.

In:   the Plan of the run, the FleetStatus by Prometheus, which pages there are, the processes' ids.
Out:  a text for people, or one line of JSON for programs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from provisioning.cli.common import PREFIX
from provisioning.demo import ourselves
from provisioning.demo.commands import Plan
from provisioning.demo.demo import Demo
from provisioning.demo.status import INSTANCES_BY_STATUS, FleetStatus

MOST_KILLED = 20
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
    """Return what goes on after the run; empty: nothing does.

    Args:
        plan: Of the run.
        n_processes: How many instances that are processes were left.
    """
    left = []
    if n_processes:
        left.append(f"{n_processes:,} instances that are processes go on, as --keep-instances asks")
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
    return _inject(plan, demo, kind="node_gone", node=demo.last_node)


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
    program = shlex.quote(ourselves.our_program())
    pool = plan.fleet.pools[0].name
    return f"""
Look at the fleet, replace an instance, change {plan.spec.name} and put it in force:

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

Between the two, wait about two minutes: {ALERT} fires, the alert that
wakes somebody. It ends six minutes after the fleet is whole again. After five minutes without the
node its instances are made anew on the others.
"""


def _inject(plan: Plan, demo: Demo, **fault: object) -> str:
    return f"{_curl(plan)} -d {shlex.quote(json.dumps(fault))} {demo.control_url}/faults"


def _curl(plan: Plan) -> str:
    # The shell reads the token: it is neither printed nor part of the history.
    return f'curl -H "Authorization: Bearer $(cat {shlex.quote(str(plan.run_dir.token))})"'
