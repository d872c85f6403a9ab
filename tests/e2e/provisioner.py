"""Provisioners as a user starts them, over instances that are small servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from provisioning.runtime import cgroups, launch
from provisioning.runtime.process import label_of
from tests.ports import CONTAINER_PORTS, free_port
from tests.waiting import eventually

PROGRAM = (sys.executable, "-P", "-m", "ollama_fleet")
FLEET, NODE = "lab", "here"
ENDING_S = 100.0
KILL_POLL_S = 0.001
SERVER = """\
import socket, sys
body = b'{"status": "ok", "tokens_per_second": 40.0, "latency_p99": 0.05, "errors_total": 0}'
head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\nconnection: close\\r\\n"
answer = head + b"content-length: %d\\r\\n\\r\\n%b" % (len(body), body)
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    client, _ = server.accept()
    client.settimeout(10.0)
    try:
        client.recv(65536)
        client.sendall(answer)
    except OSError:
        pass
    client.close()
"""
QUICK = {
    "start_timeout": "60s",
    "backoff_base": "100ms",
    "backoff_cap": "500ms",
    "retry_failed": "1s",
    "stop_grace": "1s",
    "unavailable": "50%",
}


class InstanceProcess(NamedTuple):
    """A instance's process, as the kernel knows it."""

    pid: int
    instance_id: str
    host: str
    port: int

    def kill(self) -> None:
        """End it without warning; return when nothing of it runs any more."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while words_of(self.pid):
            time.sleep(KILL_POLL_S)


class Answer(NamedTuple):
    """What an API has answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body, read."""
        return json.loads(self.body)


@dataclass
class Provisioner:
    """`ollama-fleet provisioner run`, as a process."""

    url: str
    command: Sequence[str] = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    log: Path = field(repr=False)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; it may not answer yet."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # the test's own command
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environment),
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Say whether its process has not ended."""
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, number: signal.Signals) -> int:
        """Send it a signal, and return the status with which it has ended."""
        self.send(number)
        assert self.process is not None
        status = self.process.wait(ENDING_S)
        self.process = None
        return status

    def kill(self) -> None:
        """End it without warning, as a loss of power would."""
        if self.process is not None:
            self.ended(signal.SIGKILL)

    async def answer(self, path: str = "/instances") -> Answer:
        """Return what its API answers."""
        return await asyncio.to_thread(fetch, f"{self.url}{path}")

    async def instances(self) -> list[dict[str, Any]]:
        """Return all that it knows of the instances; nothing where it does not answer."""
        with suppress(OSError, ValueError):
            answer = await self.answer("/instances?details=1")
            if answer.status == 200:
                listed: list[dict[str, Any]] = answer.json
                return listed
        return []

    async def leads(self) -> bool:
        """Say whether it is the one that changes the fleet."""
        with suppress(OSError):
            page = (await self.answer("/metrics")).body.decode()
            return "\nollama_provisioner_leader 1.0\n" in page
        return False

    async def has_asked_nodes(self) -> bool:
        """Say whether it leads and has seen what runs on each node: only then are orphans known."""
        with suppress(OSError):
            return (await self.answer("/orphans")).status == 200
        return False

    async def is_ready(self) -> bool:
        """Say whether it knows the fleet."""
        if not self.is_running:
            raise AssertionError(f"{self.url} has ended: {self.said[-2000:]}")
        with suppress(OSError):
            return (await self.answer("/-/ready")).status == 200
        return False

    @property
    def said(self) -> str:
        """Return its log."""
        return self.log.read_text()


