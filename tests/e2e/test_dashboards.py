"""Every query of every dashboard, on a real Prometheus that watches three fleets.

One of servers with all figures, which is well at first and then broken in many ways: what is well
then shows on no panel that is for trouble, and everything that can be wrong shows somewhere. One of
stock Ollama with the canary on, and one of mixed engines: what these cannot have is a short list.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from dashboards.choices import Uid
from dashboards.collection import boards
from dashboards.kit.board import Board, document
from dashboards.settings import DashboardSettings
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import FleetSpec, Hardware, Mode
from tests.alerts import promql_tree as tree
from tests.conftest import program
from tests.dashboards import expansion
from tests.dashboards.asking import Answer, Source, ask
from tests.dashboards.expansion import Origin
from tests.e2e.watching import Polled, watched
from tests.exporter.engines.bodies import ANSWERS
from tests.waiting import eventually

FULL, STOCK, MIXED = "fleet", "ollama", "mixed"
ON_GPU = ((Hardware.GPU, 1),)
SPECS = {
    FULL: FleetSpec(n_instances=120, n_nodes=6, request_histogram=True),
    STOCK: FleetSpec(
        n_instances=30, n_nodes=3, mode=Mode.OLLAMA, hardware=ON_GPU, installed_models=2
    ),
    MIXED: FleetSpec(
        n_instances=30, n_nodes=3, ollama_share=0.5, hardware=ON_GPU, request_histogram=True
    ),
}
CANARIES = ("--canary.period=2s", "--canary.timeout=1s")
OPTIONS = {FULL: (), STOCK: CANARIES, MIXED: CANARIES}
FOREIGN = ("llamacpp", "vllm", "sglang", "tgi")
"""Engines that the simulator has not."""
SLOW_NODE, SLOW_FACTOR = "node-003", 0.7
WELL_NODE = "node-002"
IMPATIENT = tuple(
    f"--set=alerts.{alert}.for=1s"
    for alert in ("OllamaFleetHealthyInstancesLow", "OllamaNodeSlowerThanFleet")
)
RANGE_S = 60.0
MAX_LINES = 40
"""More could not be told apart; the series of a heat map are colours."""

CANNOT_HAVE: Mapping[str, Mapping[str, Sequence[str]]] = {
    FULL: {
        "the canary is off": (
            "ollama_fleet_canary_", "ollama_instance_canary_", "fleet:ollama_canary_",
        ),
        "its servers do not say what is loaded": (
            "ollama_model_loaded", "ollama_model_installed", "ollama_model_on_cpu",
            "ollama_model_expiring",
            "ollama_model_vram", "ollama_instance_model_", "ollama_fleet_model_",
        ),
        "its servers tell of no queue and no cache": (
            "ollama_fleet_time_to_first_token", "ollama_fleet_queue_time",
            "ollama_instance_kv_cache", "model:ollama_instance_kv_cache",
        ),
        "nobody has a key of its gateway": ("ollama_gateway_developer_tokens",),
    },
    STOCK: {
        "no provisioner made it": ("ollama_provisioner_",),
        "it has no gateway": ("ollama_gateway_", "fleet:ollama_gateway_"),
        "neither stock Ollama nor the inventory says when it started": (
            "ollama_instance_start_time", "node:ollama_instances_started",
        ),
        "stock Ollama counts no requests, tokens and errors": (
            "ollama_fleet_request_duration", "fleet:ollama_request_duration",
            "ollama_fleet_request_latency_p99_bound",
            "fleet:ollama_request_errors_per_requests", "ollama_instance_generated_tokens",
            "ollama_instance_prompt_tokens", "fleet:ollama_generated_tokens",
            "ollama_fleet_generated_tokens", "ollama_instance_errors", "ollama_fleet_errors",
            "model:ollama_errors", "node:ollama_errors", "model:ollama_request_errors",
        ),
        "stock Ollama tells of no request, queue and cache": (
            "ollama_instance_request_latency", "fleet:ollama_instance_request_latency",
            "model:ollama_instance_request_latency", "ollama_instance_requests_",
            "fleet:ollama_requests_queued:sum", "ollama_fleet_time_to_first_token",
            "ollama_fleet_queue_time", "ollama_instance_kv_cache",
            "model:ollama_instance_kv_cache",
        ),
    },
    MIXED: {
        "no provisioner made it": ("ollama_provisioner_",),
        "it has no gateway": ("ollama_gateway_", "fleet:ollama_gateway_"),
    },
}  # fmt: skip
"""Why a fleet lacks series, by how they begin: what asks for one of them may show nothing."""
MAY_LACK: Mapping[str, tuple[str, ...]] = {
    FULL: (
        "ollama_instance_condition",
        "ollama_gateway_retries",
        "fleet:ollama_gateway_rejected_fleet_full",
    )
}
"""Only an instance that flaps has a condition there, only a request to one that is gone is tried
again, only many rejections are a share: whether there is one already depends on time."""
UNKNOWN = "every instance was polled: none is unknown"
NO_WEEKS: Mapping[tuple[str, str, str], str] = {
    (Uid.OVERVIEW, f"{what} against the last weeks", "A"): "Prometheus has no history of two weeks"
    for what in ("Traffic", "p99")
}
OF_VLLM = "the instance gives a page of vLLM that was recorded once, when it was busy"
EMPTY_HERE: Mapping[str, Mapping[tuple[str, str, str], str]] = {
    FULL: {(Uid.NODES, "Nodes with failing instances", "E"): UNKNOWN, **NO_WEEKS},
    STOCK: {
        (Uid.NODES, "Nodes with failing instances", "D"): "stock Ollama answers while it loads",
        (Uid.NODES, "Nodes with failing instances", "E"): UNKNOWN,
        **NO_WEEKS,
    },
    MIXED: {
        **NO_WEEKS,
        (Uid.NODES, "Nodes with failing instances", "E"): UNKNOWN,
        (Uid.INSTANCE, "Restarts", ""): "it is a recorded page, and started long ago",
        **{
            (Uid.INSTANCE, title, ref_id): OF_VLLM
            for title, ref_ids in {
                "Loaded models": "ABCDE", "Latency, p99": "AB", "Speed against its peers": "ABCD",
                "Speed of canaries": "AB", "Times of canaries": "ABCD",
            }.items()
            for ref_id in ref_ids
        },
    },
}  # fmt: skip
"""What else shows nothing, and why that is right."""
MAY_BE_EMPTY = {
    MIXED: {(Uid.INSTANCE, "Health and conditions", "B"), (Uid.INSTANCE, "Canaries", "A")}
}
"""The recorded vLLM is too busy for a canary. Where this machine is, one is sent before that is
known, and stalls."""

# Whichever test comes first waits for the fixtures as well.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Watched:
    """The fleets, and all that their dashboards showed."""

    fleets: Mapping[str, RunningFleet] = field(repr=False)
    source: Source = field(repr=False)
    boards: Sequence[Board] = field(default_factory=lambda: boards(DashboardSettings()), repr=False)

    async def answers(self, of: Collection[str] = tuple(Uid), cluster: str = FULL) -> list[Answer]:
        """Return the answer to every query of some dashboards; no cluster stands for all."""
        return [
            await ask(self.source, asked, choices)
            for board in self.boards
            if board.uid in of
            for content in (document(board),)
            for choices in (self._choices(content, cluster),)
            for asked in expansion.queries(content, board.may_be_empty)
        ]

    async def again(self, answer: Answer, cluster: str) -> Answer:
        """Ask one query once more."""
        (board,) = (board for board in self.boards if board.uid == answer.asked.uid)
        return await ask(self.source, answer.asked, self._choices(document(board), cluster))

    async def shows(self, uid: str, title: str, ref_id: str = "A") -> Answer:
        """Return the answer to one query of a panel."""
        (answer,) = (
            answer
            for answer in await self.answers([uid])
            if (title, ref_id) == (answer.asked.title, answer.asked.ref_id)
        )
        return answer

    def _choices(self, content: Mapping[str, Any], cluster: str) -> dict[str, expansion.Choice]:
        chosen = {"cluster": cluster} if cluster else {}
        if content["uid"] == Uid.INSTANCE:
            chosen |= self._instance(cluster)
        return expansion.choices(content, **chosen)

    def _instance(self, cluster: str) -> Mapping[str, str]:
        if cluster == MIXED:
            return {"node": "node-001", "instance_id": "vllm-1"}
        node = WELL_NODE if cluster == STOCK else SLOW_NODE
        return {"node": node, "instance_id": instance_on(self.fleets[cluster or FULL], node)}


def instance_on(fleet: RunningFleet, node: str) -> str:
    """Return the last instance of a node: faults befall the first ones."""
    *_, last = (str(entry["id"]) for entry in fleet.inventory if entry["node"] == node)
    return last


async def foreign(exits: AsyncExitStack, engine: str) -> Mapping[str, Any]:
    """Run a server that answers as one of an engine does, and counts on; return its entry."""
    requests = count(1)

    async def answer(request: web.Request) -> web.Response:
        known = ANSWERS[engine].get(request.path)
        if known is None:
            return web.Response(status=404)
        body = known.body.decode()
        is_page = request.path == "/metrics"
        return web.Response(text=grown(body, next(requests)) if is_page else body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    exits.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    return {"id": f"{engine}-1", "url": url, "node": "node-001"}


def grown(page: str, times: int) -> str:
    """Return a page of metrics whose counters have become so many times as large."""
    return re.sub(
        r"^(\S+(?:_total|_bucket|_sum|_count)(?:{.*})?) (\S+)$",
        lambda found: f"{found[1]} {float(found[2]) * times}",
        page,
        flags=re.MULTILINE,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched_fleets(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    folder = tmp_path_factory.mktemp("dashboards")
    async with AsyncExitStack() as exits:
        fleets = {
            cluster: await exits.enter_async_context(running_fleet(spec))
            for cluster, spec in SPECS.items()
        }
        polled = {
            cluster: Polled(fleet.inventory, OPTIONS[cluster]) for cluster, fleet in fleets.items()
        }
        others = [await foreign(exits, engine) for engine in FOREIGN]
        mixed = [{**entry, "engine": "auto"} for entry in (*polled[MIXED].inventory, *others)]
        url = await exits.enter_async_context(
            watched(
                folder,
                program("prometheus"),
                {**polled, MIXED: Polled(mixed, OPTIONS[MIXED])},
                alertmanager_binary=program("alertmanager"),
                alert_options=IMPATIENT,
                provisioner_of=FULL,
                gateway_of=FULL,
            )
        )
        session = await exits.enter_async_context(aiohttp.ClientSession())
        yield Watched(
            fleets,
            Source(session=session, url=url, range_s=RANGE_S, scrape_interval_s=1, step_s=1),
        )


JUDGED = ("Healthy instances", "Request latency, p99", "Generation capacity")


async def test_a_fleet_that_is_well_is_green_and_marks_no_restart(watched_fleets: Watched) -> None:
    expected = {title: ["A"] for title in JUDGED}
    await eventually(lambda: _show(watched_fleets, expected))
    assert not (await watched_fleets.shows(Uid.INSTANCE, "Restarts", "")).labels


async def _show(watched_fleets: Watched, expected: Mapping[str, Sequence[str]]) -> bool:
    """Say whether these figures show these of their sides, A in green and B in red, at one look."""
    sides: dict[str, list[str]] = {title: [] for title in expected}
    for answer in await watched_fleets.answers([Uid.OVERVIEW]):
        asked = answer.asked
        if answer.labels and asked.title in sides and asked.ref_id in ("A", "B"):
            sides[asked.title].append(asked.ref_id)
    return expected == sides


class Answers(list[Answer]):
    """What all dashboards showed; a test that fails repeats this and not the answers."""

    def __repr__(self) -> str:
        return f"<{len(self)} answers, {sum(not answer.labels for answer in self)} of them empty>"


SLOW = ("slow", {"node": SLOW_NODE, "factor": SLOW_FACTOR})
FAULTS: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]] = {
    FULL: (
        SLOW,
        ("kill", {"count": 6}),
        ("loading", {"count": 2}),
        ("garbage", {"count": 2}),
        ("errors", {"node": "node-004", "ratio": 0.2}),
        ("no_metrics", {"count": 2}),
        ("oom_restart", {"count": 4, "seconds": 3}),
    ),
    STOCK: (
        SLOW,
        ("kill", {"node": "node-001", "count": 2}),
        ("hang", {"node": "node-001", "count": 2}),
        ("runner_hang", {"node": "node-001", "count": 2}),
        ("partly_cpu", {"node": "node-001", "count": 2}),
        ("unload", {"node": "node-001", "count": 2}),
    ),
    MIXED: (
        SLOW,
        ("kill", {"count": 2}),
        ("hang", {"count": 2}),
        ("oom_restart", {"count": 6, "seconds": 3}),
        ("loading", {"count": 4}),
        ("partly_cpu", {"count": 6}),
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken(watched_fleets: Watched) -> Mapping[str, Answers]:
    """Break the fleets; return what all dashboards show once nothing is missing any more."""
    for cluster, faults in FAULTS.items():
        for kind, parameters in faults:
            watched_fleets.fleets[cluster].inject(kind, **parameters)
    # What is chosen on the dashboard of one instance has something to show there.
    full, stock = (watched_fleets.fleets[cluster] for cluster in (FULL, STOCK))
    full.inject("oom_restart", ids=[instance_on(full, SLOW_NODE)], seconds=3)
    stock.inject("partly_cpu", ids=[instance_on(stock, WELL_NODE)])
    seen = {cluster: Answers(await watched_fleets.answers(cluster=cluster)) for cluster in SPECS}

    async def show_everything() -> bool:
        for cluster, answers in seen.items():
            empty = missing(cluster, answers)
            for index, answer in enumerate(answers):
                if str(answer.asked) in empty:
                    answers[index] = await watched_fleets.again(answer, cluster)
        return not any(missing(cluster, answers) for cluster, answers in seen.items())

    try:
        await eventually(show_everything, within_s=250.0)
    except AssertionError:
        texts = (
            f"{cluster}: {text}" for cluster in seen for text in missing(cluster, seen[cluster])
        )
        pytest.fail("no data for:\n" + "\n".join(sorted(texts)), pytrace=False)
    return seen


def missing(cluster: str, answers: Iterable[Answer]) -> set[str]:
    """Return which queries have nothing to show, and should."""
    return {
        str(answer.asked)
        for panel in panels(answers)
        for answer in panel
        if not answer.labels and not _may_be_empty(cluster, answer, panel)
    }


def panels(answers: Iterable[Answer]) -> Collection[Sequence[Answer]]:
    """Return the answers of each panel."""
    by_panel: dict[tuple[str, Origin, str], list[Answer]] = {}
    for answer in answers:
        asked = answer.asked
        by_panel.setdefault((asked.uid, asked.origin, asked.title), []).append(answer)
    return by_panel.values()


def _may_be_empty(cluster: str, answer: Answer, panel: Sequence[Answer]) -> bool:
    """Return whether a query may show nothing: of a figure's good and bad side, one does."""
    asked = answer.asked
    return (
        (asked.uid, asked.title, asked.ref_id)
        in {
            *EMPTY_HERE[cluster],
            *MAY_BE_EMPTY.get(cluster, ()),
        }
        or any(selector.name.startswith(excused(cluster)) for selector in selectors(answer))
        or (asked.panel_type == "stat" and any(answer.labels for answer in panel))
    )


