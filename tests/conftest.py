"""What tests of several folders share: the real programs, and real LLM servers.

A program that is neither installed nor can be fetched makes its tests fail in continuous
integration (`CI=true`); elsewhere they are skipped with one line that says what to install.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from provisioning.demo import programs
from provisioning.demo.errors import ProgramError
from tests.programs import locate

if TYPE_CHECKING:
    from tests.llama import LlamaServer

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes is up to the machine. In CI the examples are always the same, so that a
# fault which only a new example finds holds up no change; everywhere else they are random.
settings.register_profile(
    "unhurried",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")

END_TO_END = "tests/e2e/"
SLOW = (
    END_TO_END,
    "tests/browser/",
    "tests/contract/",
    "tests/alerts/test_inhibition",
    "tests/alerts/test_notifications",
    "tests/alerts/test_runbook_commands",
    "tests/alerts/test_templates",
    "tests/alerts/test_vmalert",
    "tests/dashboards/test_typescript",
    "tests/dashboards/test_values",
    "tests/exporter/engines/test_adding",
    "tests/exporter/test_app",
    "tests/exporter/test_canary",
    "tests/exporter/test_canary",
    "tests/exporter/test_cli",
    "tests/exporter/test_connection",
    "tests/exporter/test_poller",
    "tests/exporter/test_resolver",
    "tests/exporter/test_responses",
    "tests/exporter/test_web",
    "tests/exporter/ui/test_handlers",
    "tests/load/test_load",
    "tests/provisioning/api/test_routes",
    "tests/provisioning/cli/",
    "tests/provisioning/demo/",
    "tests/provisioning/runtime/",
    "tests/provisioning/simulator/test_cli",
    "tests/provisioning/simulator/test_server",
    "tests/provisioning/store/test_etcd",
    "tests/provisioning/store/test_histories",
    "tests/provisioning/store/test_sqlite",
    "tests/provisioning/test_app",
    "tests/provisioning/test_client",
    "tests/provisioning/test_clock_jumps",
    "tests/test_install",
)
"""What `make check` leaves out: real programs, processes, and seconds."""
SLOW_FIXTURES = frozenset(
    {"prometheus_binary", "promtool_binary", "start_llama_server", "etcd_binary"}
)

StartLlamaServer = Callable[..., Awaitable["LlamaServer"]]
"""`await start(alias="tiny", port=0)`: a real llama-server, which is stopped after the test."""


def program(name: str) -> Path:
    """Return the path of a program such as `prometheus`, or skip the test (in CI: fail it)."""
    try:
        return locate(name)
    except ProgramError as error:
        refuse(str(error))


def refuse(what: str) -> NoReturn:
    """Skip the test, as something is missing (in CI: fail it)."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts real programs as slow, and put the end-to-end tests first.

    Begun last, they would keep one worker busy long after the others have ended.
    """
    for item in items:
        if item.nodeid.startswith(SLOW) or SLOW_FIXTURES.intersection(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not item.nodeid.startswith(END_TO_END))


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_what_is_started() -> None:
    """However the tests were started: a shell's background commands ignore it, and so theirs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _programs_of_the_checkout() -> Iterator[None]:
    """Let tests, and the processes that they start, share the checkout's fetched programs."""
    with pytest.MonkeyPatch.context() as patch:
        if programs.DIR_VARIABLE not in os.environ:
            patch.setenv(programs.DIR_VARIABLE, str(ROOT / ".programs"))
        yield


@pytest.fixture(scope="session")
def prometheus_binary() -> Path:
    return program("prometheus")


@pytest.fixture(scope="session")
def promtool_binary() -> Path:
    return program("promtool")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF model file that llama-server loads in milliseconds."""
    from tests.llama import write_tiny_model  # numpy and gguf take half a second to import

    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path)
    return path


@pytest.fixture
async def start_llama_server(tiny_model: Path, tmp_path: Path) -> AsyncIterator[StartLlamaServer]:
    from tests.llama import llama_server

    async with AsyncExitStack() as stack:

        async def start(*, alias: str = "tiny", port: int = 0) -> LlamaServer:
            log = tmp_path / f"llama-{alias}-{port}.log"
            return await stack.enter_async_context(
                llama_server(tiny_model, log=log, alias=alias, port=port)
            )

        yield start
