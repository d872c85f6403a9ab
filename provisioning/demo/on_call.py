"""The demonstration's on-call person: receives the pages of Alertmanager and prints them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web

from ollama_fleet.logs import escaped
from ollama_fleet.tokens import TokenFileError, first_token
from provisioning.demo.errors import DemoError
from provisioning.demo.fleet import Demo
from provisioning.demo.plan import Plan
from provisioning.demo.ports import LOOPBACK, url_of
from provisioning.demo.report import ALERT, node_gone

PATH = "/page"
FIRING = "firing"
MAX_PAGES = 1000
"""Of a run; later ones are counted no more."""


class Page(msgspec.Struct):
    """One alert of a notification, as Alertmanager's webhook sends it."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Return the alert's name."""
        return self.labels.get("alertname", "")

    def __str__(self) -> str:
        summary = self.annotations.get("summary", "")
        return escaped(f"page {self.status}: {self.name}: {summary}")


class _Notification(msgspec.Struct):
    alerts: list[Page]


class OnCall:
    """Everything that on-call has received."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self._say = say
        self._news = asyncio.Condition()
        self.pages: list[Page] = []

    @property
    def n_pages(self) -> int:
        """Return how many alerts have paged; that they ended is no page."""
        return sum(page.status == FIRING for page in self.pages)

    async def until_paged(self, name: str) -> None:
        """Wait until an alert of this name has paged."""
        async with self._news:
            await self._news.wait_for(lambda: self._has_paged(name))

    def _has_paged(self, name: str) -> bool:
        return any(page.name == name and page.status == FIRING for page in self.pages)

    async def receive(self, request: web.Request) -> web.Response:
        """Take a notification; what is none is refused."""
        try:
            notification = msgspec.json.decode(await request.read(), type=_Notification)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=f"no notification of Alertmanager: {error}") from error
        for page in notification.alerts[: MAX_PAGES - len(self.pages)]:
            self._say(str(page))
            self.pages.append(page)
        async with self._news:
            self._news.notify_all()
        return web.Response()


@asynccontextmanager
async def receiving(port: int, *, say: Callable[[str], None]) -> AsyncIterator[OnCall]:
    """Listen on a loopback port until the block ends.

    Raises:
        DemoError: The port is taken.
    """
    on_call = OnCall(say=say)
    application = web.Application()
    application.add_routes([web.post(PATH, on_call.receive)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        yield on_call
    except OSError as error:
        raise DemoError(f"on-call cannot receive pages at {url_of(port)}: {error}") from error
    finally:
        await runner.cleanup()


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