@dataclass
class Lab:
    """A folder, and everything that a test has started in it."""

    folder: Path
    fleet: str = FLEET
    provisioners: list[Provisioner] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def server(self) -> Path:
        """Return the instances' program; its path is in each command line of this lab."""
        return self.folder / "server.py"

    def provisioner(
        self, *options: str, store: str = "", wrapper: Sequence[str] = ()
    ) -> Provisioner:
        """Return a provisioner that is not started yet; later options win over earlier ones."""
        port = free_port()
        number = len(self.provisioners) + 1
        command = (
            *(*wrapper, *PROGRAM, "provisioner", "run", f"--fleet={self.fleet}"),
            f"--state-dir={self.folder}/state",
            f"--store.url={store or f'sqlite:{self.folder}/fleet.db'}",
            f"--web.token-file={self.folder}/token",
            f"--web.listen-address=127.0.0.1:{port}",
            *options,
        )
        log = self.folder / f"provisioner-{number}.log"
        made = Provisioner(f"http://127.0.0.1:{port}", command, self.environment, log)
        self.provisioners.append(made)
        return made

    async def started(
        self,
        *options: str,
        store: str = "",
        wrapper: Sequence[str] = (),
        is_standby: bool = False,
    ) -> Provisioner:
        """Return a provisioner that answers and, unless it stands by, leads."""
        made = self.provisioner(*options, store=store, wrapper=wrapper)
        made.start()
        await eventually(made.is_ready)
        if not is_standby:
            await eventually(made.leads)
        return made

    def spec(
        self,
        count: int,
        *,
        pool: Mapping[str, Any] | None = None,
        nodes: Sequence[Mapping[str, Any]] = (),
        limits: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a specification of one pool, by default of small servers on this machine."""
        whole_pool = {
            "name": "web",
            "model": "toy",
            "engine": "fleet",
            "command": [sys.executable, "-I", "-S", str(self.server), "{host}", "{port}", "{id}"],
            "count": count,
            "cpus": 0.01,
            "memory": "16MiB",
            # An instance that gets no turn on a busy machine for ten seconds is not replaced.
            "health": {"interval": "500ms", "timeout": "6s", "failures": 3},
            "rotation": {"every": "7d", "drain": "300ms"},
            **(pool or {}),
        }
        document = {
            "name": self.fleet,
            "nodes": list(nodes) or [self.node()],
            "pools": [whole_pool],
            "limits": {**QUICK, **(limits or {})},
        }
        path = self.folder / "fleet.yml"
        path.write_text(json.dumps(document))
        return path

    def node(self) -> dict[str, Any]:
        """Return this machine as a node, with ports that nobody else here uses."""
        return {
            "name": NODE,
            "runtime": "process",
            "address": loopback_of(self.folder),
            "cpus": 4,
            "memory": "64GiB",
            "first_port": CONTAINER_PORTS[0],
            "last_port": CONTAINER_PORTS[-1],
        }

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command until it ends."""
        prefix = "OLLAMA_FLEET_INSTANCES_PROVISIONER_"
        own = {
            f"{prefix}URL": " ".join(one.url for one in self.provisioners),
            f"{prefix}TOKEN_FILE": f"{self.folder}/token",
        }
        return await asyncio.to_thread(
            subprocess.run,
            (*PROGRAM, *words),
            env={**self.environment, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ENDING_S,
        )

    async def done(self, *words: str) -> str:
        """Run a command that has to go well; return what it prints."""
        ended = await self.run(*words)
        assert 0 == ended.returncode, f"{words}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    async def applied(self, spec: Path, count: int, *options: str) -> Provisioner:
        """Return a provisioner that leads a whole fleet."""
        one = await self.started(*options)
        await self.done("provisioner", "apply", str(spec))
        await self.whole(one, count)
        return one

    async def whole(self, one: Provisioner, count: int) -> list[dict[str, Any]]:
        """Return the instances once all run, a process each."""
        told: list[dict[str, Any]] = []

        async def is_whole() -> bool:
            nonlocal told
            told = await one.instances()
            return self.is_whole(told, count)

        try:
            await eventually(is_whole)
        except AssertionError as error:
            raise AssertionError(f"{self.faults(told, count)}: {one.said[-3000:]}") from error
        return told

    def processes(self) -> list[InstanceProcess]:
        """Return the processes of all instances, those that hang among them.

        A launcher has its instance's command line, too. It is none yet: it ends where its
        provisioner lost the instance to another.
        """
        mark, launcher = str(self.server).encode(), launch.__file__.encode()
        return [
            _process_of(pid, words, mark)
            for pid, words in command_lines()
            if mark in words and launcher not in words
        ]

    def faults(self, instances: Sequence[Mapping[str, Any]], count: int) -> list[str]:
        """Return what is not as it should be: so many instances, all running, a process each."""
        wanted = Counter((one["id"], one["port"]) for one in instances)
        there = Counter((process.instance_id, process.port) for process in self.processes())
        found = [f"{one['id']} is {one['phase']}" for one in instances if one["phase"] != "running"]
        found += [f"{count} wanted, {len(instances)} listed"] * (count != len(instances))
        found += [f"{missing} has no process" for missing in wanted - there]
        return found + [f"{surplus} is a process too many" for surplus in there - wanted]

    def is_whole(self, instances: Sequence[Mapping[str, Any]], count: int) -> bool:
        """Say whether all is as it should be; processes are looked for only once all run."""
        n_running = sum(one["phase"] == "running" for one in instances)
        return count == n_running == len(instances) and not self.faults(instances, count)

    def clean_up(self) -> None:
        """End whatever runs."""
        for one in self.provisioners:
            one.kill()
        while processes := self.processes():
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, 0)
        self._remove_cgroups()

    def _remove_cgroups(self) -> None:
        """Remove what the kernel keeps of instances that nobody has removed."""
        groups = cgroups.find()
        label = label_of(self.fleet, NODE, self.folder / "state" / "processes")
        for group in list(groups.parent.glob(f"{label}.*")) if groups else ():
            while not cgroups.remove(group):
                time.sleep(KILL_POLL_S)


@contextmanager
def lab(folder: Path, *, fleet: str = FLEET) -> Iterator[Lab]:
    """Make a Lab; when the block ends, nothing of it is left running."""
    made = Lab(folder, fleet)
    made.server.write_text(SERVER)
    try:
        yield made
    finally:
        made.clean_up()


def fetch(url: str) -> Answer:
    """Return what a server answers, whatever its status; blocks, 30 s at most."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Yield the processes of this machine that have not ended, each with its words."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (words := words_of(int(name))):
            yield int(name), words


def words_of(pid: int) -> list[bytes]:
    """Return a process's command line; nothing once it has ended."""
    with suppress(OSError):
        if line := Path(f"/proc/{pid}/cmdline").read_bytes():
            return line.split(b"\0")
    return []


def parent_of(pid: int) -> int:
    """Return the process that made this one; 0 once it has ended."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        return int(status.partition("\nPPid:")[2].split(maxsplit=1)[0])
    return 0


def loopback_of(folder: Path) -> str:
    """Return a loopback address of the lab's own, so that no two labs want the same ports."""
    digest = hash(str(folder))
    return f"127.{1 + digest % 250}.{digest // 250 % 250}.{1 + digest // 62_500 % 250}"


def _process_of(pid: int, words: Sequence[bytes], mark: bytes) -> InstanceProcess:
    place = words.index(mark)
    host, port, instance_id = (word.decode() for word in words[place + 1 : place + 4])
    return InstanceProcess(pid, instance_id, host, int(port))
