"""The real command, against simulated fleets, a real LLM server, and servers that misbehave."""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import os
import re
import shlex
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import pytest
import zmq
import zmq.asyncio
from aiohttp import web
from click.testing import CliRunner

from ollama_fleet.cli import main
from provisioning.demo.processes import Children, ChildSpec, our_command
from provisioning.simulator.app import running_fleet
from provisioning.simulator.spec import FleetSpec, Mode
from tests.conftest import ROOT, StartLlamaServer
from tests.load.running import COMMAND, QUICKLY, Enough, load, reported, serving, write_instances
from tests.ports import free_port
from tests.waiting import eventually

WHOLE = {"model": "m:1", "response": "a", "done": True, "eval_count": 2}


async def whole(_request: web.Request) -> web.StreamResponse:
    return web.json_response(WHOLE)


def through(url: str) -> tuple[str, ...]:
    return "--gateway.url", url, "--model", "m:1"


async def test_users_ask_as_the_article_s_do(tmp_path: Path) -> None:
    asked = Counter[str]()
    bodies, keys = list[dict[str, object]](), set[str]()

    async def text(request: web.Request) -> web.StreamResponse:
        asked[request.path] += 1
        bodies.append(await request.json())
        keys.add(request.headers["Authorization"])
        return web.json_response(WHOLE)

    async def health(request: web.Request) -> web.StreamResponse:
        asked["health"] += 1
        return web.json_response({})

    key_file = tmp_path / "keys"
    key_file.write_text("# mine\nsecret-1\nsecret-2\n")
    counted = Enough(1000, text)
    async with serving(counted.answer, health) as url:
        options = (f"--key-file={key_file}", "--tokens=5", "--wait=0")
        report = await reported(*through(url), *options, until=counted.wait())

    assert report["text"]["n"] == asked["/api/generate"] + asked["/api/chat"] >= 1000
    assert 2 < asked["/api/generate"] / asked["/api/chat"] < 4.5
    assert 0.5 < asked["health"] / asked["/api/chat"] < 2
    assert all({"num_predict": 5} == body["options"] for body in bodies)
    assert {"Bearer secret-1", "Bearer secret-2"} == keys
    assert report["generated_tokens"] == 2 * report["text"]["n"]
    assert ({}, True) == (report["failures"], report["met"])


async def test_failures_are_counted_by_kind() -> None:
    async def bad(request: web.Request) -> web.StreamResponse:
        turn = next(turns)
        if turn == "timeout":
            await asyncio.sleep(10)
        if turn == "closed":
            assert request.transport is not None
            request.transport.abort()
        return answers.get(turn, web.json_response)(WHOLE)  # type: ignore[operator, no-any-return]

    def said(status: int = 200, **fields: object) -> object:
        return lambda whole: web.json_response({**whole, **fields}, status=status)

    answers = {
        "http_4xx": said(404),
        "http_5xx": said(503),
        "invalid": lambda _: web.Response(body=b"<html>"),
        "error": said(error="no"),
        "incomplete": said(done=False),
        "empty": said(response=""),
        "wrong_model": said(model="m:2"),
    }
    kinds = (*answers, "timeout", "closed")
    turns = itertools.cycle(kinds)
    counted = Enough(5 * len(kinds), bad)
    async with serving(counted.answer) as url:
        report = await reported(*through(url), "--timeout=2s", until=counted.wait())

    assert {*kinds} == {*report["failures"]}
    assert report["text"]["n"] == report["text"]["n_failed"] == sum(report["failures"].values())
    assert not report["met"]


async def test_what_a_gateway_rejects_is_no_failure_and_waits_as_long_as_it_says() -> None:
    async def full(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "100"})

    counted = Enough(4, full)

    async def a_while_later() -> None:
        await counted.wait()
        await asyncio.sleep(3)

    async with serving(counted.answer, counted.answer) as url:
        report = await reported(*through(url), "--slo.rejected=10%", until=a_while_later())

    assert (4, {}, 0) == (report["rejected"], report["failures"], report["text"]["n"])
    assert 1.0 == report["rejected_ratio"]