def lacking(cluster: str) -> tuple[str, ...]:
    """Return how the names of the series begin that a fleet cannot have."""
    return tuple(start for starts in CANNOT_HAVE[cluster].values() for start in starts)


def excused(cluster: str) -> tuple[str, ...]:
    """Return how the names of the series begin that a panel may do without."""
    return (*lacking(cluster), *MAY_LACK.get(cluster, ()))


def selectors(answer: Answer) -> Sequence[Any]:
    return tree.selectors(answer.expr)


async def test_every_query_is_taken_shows_something_and_can_be_read(
    broken: Mapping[str, Answers],
) -> None:
    for cluster, answers in broken.items():
        assert 150 < len(answers)
        assert set() == missing(cluster, answers)
        assert [] == [fault for answer in answers for fault in _faults(cluster, answer)]


async def test_no_fleet_has_what_it_is_said_to_lack(
    watched_fleets: Watched, broken: Mapping[str, Answers]
) -> None:
    for cluster in broken:
        for start in lacking(cluster):
            expr = f'{{__name__=~"{start}.*", cluster="{cluster}"}}'
            assert [] == await watched_fleets.source.series(expr)


async def test_a_panel_without_data_says_what_stock_ollama_lacks(
    broken: Mapping[str, Answers],
) -> None:
    texts = {
        (board.uid, panel["title"]): panel["fieldConfig"]["defaults"]["noValue"]
        for board in boards(DashboardSettings())
        for panel in expansion.panels(document(board))
    }
    empty = {
        (answers[0].asked.uid, answers[0].asked.title)
        for answers in panels(broken[STOCK])
        if answers[0].asked.origin is Origin.PANEL
        if not any(answer.labels for answer in answers)
    }

    assert 10 < len(empty) < 60
    says_why = re.compile("Ollama|provisioner|gateway")
    assert [] == [key for key in sorted(empty) if not says_why.search(texts[key])]


