"""Canaries: what an instance is sent, what its answers mean, and whom they leave alone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ollama_fleet.canary_outcome import CanaryOutcome
from provisioning.model import Canary
from provisioning.runtime import probe
from provisioning.runtime.base import CanaryResult
from provisioning.runtime.canary import LoadedModel, loaded_model, ollama_body, trained_context
from provisioning.runtime.probe import HttpProber
from tests.llama import llama_server
from tests.waiting import eventually

HOST = "127.0.0.1"
NOW_S = 1_800_000_000.0
QUICK = Canary(timeout_s=0.2)
PATIENT = Canary(timeout_s=60.0)
OK = CanaryResult(CanaryOutcome.OK)
BUSY = CanaryResult(CanaryOutcome.SKIPPED_BUSY)
NOT_LOADED = CanaryResult(CanaryOutcome.SKIPPED_NOT_LOADED)


class Fake:
    """An Ollama, or a llama-server, with one loaded model; keeps what is generated."""

    def __init__(self) -> None:
        self.loaded: Any = [listed()]
        self.n_trained = 8192
        self.n_shown = 0
        self.now_s = NOW_S
        self.status = 200
        self.is_frozen = False
        self.figures = ""
        self.asked: list[Any] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        headers = {"Date": formatdate(self.now_s, usegmt=True)}
        match request.path:
            case "/api/ps":
                return web.json_response({"models": self.loaded}, headers=headers)
            case "/api/show":
                assert {"model": "tiny:latest"} == await request.json()
                self.n_shown += 1
                if not self.n_trained:
                    return web.Response(status=503)
                info = {"general.architecture": "llama", "llama.context_length": self.n_trained}
                return web.json_response({"model_info": info})
            case "/metrics" if self.figures:
                return web.Response(text=self.figures)
            case "/api/generate" | "/completion" | "/v1/completions":
                self.asked.append(await request.json())
                if self.is_frozen:
                    await asyncio.Event().wait()
                return web.Response(status=self.status, text="said")
        return web.Response(status=404)


def listed(left: str = "2027-01-15T08:05:00.123456789Z", **fields: object) -> dict[str, object]:
    """Return an entry of /api/ps; it expires five minutes after NOW_S if not told otherwise."""
    return {"name": "tiny:latest", "digest": "d", "expires_at": left, "size_vram": 0, **fields}


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    made = Fake()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
async def prober() -> AsyncIterator[HttpProber]:
    made = HttpProber()
    yield made
    await made.close()


async def sent(
    prober: HttpProber, port: int, engine: str = "ollama", canary: Canary = PATIENT
) -> CanaryResult:
    return await prober.generate(HOST, port, canary, engine=engine, model="tiny")


async def test_ollama_generates_a_few_tokens_and_keeps_the_model_as_long_as_before(
    prober: HttpProber, fake: Fake
) -> None:
    assert OK == await sent(prober, fake.port)

    (asked,) = fake.asked
    assert {"num_predict": 4} == asked.pop("options")
    assert (False, True) == (asked["stream"], asked["raw"])
    assert 200 < seconds(asked["keep_alive"]) <= 300.2
    assert ("tiny:latest", "Hi") == (asked["model"], asked["prompt"])


async def test_the_next_canary_gives_back_what_the_last_one_took_from_later_requests(
    prober: HttpProber, fake: Fake
) -> None:
    """Of five minutes 200 s were left; 95 s later a request ended, and got these 200 s again."""
    fake.loaded = [listed("2027-01-15T08:03:20Z")]
    await sent(prober, fake.port)
    fake.now_s += 100
    fake.loaded = [listed("2027-01-15T08:04:55Z")]
    await sent(prober, fake.port)

    assert [200, 295] == [
        pytest.approx(seconds(asked["keep_alive"]), abs=45) for asked in fake.asked
    ]


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


async def test_a_model_that_never_expires_stays_so(prober: HttpProber, fake: Fake) -> None:
    fake.loaded = [listed("2318-04-25T06:42:32.329310091+02:00")]

    assert OK == await sent(prober, fake.port)

    assert -1 == fake.asked[0]["keep_alive"]


@pytest.mark.parametrize(
    ("n_loaded", "options"),
    [(4096, {"num_predict": 4, "num_ctx": 4096}), (8192, {"num_predict": 4})],
    ids=["own", "longest"],
)
async def test_a_model_is_asked_with_the_context_it_is_loaded_with(
    prober: HttpProber, fake: Fake, n_loaded: int, options: dict[str, int]
) -> None:
    """With another one Ollama loads it again; what the longest one was asked as is not known."""
    fake.loaded = [listed(context_length=n_loaded)]

    assert [OK, OK] == [await sent(prober, fake.port) for _ in range(2)]

    assert [options, options] == [asked["options"] for asked in fake.asked]
    assert 1 == fake.n_shown


async def test_no_canary_is_sent_while_the_trained_context_is_not_known(
    prober: HttpProber, fake: Fake
) -> None:
    """With another context Ollama loads the model again."""
    fake.loaded, fake.n_trained = [listed(context_length=8192)], 0

    assert NOT_LOADED == await sent(prober, fake.port)

    assert [] == fake.asked


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        ([], NOT_LOADED),
        (None, NOT_LOADED),
        ([{**listed(), "name": "tiny:8b"}], NOT_LOADED),
        ([listed("2027-01-15T08:02:00Z")], NOT_LOADED),
        ([listed("2027-01-15T07:00:00Z")], BUSY),
        ([listed("soon")], BUSY),
        ([listed("9999-12-31T23:59:59+00:00x")], BUSY),
        ({"name": "tiny"}, NOT_LOADED),
        ([listed(digest="d" * 1000)], NOT_LOADED),
    ],
    ids=[
        "none",
        "null",
        "another",
        "expires",
        "serves",
        "no time",
        "bad time",
        "no list",
        "long digest",
    ],
)
async def test_a_model_that_is_not_loaded_or_serves_is_left_alone(
    prober: HttpProber, fake: Fake, loaded: object, expected: CanaryResult
) -> None:
    fake.loaded = loaded

    assert expected == await sent(prober, fake.port)

    assert [] == fake.asked


def test_answers_nested_without_end_say_nothing() -> None:
    nested = b"[" * 100_000

    assert loaded_model(b'{"models": [], "x": ' + nested, "tiny") is None
    assert trained_context(b'{"model_info": {"x.context_length": ' + nested) is None


def test_a_model_without_a_trained_context_is_asked_with_the_loaded_one() -> None:
    """Ollama has cut nothing."""
    model = LoadedModel("m", "", context_length=4096)

    assert 0 == trained_context(b'{"model_info": {}}')
    assert '"num_ctx": 4096' in ollama_body(model, -1, n_trained=0)


@pytest.mark.parametrize("engine", ["ollama", "llamacpp"])
async def test_what_does_not_answer_a_canary_in_time_stalls(
    prober: HttpProber, fake: Fake, engine: str
) -> None:
    fake.is_frozen = True

    said = await sent(prober, fake.port, engine, QUICK)

    assert CanaryOutcome.STALLED is said.outcome
    assert said.fault.startswith(f"canary stalled: http://{HOST}:{fake.port}/")
    assert said.fault.endswith(" does not answer within 0.2 s")


@pytest.mark.parametrize(
    ("status", "outcome", "fault"),
    [
        (200, CanaryOutcome.OK, ""),
        (400, CanaryOutcome.SKIPPED_NOT_LOADED, ""),
        (429, CanaryOutcome.SKIPPED_BUSY, ""),
        (503, CanaryOutcome.SKIPPED_BUSY, ""),
        (500, CanaryOutcome.ERROR, "/api/generate answers 500 Internal Server Error: said"),
        (502, CanaryOutcome.ERROR, "/api/generate answers 502 Bad Gateway: said"),
        (504, CanaryOutcome.ERROR, "/api/generate answers 504 Gateway Timeout: said"),
    ],
)
async def test_an_answer_of_a_broken_server_is_a_failure_and_a_refusal_is_no_news(
    prober: HttpProber, fake: Fake, status: int, outcome: CanaryOutcome, fault: str
) -> None:
    fake.status = status

    said = await sent(prober, fake.port)

    found = said.fault.removeprefix(f"canary failed: http://{HOST}:{fake.port}")
    assert (outcome, fault) == (said.outcome, found)


WORKING = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"
IDLE = WORKING.replace("1", "0")


@pytest.mark.parametrize(("figures", "n_asked"), [("", 1), (IDLE, 1), (WORKING, 0)])
async def test_a_llama_server_gets_a_canary_unless_it_says_that_it_is_busy(
    prober: HttpProber, fake: Fake, figures: str, n_asked: int
) -> None:
    fake.figures = figures

    assert (BUSY, OK)[n_asked] == await sent(prober, fake.port, "llamacpp")

    assert [{"prompt": "Hi", "n_predict": 4}] * n_asked == fake.asked


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tgi"])
async def test_other_servers_get_a_completion_of_openais(
    prober: HttpProber, fake: Fake, engine: str
) -> None:
    assert OK == await sent(prober, fake.port, engine)

    assert [{"prompt": "Hi", "max_tokens": 4}] == fake.asked


async def test_a_real_llama_server_generates_and_stalls_while_it_is_frozen(
    prober: HttpProber, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with llama_server(tiny_model, log=tmp_path / "log") as server:
        assert OK == await sent(prober, server.port, "llamacpp")

        async def stalls() -> bool:
            """Say whether it does; the signal stops one thread after the other."""
            said = await sent(prober, server.port, "llamacpp", QUICK)
            return said.outcome is CanaryOutcome.STALLED

        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(probe, "PAGE_TIMEOUT_S", QUICK.timeout_s)
                await eventually(stalls)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)

        async def generates() -> bool:
            """Say whether it does again; it is busy first, with what it was asked while frozen."""
            return OK == await sent(prober, server.port, "llamacpp")

        await eventually(generates)


async def test_an_instance_that_cannot_be_reached_fails_its_canary(
    prober: HttpProber,
) -> None:
    said = await sent(prober, 1, "llamacpp")

    assert CanaryOutcome.ERROR is said.outcome
    assert said.fault.startswith("canary failed: http://127.0.0.1:1/completion cannot be asked")
