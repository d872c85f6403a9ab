from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from provisioning.demo import app, llama, observers, programs, report
from provisioning.demo.errors import DemoError, PortError
from provisioning.demo.plan import Plan, Settings
from provisioning.demo.ports import Wanted
from provisioning.demo.report import FleetStatus, Pages
from tests.provisioning.demo.settings import make_settings


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Do nothing of what takes long, and note what was asked for."""
    done: list[str] = []

    def note(name: str, *_: object, **__: object) -> Path:
        done.append(name)
        return tmp_path / name

    monkeypatch.setattr(programs, "locate", note)
    monkeypatch.setattr(programs, "locate_gateway", partial(note, "gateway"))
    monkeypatch.setattr(llama, "model_file", partial(note, "model"))
    monkeypatch.setattr(observers, "build_alerts", partial(note, "rules"))
    return done


def settings_with(port: int, run_dir: Path) -> Settings:
    """Return those of a demonstration, with real servers, whose provisioner is to listen there."""
    wanted = Wanted("the provisioner", port, option="--port", is_explicit=True)
    return replace(make_settings(run_dir), n_llama_servers=1, provisioner=wanted)


def test_ports_are_chosen_after_all_slow_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    """Whoever takes a port between its choice and the program's start would end the run."""
    with socket.socket() as other:
        # Bound so that others may bind the port as well, until it listens.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))

        def build(*_: object) -> None:
            done.append("rules")
            other.listen()

        monkeypatch.setattr(observers, "build_alerts", build)
        with pytest.raises(PortError):
            app.run(settings_with(other.getsockname()[1], tmp_path / "run"))

    assert ["prometheus", "alertmanager", "gateway", "model", "rules"] == done


def test_a_taken_port_of_an_option_is_refused_before_all_slow_steps(
    tmp_path: Path, done: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=f"port {port}: .*with --port"):
            app.run(settings_with(port, tmp_path / "run"))

    assert [] == done


@asynccontextmanager
async def _prometheus(
    plan: Plan,
    *,
    failing: Container[int] = (),
    n_pending: int = 0,
    labels: Sequence[str] = ("healthy",),
) -> AsyncIterator[Plan]:
    """Run a server whose answers are 7 of each status, but for those that fail; give its plan.

    The first times that it is asked for alerts, one is pending.
    """
    n_asked = n_asked_for_alerts = 0

    async def query(request: web.Request) -> web.Response:
        nonlocal n_asked, n_asked_for_alerts
        n_asked += 1
        if n_asked in failing:
            return web.json_response(
                {"status": "error", "errorType": "timeout", "error": "query timed out"}, status=503
            )
        if request.query["query"] != report.ALERTS:
            return _answer(*({"status": label} for label in labels), value="7")
        n_asked_for_alerts += 1
        if n_asked_for_alerts > n_pending:
            return _answer()
        pending = {"alertname": "A", "severity": "critical", "alertstate": "pending"}
        return _answer(pending, value="1")

    async with serving(web.get("/api/v1/query", query)) as port:
        yield replace(plan, observers=replace(plan.observers, prometheus_port=port))


def _answer(*series: dict[str, str], value: str = "") -> web.Response:
    result = [{"metric": labels, "value": [1_800_000_000, value]} for labels in series]
    return web.json_response({"status": "success", "data": {"result": result}})


@asynccontextmanager
async def serving(*routes: web.RouteDef) -> AsyncIterator[int]:
    """Run a server with these routes; give its port."""
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering_queries(value: Callable[[str], str | None]) -> AsyncIterator[str]:
    """Run a Prometheus that answers each query with one value, or none; give its URL."""

    async def query(request: web.Request) -> web.Response:
        found = value(request.query["query"])
        return _answer() if found is None else _answer({}, value=found)

    async with serving(web.get("/api/v1/query", query)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("n_by_status", "is_there"),
    [
        ({"healthy": 5, "provisioning": 0}, True),
        ({"healthy": 5, "unreachable": 3}, True),
        ({"healthy": 5, "provisioning": 1}, False),
        ({"healthy": 5, "loading": 1}, False),
        ({"healthy": 5, "unknown": 1}, False),
        ({"healthy": 0, "unreachable": 3}, False),
    ],
)
def test_a_fleet_is_there_once_none_is_on_its_way(
    n_by_status: dict[str, int], *, is_there: bool
) -> None:
    assert is_there == FleetStatus(n_by_status, 5, 0.0).is_there


async def test_a_fleet_that_loads_longer_is_reported_as_it_is(plan: Plan) -> None:
    """Its models may have to be loaded, which takes minutes."""
    async with _prometheus(plan, labels=["provisioning"]) as plan:
        seen = await app.until_seen(plan, within_s=0)

    assert (0, 7) == (seen.n_healthy, seen.n_provisioning)


async def test_a_query_that_fails_is_asked_again(plan: Plan) -> None:
    async with _prometheus(plan, failing=(1, 2)) as plan:
        seen = await app.until_seen(plan)

    assert 7 == seen.n_healthy


async def test_a_prometheus_that_sees_nothing_is_reported_with_its_last_answer(
    plan: Plan,
) -> None:
    async with _prometheus(plan, failing=range(1_000)) as plan:
        with pytest.raises(DemoError) as caught:
            await app.until_seen(plan, within_s=0)

    assert "query timed out" in str(caught.value)
    assert f"{plan.observers.prometheus_url}/api/v1/targets" in str(caught.value)


@pytest.mark.parametrize(("n_pending", "is_over"), [(3, True), (1_000, False)])
async def test_pending_alerts_of_the_start_are_waited_for_within_a_bound(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, n_pending: int, *, is_over: bool
) -> None:
    monkeypatch.setattr(app, "ASK_PAUSE_S", 0.01)
    monkeypatch.setattr(app, "EVALUATION_S", 60.0 if is_over else -9.5)
    async with _prometheus(plan, n_pending=n_pending) as plan:
        first = await app.until_seen(plan)
        judged = await app.until_evaluated(plan, first)

    assert (True, not is_over) == (bool(first.pending), bool(judged.pending))


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (("/graph",), Pages(has_graph=True, has_alertmanager=False)),
        (("/", "/script.js"), Pages(has_graph=False, has_alertmanager=True)),
        (("/",), Pages(has_graph=False, has_alertmanager=False)),
    ],
)
async def test_a_web_ui_counts_only_if_the_build_has_it(
    plan: Plan, answered: tuple[str, ...], expected: Pages
) -> None:
    """Debian's Alertmanager has a page, which says that it has none."""
    async with (
        serving(*(web.get(path, _ok) for path in answered)) as port,
        aiohttp.ClientSession() as session,
    ):
        observers = replace(plan.observers, prometheus_port=port, alertmanager_port=port)

        assert expected == await app.pages(session, replace(plan, observers=observers))


async def _ok(_request: web.Request) -> web.Response:
    return web.Response()
