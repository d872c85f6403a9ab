"""Pages reach on-call; a node that is taken away is given back after its page."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from provisioning.demo import on_call
from provisioning.demo.errors import DemoError
from provisioning.demo.fleet import Demo
from provisioning.demo.on_call import break_until_paged
from provisioning.demo.plan import Plan
from provisioning.demo.report import ALERT
from provisioning.demo.rundir import RunDir
from tests.provisioning.demo.test_app import serving

CONTROL = "a-secret-of-the-control-api"


def notification(*alerts: tuple[str, str]) -> str:
    """Return what Alertmanager posts of these statuses and names."""
    return json.dumps(
        {
            "version": "4",
            "alerts": [
                {
                    "status": status,
                    "labels": {"alertname": name, "severity": "critical"},
                    "annotations": {"summary": "Too few\x1b[2J are healthy."},
                }
                for status, name in alerts
            ],
        }
    )


async def test_pages_are_printed_and_counted_and_what_is_none_is_refused(free_port: int) -> None:
    said: list[str] = []
    url = f"http://127.0.0.1:{free_port}{on_call.PATH}"
    good = notification(("firing", ALERT), ("resolved", ALERT))
    async with (
        on_call.receiving(free_port, say=said.append) as receiver,
        aiohttp.ClientSession() as session,
    ):
        statuses = []
        for body in ("", "[]", '{"alerts": 7}', io.BytesIO(b"x" * 2**21), good):
            async with session.post(url, data=body) as answer:
                statuses.append(answer.status)
        await receiver.until_paged(ALERT)

    assert [400, 400, 400, 413, 200] == statuses
    assert 1 == receiver.n_pages
    assert [
        rf"page firing: {ALERT}: Too few\x1b[2J are healthy.",
        rf"page resolved: {ALERT}: Too few\x1b[2J are healthy.",
    ] == said


@asynccontextmanager
async def _fleet(
    plan: Plan, folder: Path, port: int, *, paged: str
) -> AsyncIterator[tuple[Plan, Demo, list[str]]]:
    """Run a control API that has on-call paged when something breaks; give what it was asked."""
    asked: list[str] = []

    async def control(request: web.Request) -> web.Response:
        assert f"Bearer {CONTROL}" == request.headers["Authorization"]
        asked.append(f"{request.method} {await request.text()}".strip())
        if request.method == "POST":
            url, body = f"http://127.0.0.1:{port}{on_call.PATH}", notification(("firing", paged))
            async with aiohttp.ClientSession() as session, session.post(url, data=body):
                pass
        return web.Response()

    (folder / "control.token").write_text(CONTROL)
    async with serving(web.route("*", "/faults", control)) as control_port:
        assert plan.demo is not None
        demo = replace(plan.demo, control_port=control_port)
        yield replace(plan, run_dir=RunDir(folder), demo=demo), demo, asked


@pytest.mark.parametrize("paged", [ALERT, "OllamaAnother"])
async def test_a_broken_node_is_given_back_once_its_alert_has_paged(
    plan: Plan, tmp_path: Path, free_port: int, paged: str
) -> None:
    said: list[str] = []
    async with (
        _fleet(plan, tmp_path, free_port, paged=paged) as (plan, demo, asked),
        on_call.receiving(free_port, say=said.append) as receiver,
        aiohttp.ClientSession() as session,
    ):
        breaking = break_until_paged(
            session, plan, demo, receiver, say=said.append, within_s=100 if paged == ALERT else 0.2
        )
        if paged == ALERT:
            await breaking
        else:
            with pytest.raises(DemoError, match=f"{demo.last_node} is gone and no page came"):
                await breaking

    broken = 'POST {"kind": "node_gone", "node": "node-100"}'
    assert ([broken, "DELETE"] if paged == ALERT else [broken]) == asked


async def test_a_fleet_that_cannot_be_broken_is_an_error(plan: Plan, tmp_path: Path) -> None:
    assert plan.demo is not None
    async with aiohttp.ClientSession() as session:
        for folder in (tmp_path, tmp_path / "none"):
            (tmp_path / "control.token").write_text(CONTROL)
            with pytest.raises(DemoError, match=r"--break: POST http://127\.0\.0\.1:1/faults"):
                await asyncio.wait_for(
                    break_until_paged(
                        session,
                        replace(plan, run_dir=RunDir(folder)),
                        replace(plan.demo, control_port=1),
                        on_call.OnCall(say=print),
                        say=print,
                    ),
                    100,
                )
