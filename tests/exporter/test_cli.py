from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exporter import app
from exporter.cli import exporter
from exporter.settings import ENVIRONMENT_PREFIX, SETTINGS
from ollama_fleet.version import VERSION, revision
from tests.exporter.fetching import fetch
from tests.exporter.servers import Handler, answering, hanging, response, serving
from tests.waiting import eventually

FLEET = {"/health": b"{}", "/api/metrics": b'{"tokens_per_second":42}'}
ANYWHERE = ("--web.listen-address", "127.0.0.1:0")
DEADLINE_S = 100.0
"""Far less than what hangs in these tests may take."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take no settings from outside, and leave the tests' own logging and limits as they are."""
    for name in os.environ:
        if name.startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setattr(app, "raise_limit", lambda: 4096)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    return list_instances(tmp_path, port=1)


def list_instances(folder: Path, *, port: int, n: int = 2) -> Path:
    """Write an inventory of instances that all listen on one port."""
    path = folder / "fleet.yml"
    path.write_text("".join(f"- {{id: i{k}, url: 'http://127.0.0.1:{port}'}}\n" for k in range(n)))
    return path


def run(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Result:
    """Run the command inside the tests' process."""
    return CliRunner(env=env).invoke(exporter, [str(argument) for argument in arguments])


def problems(result: Result) -> list[str]:
    """Return what a refused start names as wrong; nothing may have gone to stdout."""
    assert (1, "") == (result.exit_code, result.stdout)
    head, *rest = result.stderr.splitlines()
    assert re.fullmatch(r"Error: \d+ problems? in .*", head)
    return [line.strip() for line in rest]


# --check


def test_good_settings_and_a_good_inventory_pass_the_check(inventory: Path) -> None:
    result = run("--inventory", inventory, "--check")

    assert 0 == result.exit_code
    assert result.stderr.endswith(f"The settings are good: 2 instances (2 in {inventory})\n")
    head, *rows, summary = result.stdout.splitlines()
    assert ["ID", "URL", "STATUS"] == head.split()[:3]
    assert [["i0", "unreachable"], ["i1", "unreachable"]] == [row.split()[:3:2] for row in rows]
    assert "0 of 2 instances healthy: 2 refused (i0, i1)" == summary


def test_the_check_prints_json_as_instances_does(inventory: Path) -> None:
    result = run("--inventory", inventory, "--check", "--json")

    found = {one["id"]: one["last_outcome"] for one in json.loads(result.stdout)}
    assert {"i0": "refused", "i1": "refused"} == found
    assert 2 == run("--inventory", inventory, "--json").exit_code


def test_the_check_refuses_what_would_not_start(inventory: Path) -> None:
    """Also an address that no interface of the machine has; not one that the exporter is using."""
    faults = {
        "--web.listen-address=nobody.invalid:1": "cannot listen on nobody.invalid:1: ",
        "--web.listen-address=192.0.2.1:80": "cannot listen on 192.0.2.1:80: Cannot assign",
        "--ui.healthy-instances=110%": "must be at most 100%",
    }

    for option, fault in faults.items():
        (found,) = problems(run("--inventory", inventory, "--check", option))
        assert fault in found
    with socket.create_server(("127.0.0.1", 0)) as used:
        address = f"--web.listen-address=127.0.0.1:{used.getsockname()[1]}"
        assert 0 == run("--inventory", inventory, "--check", address).exit_code


def test_the_check_reads_the_inventory(inventory: Path) -> None:
    inventory.write_text("- {id: a, url: 'ftp://a'}\n- {id: b}\n")

    found = problems(run("--inventory", inventory, "--check"))

    assert 2 == len(found)
    assert all(str(inventory) in problem for problem in found)


# What is refused


def test_all_problems_are_named_at_once_with_their_places(tmp_path: Path) -> None:
    """Of the command line, the environment and the file."""
    file = tmp_path / "exporter.yml"
    file.write_text("poll:\n  intervall: 1s\nlog.level: loud\n")

    found = problems(
        run(
            *("--config.file", file, "--poll.interval", "soon", "--shard", "2/2"),
            env={"OLLAMA_FLEET_METRICS_PER_INSTANCE": "perhaps"},
        )
    )

    assert [
        f"{file}:2: poll.intervall: unknown key; did you mean poll.interval?",
        "--poll.interval: must be a duration such as 7d, 1h30m, 15s or 500ms, got 'soon'",
        "--shard: shard 2/2 does not exist: shards of 2 are counted from 0",
        "OLLAMA_FLEET_METRICS_PER_INSTANCE: is none of auto, true, false: 'perhaps'",
        f"{file}:3: log.level: is none of debug, info, warning, error: 'loud'",
    ] == found


def test_an_unknown_option_is_an_error_of_usage_with_a_suggestion(inventory: Path) -> None:
    result = run("--inventory", inventory, "--poll.intervall", "10s")

    assert (2, "") == (result.exit_code, result.stdout)
    assert "--poll.intervall" in result.stderr
    assert re.search("Did you mean .*--poll.interval", result.stderr)


# Help


def test_help_names_every_setting_with_its_default() -> None:
    result = run("--help")

    words = " ".join(result.stdout.split())
    assert (0, "") == (result.exit_code, result.stderr)
    for setting in SETTINGS:
        assert f"{setting.option} {setting.metavar} " in words
        assert setting.default == "" or f"[default: {setting.default}]" in words
    assert "--config.file" in words
    assert "--check" in words


# Where settings come from


def test_the_command_line_comes_before_the_environment_before_the_file(
    inventory: Path, tmp_path: Path
) -> None:
    """Each layer is the only one with a good value for something."""
    file = tmp_path / "exporter.yml"
    file.write_text(f"inventory: {inventory}\npoll.interval: no\nlog.window: no\nlog.level: debug")
    env = {"OLLAMA_FLEET_POLL_INTERVAL": "no", "OLLAMA_FLEET_LOG_WINDOW": "30s"}

    result = run("--config.file", file, "--poll.interval", "30s", "--check", env=env)

    assert 0 == result.exit_code


def test_inventories_repeat_on_the_command_line_and_are_listed_in_the_environment(
    inventory: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yml"
    other.write_text("- {id: c, url: 'http://127.0.0.1:1'}\n")

    repeated = run("--inventory", inventory, "--inventory", other, "--check")
    listed = run("--check", env={"OLLAMA_FLEET_INVENTORY": f"{inventory},{other}"})

    assert "3 instances" in repeated.stderr
    assert "3 instances" in listed.stderr


def test_the_environment_can_name_the_file(inventory: Path, tmp_path: Path) -> None:
    file = tmp_path / "exporter.yml"
    file.write_text(f"inventory: {inventory}")

    assert 0 == run("--check", env={"OLLAMA_FLEET_CONFIG_FILE": str(file)}).exit_code


def test_an_empty_variable_is_as_if_it_were_not_there(inventory: Path) -> None:
    env = {setting.variable: "" for setting in SETTINGS}

    assert 0 == run("--inventory", inventory, "--check", env=env).exit_code


# As a process


class Running:
    """An exporter in a process of its own."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.log = ""

    async def port(self) -> int:
        """Return the port once it listens."""
        found = await self.until_logged(r"msg=listening url=http://127\.0\.0\.1:(\d+)")
        return int(found[1])

    async def until_logged(self, pattern: str) -> re.Match[str]:
        assert self._process.stderr is not None
        while True:
            found = re.search(pattern, self.log)
            if found is not None:
                return found
            line = await asyncio.wait_for(self._process.stderr.readline(), DEADLINE_S)
            assert line, self.log
            self.log += line.decode()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, bytes]:
        """Send a signal; return status and stdout."""
        self._process.send_signal(number)
        return await self.end()

    async def end(self) -> tuple[int, bytes]:
        """Wait until it ends by itself; return status and stdout."""
        stdout, stderr = await asyncio.wait_for(self._process.communicate(), DEADLINE_S)
        self.log += stderr.decode()
        assert self._process.returncode is not None
        return self._process.returncode, stdout


@asynccontextmanager
async def started(
    *arguments: str | Path, program: Sequence[str] = ("-m", "ollama_fleet"), **variables: str
) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "exporter", *map(str, arguments)),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **variables},
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def page_with(port: int, text: str) -> str:
    """Return the page once it holds a text."""
    page = ""

    async def has_it() -> bool:
        nonlocal page
        page = (await fetch(port, "/metrics")).text
        return text in page

    await eventually(has_it)
    return page


def hanging_once(asked: asyncio.Event) -> Handler:
    """Return a handler that never answers, and says when it has been asked."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await hanging(reader, writer)

    return handle


QUICK = ("--poll.interval", "2s")


async def test_it_polls_publishes_and_stops_when_told(tmp_path: Path) -> None:
    async with serving(answering(FLEET)) as port:
        inventory = list_instances(tmp_path, port=port)
        async with started("--inventory", inventory, *ANYWHERE, *QUICK) as running:
            own_port = await running.port()
            await page_with(own_port, 'ollama_fleet_instances{shard="0",status="healthy"} 2\n')
            await running.until_logged('msg="fleet polled" healthy=2 instances=2 servers="2 fleet"')
            status, stdout = await running.stop()

    assert (0, b"") == (status, stdout)
    first, *_, last = running.log.splitlines()
    assert first.endswith(
        f' level=info logger=exporter msg="exporter starts" version={VERSION} '
        f"revision={revision()} sources={inventory} poll_interval=2s listen_address=127.0.0.1:0"
    )
    assert last.endswith(" level=info logger=exporter msg=stopped")
    assert "Traceback" not in running.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_at_once_while_instances_hang(
    number: signal.Signals, tmp_path: Path
) -> None:
    asked = asyncio.Event()
    # Of this many instances, one is polled very soon.
    n_instances = 5000
    patient = ("--poll.interval", "1001s", "--poll.metrics-timeout", "1000s",
               "--poll.health-timeout", "1000s")  # fmt: skip
    async with serving(hanging_once(asked)) as port:
        inventory = list_instances(tmp_path, port=port, n=n_instances)
        async with started("--inventory", inventory, *ANYWHERE, *patient) as running:
            await asyncio.wait_for(asked.wait(), DEADLINE_S)
            status, _ = await running.stop(number)

    assert 0 == status
    assert "Traceback" not in running.log


HUNG_UP_AT_ONCE = """
import os, signal
from ollama_fleet import main, signals
hold = signals.hold_hangup
def hold_and_hang_up():
    hold()
    os.kill(os.getpid(), signal.SIGHUP)
signals.hold_hangup = hold_and_hang_up
main()
"""


async def test_a_hangup_reads_the_file_again_and_ends_the_exporter_at_no_time(
    inventory: Path, tmp_path: Path
) -> None:
    file = tmp_path / "exporter.yml"
    file.write_text(f"inventory: {inventory}\n")
    program = ("-c", HUNG_UP_AT_ONCE)
    async with started("--config.file", file, *ANYWHERE, program=program) as running:
        port = await running.port()
        await running.until_logged("reloaded settings=none instances=2 added=0")

        file.write_text(f"inventory: {inventory}\npoll.interval: 20s\nlog.level: debug\n")
        running.send(signal.SIGHUP)
        await running.until_logged("reloaded settings=poll.interval,log.level instances=2")

        file.write_text("poll.intervall: 30s\nshard: 3/2\n")
        running.send(signal.SIGHUP)
        await running.until_logged("reload refused.*unknown key.*shard 3/2 does not exist.*\n")
        assert {"value": "20s", "name": "poll.interval", "source": f"{file}:2: poll.interval"} in (
            await fetch(port, "/config")
        ).json["settings"]
        assert 0 == (await running.stop())[0]


async def test_systemd_hears_of_start_reload_polls_and_stop(
    inventory: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)

        async def heard() -> str:
            receiving = asyncio.get_running_loop().sock_recv(manager, 1000)
            return (await asyncio.wait_for(receiving, DEADLINE_S)).decode()

        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        async with started("--inventory", inventory, *ANYWHERE, **variables) as running:
            first = set[str]()
            while not {"READY=1", "WATCHDOG=1"} <= first:
                first.add(await heard())
            sent_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            running.send(signal.SIGHUP)
            states = [await heard()]
            while "READY=1" != states[-1]:
                states.append(await heard())
            reloading = [state for state in states if "RELOADING=1" in state]
            assert int(reloading[0].removeprefix("RELOADING=1\nMONOTONIC_USEC=")) >= sent_us
            while "WATCHDOG=1" != await heard():
                continue
            running.send(signal.SIGTERM)
            while "STOPPING=1" != await heard():
                continue
            assert 0 == (await running.end())[0]


ACTIVATED = """
import os, socket
passed = socket.create_server(("127.0.0.1", 0))
if passed.fileno() != 3:
    os.dup2(passed.fileno(), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
from ollama_fleet import main
main()
"""


async def test_a_socket_of_systemd_takes_the_place_of_the_address(inventory: Path) -> None:
    address = ("--web.listen-address", "127.0.0.9:0")
    async with started("--inventory", inventory, *address, program=("-c", ACTIVATED)) as running:
        assert 200 == (await fetch(await running.port(), "/-/healthy")).status
        assert 0 == (await running.stop())[0]

    assert "http://127.0.0.9" not in running.log


LOST_IN_A_THREAD = """
import logging, time
from exporter.inventory import inventory
from ollama_fleet.cli import main
def parse(*_):
    logging.getLogger("exporter").warning("parses")
    time.sleep(1000)
inventory._parse = parse
main()
"""


async def test_it_stops_at_once_while_a_thread_reads_an_inventory(inventory: Path) -> None:
    """A long one takes a while, and a file system may hang."""
    program = ("-c", LOST_IN_A_THREAD)
    async with started("--inventory", inventory, *ANYWHERE, program=program) as running:
        await running.until_logged("parses")
        status, _ = await running.stop()

    assert 0 == status
    assert "stopped" in running.log


async def test_settings_come_from_the_environment_and_a_secret_is_shown_nowhere(
    tmp_path: Path,
) -> None:
    secret = "s3cr3t-t0ken"  # noqa: S105
    token_file = tmp_path / "token"
    token_file.write_text(secret)
    sent: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        sent.extend(re.findall(rb"authorization: (.*)\r\n", head, re.IGNORECASE))
        if len(sent) == 1:
            writer.write(response(b'[{"id":"a","url":"http://127.0.0.1:1"}]'))
        else:  # some servers repeat what they refuse
            writer.write(response(head, f"401 {secret}"))

    async with serving(handle) as port:
        variables = {
            "OLLAMA_FLEET_INVENTORY": f"http://127.0.0.1:{port}/instances",
            "OLLAMA_FLEET_INVENTORY_TOKEN_FILE": str(token_file),
            "OLLAMA_FLEET_INVENTORY_REFRESH_INTERVAL": "100ms",
            "OLLAMA_FLEET_WEB_LISTEN_ADDRESS": "127.0.0.1:0",
            "OLLAMA_FLEET_LOG_LEVEL": "debug",
        }
        async with started(**variables) as running:
            own_port = await running.port()
            page = await page_with(own_port, "inventory_last_reload_successful{source=")
            await running.until_logged("inventory source fails")
            shown = [page] + [(await fetch(own_port, path)).text for path in ("/", "/instances")]
            await running.stop()

    assert {b"Bearer " + secret.encode()} == set(sent)
    assert not [text for text in (*shown, running.log) if secret in text]


async def test_a_bad_start_as_a_process_ends_with_its_problems_on_stderr(tmp_path: Path) -> None:
    arguments = ("--inventory", tmp_path / "none.yml", "--check")

    async with started(*arguments) as running:
        status, stdout = await running.end()

    assert (1, b"") == (status, stdout)
    assert running.log.startswith("Error: 1 problem in inventory\n")
    assert "Traceback" not in running.log


# More clients than file descriptors

N_FILES = 200
LIMITED = (
    "import resource, runpy; "
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({N_FILES}, {N_FILES})); "
    "runpy.run_module('ollama_fleet', run_name='__main__')"
)


async def test_silent_strangers_keep_neither_scrapers_nor_inventories_out(tmp_path: Path) -> None:
    fleet = list_instances(tmp_path, port=1)
    often = ("--inventory.refresh-interval", "100ms")
    async with AsyncExitStack() as stack:
        arguments = ("--inventory", fleet, *often, *ANYWHERE, *QUICK)
        running = await stack.enter_async_context(started(*arguments, program=("-c", LIMITED)))
        port = await running.port()
        for _ in range(N_FILES + 100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60.0))

        list_instances(tmp_path, port=1, n=7)
        read = f'ollama_exporter_inventory_instances{{source="{fleet}"}} 7.0'
        page = await page_with(port, read)
        await running.stop()

    closed = re.search(r"^ollama_exporter_web_connections_closed_total (\S+)$", page, re.MULTILINE)
    assert closed
    assert float(closed[1]) > N_FILES / 2
    assert "Too many open files" not in running.log
    assert 1 == running.log.count("web.max-connections"), running.log