async def test_every_query_is_taken_while_all_fleets_are_chosen(
    watched_fleets: Watched, broken: Mapping[str, Answers]
) -> None:
    assert [] == [
        f"{answer.asked}: {answer.complaint}"
        for answer in await watched_fleets.answers(cluster="")
        if answer.complaint
    ]


def _faults(cluster: str, answer: Answer) -> list[str]:
    """Return what is wrong with an answer."""
    asked = answer.asked
    faults = [f"{answer.complaint}\n{answer.expr}"] if answer.complaint else []
    if answer.labels and (asked.uid, asked.title, asked.ref_id) in EMPTY_HERE[cluster]:
        faults.append("is excused for showing nothing, and shows something")
    if len(answer.labels) > MAX_LINES and not asked.is_instant and asked.panel_type != "heatmap":
        faults.append(f"{len(answer.labels)} lines cannot be told apart")
    faults += [
        f"{asked.legend} of {dict(labels)}"
        for labels in answer.labels
        for name in re.findall(r"{{\s*(\w+)", asked.legend)
        if name not in {*labels, "cluster"}
    ]
    return [f"{asked}: {fault}" for fault in faults]


async def test_a_figure_of_a_broken_fleet_is_red_and_not_green(
    watched_fleets: Watched, broken: Mapping[str, Answers]
) -> None:
    expected = {title: ["B"] for title in ("Healthy instances", "Generation capacity")}
    await eventually(lambda: _show(watched_fleets, expected))


async def test_the_node_that_is_a_third_slower_leads_the_table_of_slow_nodes(
    watched_fleets: Watched, broken: Mapping[str, Answers]
) -> None:
    ratio = await watched_fleets.shows(Uid.NODES, "Nodes slowest against their peers")

    async def leads() -> bool:
        values = await _lowest_by_node(watched_fleets.source, ratio.expr)
        slowest = min(values, key=lambda node: values[node], default="")
        expected = pytest.approx(SLOW_FACTOR, abs=0.08)
        return slowest == SLOW_NODE and values[slowest] == expected

    await eventually(leads)


async def _lowest_by_node(source: Source, expr: str) -> dict[str, float]:
    result = await source.series(f"min by (node) ({expr})")
    return {series["metric"]["node"]: float(series["value"][1]) for series in result}