async def test_an_instance_that_fails_is_swapped_for_another(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    spec = FleetSpec(n_instances=40, n_nodes=2, mode=Mode.OLLAMA, time_scale=0.01)
    async with running_fleet(spec) as fleet:
        path.write_text(json.dumps(fleet.inventory))
        fleet.inject("kill", node="node-001", count=10)
        fleet.inject("hang", node="node-001", count=5)
        report = await reported("--instances", path, "--users=40", "--timeout=3s", "--run-time=5s")

    failures = report["failures"]
    assert 10 <= report["swapped"] == sum(failures.values())
    assert failures.keys() <= {"refused", "closed", "timeout", "http_5xx"}
    # Those that were killed rest, although they fail at once: most users never meet one.
    assert failures.get("refused", 0) + failures.get("closed", 0) <= 40
    assert report["text"]["n"] > report["text"]["n_failed"]


async def test_reports_of_locust_have_the_same_numbers(tmp_path: Path) -> None:
    counted = Enough(50, whole)
    async with serving(counted.answer) as url:
        options = (f"--html={tmp_path}/report.html", f"--csv={tmp_path}/load")
        report = await reported(*through(url), *options, until=counted.wait())

    with (tmp_path / "load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    for one in report["requests"]:
        assert one["n"] == int(rows[one["name"]]["Request Count"])
    assert "/api/generate" in (tmp_path / "report.html").read_text()


async def test_workers_share_the_users_and_every_request_is_counted_once() -> None:
    counted = Enough(50, whole)
    async with serving(counted.answer) as url:
        options = ("--workers=2", "--users=6")
        report = await reported(*through(url), *options, until=counted.wait())

    assert counted.n_asked == report["text"]["n"] >= 50
    assert report["generated_tokens"] == 2 * report["text"]["n"]
    assert 0 == report["lost_workers"]


@pytest.mark.nightly
async def test_a_worker_that_is_killed_is_a_miss() -> None:
    n_asked = itertools.count()
    begun = asyncio.Event()

    async def count(request: web.Request) -> web.StreamResponse:
        if next(n_asked) > 20:
            begun.set()
        return web.json_response(WHOLE)

    async with serving(count) as url:
        options = ("--workers=2", "--users=6", "--run-time=10s", "--slo.p99=60s")
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *through(url), *options, stdout=asyncio.subprocess.PIPE
        )
        await begun.wait()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        said, _ = await process.communicate()

    assert 1 == process.returncode
    assert b"MISSED the service level: 1 worker went away" in said


async def test_workers_of_other_machines_need_the_master_s_address_only() -> None:
    address = f"127.0.0.1:{free_port()}"
    counted = Enough(10, whole)
    async with serving(counted.answer) as url:
        options = (f"--master={address}", "--expect-workers=1")
        master = asyncio.create_task(reported(*through(url), *options, until=counted.wait()))
        worker = await load(f"--worker-of={address}")
        report = await master

    assert (0, "") == (worker.status, worker.errors)
    assert report["text"]["n"] > 0


async def test_a_worker_ends_when_its_master_goes_away_before_the_first_heartbeat() -> None:
    """Locust's minute of patience is a second here; a socket stands for the master."""
    patient = "import locust.runners as r; r.MASTER_HEARTBEAT_TIMEOUT = 1"
    run = "from ollama_fleet.cli import main; main()"
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as master:
        port = master.bind_to_random_port("tcp://127.0.0.1")
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", f"{patient}; {run}"),
            *("load", f"--worker-of=127.0.0.1:{port}"),
            stderr=asyncio.subprocess.PIPE,
        )
        name, _ = await master.recv_multipart()
        ack = msgspec.msgpack.encode(("ack", {"index": 0}, name.decode()))
        await master.send_multipart([name, ack])
        await master.recv_multipart()
        master.close(linger=0)
        _, errors = await asyncio.wait_for(worker.communicate(), 100)

    assert 2 == worker.returncode
    assert f"the master at 127.0.0.1:{port} has sent no heartbeat for " in errors.decode()


async def test_a_worker_that_cannot_begin_says_why_at_the_master(tmp_path: Path) -> None:
    ended = await load(*through("http://127.0.0.1:1"), "--key-file=missing", "--workers=1")

    assert 2 == ended.status
    assert "a worker cannot begin: --key-file missing: does not exist" in ended.errors


async def test_the_exit_status_and_one_closing_line_tell_whether_the_level_is_met() -> None:
    ends = []
    for options in ((), ("--slo.p99=1ms", "--slo.failures=0%")):
        counted = Enough(50, whole)
        async with serving(counted.answer) as url:
            ends.append(await load(*QUICKLY, *through(url), *options, until=counted.wait()))
    met, missed = ends

    assert (0, "") == (met.status, met.errors)  # nothing of progress in a pipe
    assert met.said.splitlines()[-1].startswith("met the service level: p99 ")
    assert 1 == missed.status
    assert missed.said.splitlines()[-1].startswith("MISSED the service level: p99 ")


async def test_ctrl_c_ends_a_test_early_and_reports_what_there_is() -> None:
    counted = Enough(5, whole)
    async with serving(counted.answer) as url:
        options = ("--run-time=1h", "--slo.p99=60s")
        ended = await load(*through(url), *options, until=counted.wait())

    assert 0 == ended.status
    assert "met the service level" in ended.said


