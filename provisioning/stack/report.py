"""The words that `up` says once all runs: how the fleet is, where to look, what to try.

In:   the Plan of the run, the FleetStatus by Prometheus, the processes' ids.
Out:  a text for people, or one line of JSON for programs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from urllib.parse import urlencode

from provisioning.stack.commands import Plan
from provisioning.stack.status import INSTANCES_BY_STATUS, FleetStatus

N_KILLED = 20
"""By the command that is printed, where there are as many."""


def for_people(plan: Plan, seen: FleetStatus, *, has_graph: bool) -> str:
    """Return the text for a terminal; `has_graph` says whether this Prometheus has graph_url."""
    graph = f"\n  the fleet over time  {graph_url(plan)}" if has_graph else ""
    return f"""
{seen} (Prometheus says so)

  the exporter         {plan.exporter_url}/
  its metrics          {plan.exporter_url}/metrics
  who is unhealthy     {plan.exporter_url}/instances?status=unhealthy
  who is unreachable   {plan.exporter_url}/instances?status=unreachable
  Prometheus           {query_url(plan)}{graph}
  logs and data        {plan.run_dir.path}
{_breaking(plan) if plan.n_simulated else ""}
Ctrl-C stops everything."""


def as_json(plan: Plan, seen: FleetStatus, pids: Mapping[str, int]) -> str:
    """Return one line of JSON: the status, the URLs, files and process ids."""
    return json.dumps(
        {
            **seen.as_json(),
            "exporter_url": plan.exporter_url,
            "prometheus_url": plan.prometheus_url,
            "control_url": plan.control_url,
            "control_token_file": str(plan.run_dir.token),
            "llama_urls": plan.llama_urls,
            "run_dir": str(plan.run_dir.path),
            "pids": dict(pids),
        }
    )


def query_url(plan: Plan) -> str:
    """Return Prometheus' JSON of the fleet by status, which every build of it answers."""
    return f"{plan.prometheus_url}/api/v1/query?" + urlencode({"query": INSTANCES_BY_STATUS})


def graph_url(plan: Plan) -> str:
    """Return the page of Prometheus that draws the fleet by status."""
    return f"{plan.prometheus_url}/graph?" + urlencode(
        {"g0.expr": INSTANCES_BY_STATUS, "g0.tab": "0", "g0.range_input": "15m"}
    )


def break_command(plan: Plan) -> str:
    """Return a shell command that kills some simulated instances."""
    fault = json.dumps({"kind": "kill", "count": min(N_KILLED, plan.n_simulated)})
    return f"{_curl(plan)} -d {shlex.quote(fault)} {plan.control_url}/faults"


def heal_command(plan: Plan) -> str:
    """Return a shell command that heals all simulated instances."""
    return f"{_curl(plan)} -X DELETE {plan.control_url}/faults"


def _breaking(plan: Plan) -> str:
    return f"""
Break something, and heal it again:

  {break_command(plan)}
  {heal_command(plan)}
"""


def _curl(plan: Plan) -> str:
    # The shell reads the token: it is neither printed nor part of the history.
    return f'curl -H "Authorization: Bearer $(cat {shlex.quote(str(plan.run_dir.token))})"'
