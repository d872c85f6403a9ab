"""Take a node away until on-call is paged, and give it back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import aiohttp

from ollama_fleet.tokens import TokenFileError, first_token
from provisioning.demo.errors import DemoError
from provisioning.demo.fleet import Demo
from provisioning.demo.on_call import OnCall
from provisioning.demo.plan import Plan
from provisioning.demo.report import ALERT, node_gone

PAGED_WITHIN_S = 600.0
"""The alert waits for about two minutes, and Alertmanager for some seconds."""


async def break_until_paged(
    session: aiohttp.ClientSession,
    plan: Plan,
    demo: Demo,
    on_call: OnCall,
    *,
    say: Callable[[str], None],
    within_s: float = PAGED_WITHIN_S,
) -> None:
    """Break a node, wait for the page, heal the node.

    Raises:
        DemoError: The simulated fleet does not obey, or no page comes.
    """
    say(f"--break takes {demo.last_node} away; in about two minutes {ALERT} pages")
    await _ask(session, plan, "POST", f"{demo.control_url}/faults", json.dumps(node_gone(demo)))
    try:
        async with asyncio.timeout(within_s):
            await on_call.until_paged(ALERT)
    except TimeoutError:
        raise DemoError(
            f"{demo.last_node} is gone and no page came within {within_s:g} s; look at "
            f"{plan.observers.prometheus_url}/api/v1/rules and {plan.run_dir.path}/alertmanager.log"
        ) from None
    await _ask(session, plan, "DELETE", f"{demo.control_url}/faults")
    say(f"--break gave {demo.last_node} back; the alert ends about six minutes later")


async def _ask(
    session: aiohttp.ClientSession, plan: Plan, method: str, url: str, body: str | None = None
) -> None:
    try:
        token = first_token(plan.run_dir.token, option="--run-dir")
        headers = {"Authorization": f"Bearer {token}"}
        async with session.request(method, url, data=body, headers=headers) as answer:
            answer.raise_for_status()
    except (aiohttp.ClientError, TimeoutError, TokenFileError) as error:
        raise DemoError(f"--break: {method} {url} failed: {error}") from error
