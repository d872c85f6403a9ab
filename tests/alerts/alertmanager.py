"""A real Alertmanager on our document, and a server that takes what it sends."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from alerts import routing
from alerts.receivers import RoutingSettings
from provisioning.demo import observers
from provisioning.demo.processes import Children, ChildSpec
from tests.conftest import ROOT, program
from tests.ports import free_port
from tests.waiting import eventually

QUICK = {
    "group_wait": "1s",
    "ticket_group_wait": "1s",
    "group_interval": "1s",
    "page_repeat_interval": "1h",
    "ticket_repeat_interval": "1h",
}
"""Short settings for tests; alerts that are posted together are sent in one message."""

SEVERITY_BY_PATH = {"page": "critical", "ticket": "warning", "info": "info"}

Labels = dict[str, str]


def labels_of(name: str, severity: str = "critical", cluster: str = "eu", **more: str) -> Labels:
    return {"alertname": name, "severity": severity, "cluster": cluster, **more}


def named(*names: str, severity: str = "critical", **labels: str) -> list[Labels]:
    return [labels_of(name, severity, **labels) for name in names]


def hooks(url: str) -> dict[str, Any]:
    """Return quick settings that post pages and tickets to a server."""
    return QUICK | {path: [{"webhook": {"url": f"{url}/{path}"}}] for path in SEVERITY_BY_PATH}


def write(folder: Path, settings: Mapping[str, Any], *, cluster_label: str = "cluster") -> Path:
    """Write alertmanager.yml and the template beside it, as the build does; return its path."""
    document = routing.document(
        RoutingSettings.model_validate(settings), cluster_label=cluster_label
    )
    template = folder / routing.TEMPLATES
    template.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "alerts" / routing.TEMPLATES, template)
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(document))
    return path


@dataclass(frozen=True, slots=True)
class Post:
    """A message as it arrived."""

    path: str
    body: dict[str, Any]
    authorization: str | None
    arrived_s: float


@dataclass(slots=True)
class Inbox:
    """A server that takes messages, and what it has taken."""

    url: str
    posts: list[Post] = field(default_factory=list)

    def at(self, path: str) -> list[Post]:
        """Return what was posted to a path or below it, in order."""
        return [post for post in self.posts if f"{post.path}/".startswith(f"/{path}/")]

    def told(self, path: str, cluster: str = "eu") -> list[str]:
        """Return the names of a cluster's alerts in the messages there, one for each message."""
        groups = [post.body["groupLabels"] for post in self.at(path)]
        return sorted(group["alertname"] for group in groups if group.get("cluster") == cluster)

    async def take(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization")
        self.posts.append(Post(request.path, await request.json(), token, time.monotonic()))
        # PagerDuty answers 202, Slack with this word; the others take either.
        return web.Response(status=202 if "pagerduty" in request.path else 200, text="ok")


@asynccontextmanager
async def inbox() -> AsyncIterator[Inbox]:
    """Run the server that takes messages."""
    port = free_port()
    taken = Inbox(f"http://127.0.0.1:{port}")
    app = web.Application()
    app.router.add_post("/{path:.+}", taken.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield taken
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """A running Alertmanager."""

    url: str
    session: aiohttp.ClientSession

    async def fire(self, alerts: Iterable[Labels]) -> None:
        """Post alerts with these labels, in order."""
        await self.post([{"labels": labels} for labels in alerts])

    async def post(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Post alerts as Alertmanager's API takes them."""
        async with self.session.post(f"{self.url}/api/v2/alerts", json=alerts) as answer:
            assert 200 == answer.status, await answer.text()

    async def muted(self, cluster: str) -> set[str]:
        """Return the names of the alerts that another one mutes."""
        return {
            alert["labels"]["alertname"]
            for alert in await self._listed()
            if alert["labels"]["cluster"] == cluster and alert["status"]["inhibitedBy"]
        }

    async def fire_known(self, sources: Iterable[Labels]) -> None:
        """Post alerts, and return once what they mute would be muted."""
        await self.fire(sources)
        await self.are_considered("known")

    async def are_considered(self, cluster: str) -> None:
        """Return once everything that was posted before is taken into account.

        Alertmanager takes alerts in order: the pair posted here last, one muting the other, shows
        that it has come that far.
        """
        down = labels_of("OllamaFleetExporterDown", cluster=cluster)
        await self.fire([labels_of("OllamaModelUnavailable", cluster=cluster), down])
        await eventually(lambda: self.muted(cluster))

    async def _listed(self) -> list[dict[str, Any]]:
        async with self.session.get(f"{self.url}/api/v2/alerts") as answer:
            alerts: list[dict[str, Any]] = await answer.json()
        return alerts


@asynccontextmanager
async def running(
    folder: Path, settings: Mapping[str, Any], *, cluster_label: str = "cluster"
) -> AsyncIterator[Alertmanager]:
    """Run Alertmanager until the block ends."""
    config = write(folder, settings, cluster_label=cluster_label)
    address = f"127.0.0.1:{free_port()}"
    command = observers.alertmanager_command(
        program("alertmanager"), config=config, data_dir=folder / "data", address=address
    )
    async with Children(folder) as children, aiohttp.ClientSession() as session:
        await children.start(ChildSpec("alertmanager", command, f"http://{address}/-/ready"))
        yield Alertmanager(f"http://{address}", session)


async def all_told(alertmanager: Alertmanager, taken: Inbox) -> None:
    """Return once messages about what was posted before have arrived.

    One alert of each severity is posted last, in a cluster of its own, so its message is due last.
    A second round leaves the messages on their way as long again.
    """
    for _ in range(2):
        aviary = f"aviary-{len(taken.posts)}"
        await alertmanager.fire(
            labels_of(f"OllamaCanary{path.title()}", severity, aviary)
            for path, severity in SEVERITY_BY_PATH.items()
        )
        for path in SEVERITY_BY_PATH:
            await eventually(partial(taken.told, path, aviary))
