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

FAULT = {"kind": "kill", "count": 20}


def for_people(plan: Plan, seen: FleetStatus, _pids: Mapping[str, int]) -> str:
    """Return the text for a terminal."""
    return f"""
{seen} (Prometheus says so)

  the exporter         {plan.exporter_url}/
  its metrics          {plan.exporter_url}/metrics
  who is unhealthy     {plan.exporter_url}/instances?status=unhealthy
  who is unreachable   {plan.exporter_url}/instances?status=unreachable
  Prometheus           {graph_url(plan)}
  logs and data        {plan.run_dir.path}

Break something, and heal it again:

  {break_command(plan)}
  {heal_command(plan)}

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


def graph_url(plan: Plan) -> str:
    """Return the page of Prometheus that draws the fleet by status."""
    return f"{plan.prometheus_url}/graph?" + urlencode(
        {"g0.expr": INSTANCES_BY_STATUS, "g0.tab": "0", "g0.range_input": "15m"}
    )


def break_command(plan: Plan) -> str:
    """Return a shell command that kills some simulated instances."""
    return f"{_curl(plan)} -d {shlex.quote(json.dumps(FAULT))} {plan.control_url}/faults"


def heal_command(plan: Plan) -> str:
    """Return a shell command that heals all simulated instances."""
    return f"{_curl(plan)} -X DELETE {plan.control_url}/faults"


def _curl(plan: Plan) -> str:
    # The shell reads the token: it is neither printed nor part of the history.
    return f'curl -H "Authorization: Bearer $(cat {shlex.quote(str(plan.run_dir.token))})"'