async def test_a_test_ends_after_its_run_time() -> None:
    async with serving(whole) as url:
        report = await reported(*through(url), "--run-time=3s")

    assert report["text"]["n"] > 0


async def test_streams_of_a_real_server_are_whole_and_have_a_first_token(
    start_llama_server: StartLlamaServer, tmp_path: Path
) -> None:
    server = await start_llama_server(alias="tiny")
    instances = write_instances(
        tmp_path / "fleet.json", server.url, model="tiny", engine="llamacpp"
    )

    plain, streamed = [
        await reported(
            *("--instances", instances, "--api=openai", *options),
            until=eventually(partial(has_predicted, server.url, n)),
        )
        for n, options in ((100, ()), (300, ("--stream",)))
    ]

    assert ({}, {}) == (plain["failures"], streamed["failures"])
    assert 8 * streamed["text"]["n"] == streamed["generated_tokens"] > 0
    assert 0 < streamed["first_token_p50_s"] <= streamed["text"]["p50_s"]
    assert plain["first_token_p50_s"] is None


async def has_predicted(url: str, n: int) -> bool:
    """Say whether a server has generated this number of tokens."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        (found,) = re.findall(r"(?m)^llamacpp:tokens_predicted_total (\S+)", await answer.text())
    return float(found) >= n


async def test_what_the_page_on_load_tests_says_works(tmp_path: Path) -> None:
    page = (ROOT / "docs/load.md").read_text()
    fleet, test = [shlex.split(one) for one in re.findall(r"(?s)```sh\n(.*?)```", page)]
    control = f"127.0.0.1:{free_port()}"
    options = [f"--control.listen-address={control}", f"--listen-port={free_port()}"]
    options.append(f"--control.token-file={tmp_path}/token")
    async with Children(tmp_path) as children:
        simulate = our_command(*fleet[1:], *options)
        await children.start(ChildSpec("simulate", simulate, f"http://{control}/-/healthy"))
        ended = await load(*(word.replace("127.0.0.1:11451", control) for word in test[2:]))
        env = {**os.environ, "OLLAMA_FLEET_LOAD_INSTANCES": f"http://{control}/instances"}
        words = ("-f", "tests/load/locustfile.py", "--headless", "--users=2", "--run-time=5s")
        locust = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", *words),
            cwd=ROOT,
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await locust.communicate()

    assert ended.status in {0, 1}, ended.errors
    assert ended.said.split("\n")[0].split() in [line.split() for line in page.split("\n")]
    assert b"/api/generate" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "give --instances or --gateway.url"),
        (("--gateway.url=http://a", "--instances=b"), "give --instances or --gateway.url"),
        (("--gateway.url=http://a",), "--gateway.url needs --model"),
        (("--gateway.url=http://u:p@a",), "use --key-file"),
        (("--instances=ftp://a",), "or give a file"),
        ((*through("http://a"), "--spawn-rate=0"), "no rate above 0"),
        ((*through("http://a"), "--wait=2s-1s"), "the shorter wait comes first"),
        ((*through("http://a"), "--slo.failures=2"), "must be a share"),
        ((*through("http://a"), "--prompt-file=missing"), "--prompt-file missing: does not exist"),
        ((*through("http://a"), "--html=missing/report.html"), "the folder missing is not there"),
        (("--worker-of=nowhere",), "must be HOST:PORT"),
    ],
)
def test_what_cannot_run_is_refused_in_words(options: tuple[str, ...], expected: str) -> None:
    ended = CliRunner().invoke(main, ["load", *options])

    assert (2, "") == (ended.exit_code, ended.stdout)
    assert expected in " ".join(ended.stderr.split())


async def test_files_that_users_cannot_read_are_refused_in_words() -> None:
    expected = {
        ("--instances=missing.json",): "cannot read instances from missing.json",
        (*through("http://a"), "--key-file=missing"): "--key-file missing: does not exist",
        (*through("http://a"), "--ca-file=missing"): "--ca-file missing: No such file",
    }
    found = await asyncio.gather(*(load(*options) for options in expected))

    assert [(2, "")] * len(expected) == [(ended.status, ended.said) for ended in found]
    for words, ended in zip(expected.values(), found, strict=True):
        assert words in ended.errors


def test_help_patches_nothing() -> None:
    """Locust changes sockets and threads of a process, which only a running load test may be."""
    CliRunner().invoke(main, ["load", "--help"])

    assert "locust" not in sys.modules
    assert "gevent" not in sys.modules
