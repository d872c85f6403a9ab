"""Images are pulled from a registry, or imported from an archive, once for all who wait."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import os
import ssl
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import trustme
from aiohttp import web

from ollama_fleet.clock import SystemClock
from provisioning.errors import PermanentError, TransientError
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import DEADLINE_S, RefusedError
from provisioning.runtime.containerd.images import (
    CHUNK_BYTES,
    TRANSFER_LIMIT_S,
    Image,
    ImageConfig,
    ImagePulls,
    Images,
    Transfers,
    chain_ids,
    feed,
    has_registry,
    transfer_error,
)
from tests.containerd import IMAGE, image_archive
from tests.provisioning.runtime.containers import ContainerdLab
from tests.provisioning.runtime.contract import running
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.waiting import eventually

Transfer = Callable[[Transfers, str, Any], Awaitable[None]]

LARGE_BYTES = 100_000
LAYER = "sha256:layer"
FIRST, SECOND, THIRD = (f"sha256:{digit * 64}" for digit in "123")
PULLED = Image("sha256:1", LAYER, ImageConfig(), size_bytes=4_200_000)


@pytest.fixture
def lab(containerd_lab: ContainerdLab) -> ContainerdLab:
    return containerd_lab


class Registry:
    """A registry with one image, which serves what the distribution specification asks for."""

    def __init__(self, archive: Path) -> None:
        self.asked: list[str] = []
        with tarfile.open(archive) as tar:
            self._blobs = {
                f"sha256:{member.name.rpartition('/')[2]}": _content(tar, member)
                for member in tar.getmembers()
                if member.name.startswith("blobs/")
            }
            index = json.loads(_content(tar, tar.getmember("index.json")))
        self._manifest = index["manifests"][0]["digest"]

    async def manifest(self, request: web.Request) -> web.Response:
        reference = request.match_info["reference"]
        self.asked.append(reference)
        digest = self._manifest if reference == "1" else reference
        return self._answer(digest, "application/vnd.oci.image.manifest.v1+json")

    async def blob(self, request: web.Request) -> web.StreamResponse:
        return self._answer(request.match_info["reference"], "application/octet-stream")

    def _answer(self, digest: str, kind: str) -> web.Response:
        if digest not in self._blobs:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        headers = {"Content-Type": kind, "Docker-Content-Digest": digest}
        return web.Response(body=self._blobs[digest], headers=headers)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


@pytest.fixture
async def registry(
    busybox: Path, registry_authority: trustme.CA
) -> AsyncIterator[tuple[Registry, str]]:
    """A registry, and where it is."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    registry_authority.issue_cert("127.0.0.1").configure_cert(context)
    registry = Registry(busybox)
    app = web.Application()
    app.router.add_get("/v2/llm/manifests/{reference}", registry.manifest)
    app.router.add_get("/v2/llm/blobs/{reference}", registry.blob)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield registry, f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_an_image_is_pulled_once_from_the_registry_that_its_name_begins_with(
    lab: ContainerdLab, registry: tuple[Registry, str]
) -> None:
    server, host = registry
    runtime = lab.open()
    containers = [
        msgspec.structs.replace(lab.container(number=number), image=f"{host}/llm:1")
        for number in range(5)
    ]

    await asyncio.gather(*(runtime.start(container) for container in containers))

    assert [running(container) for container in containers] == list(await runtime.containers())
    assert 1 == server.asked.count("1")


@pytest.mark.parametrize("source", ["archive", "registry"])
async def test_an_image_comes_though_the_start_that_asked_for_it_is_called_off(
    lab: ContainerdLab,
    busybox: Path,
    registry: tuple[Registry, str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    name = f"{registry[1]}/llm:1" if source == "registry" else "slow:1"
    archive = str(busybox) if source == "archive" else ""
    runtime = lab.open()
    slow = Slow(Transfers.transfer)
    monkeypatch.setattr(Transfers, "transfer", slow.bound())
    container = msgspec.structs.replace(lab.container(), image=name, archive=archive)
    start = asyncio.create_task(notes_of(runtime.start(container)))
    await slow.has_begun.wait()

    start.cancel()
    notes = await start
    slow.may_go_on.set()
    await runtime.start(container)

    assert [f"its image {name!r} is still being pulled to node-1"] == notes
    assert 1 == slow.n_begun
    assert (running(container),) == await runtime.containers()


async def notes_of(start: Awaitable[object]) -> list[str]:
    """Return what is noted where the start is cancelled."""
    try:
        await start
    except asyncio.CancelledError as error:
        return error.__notes__
    return []


class Slow:
    """A transfer that waits until it may go on."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self.n_begun = 0
        self.has_begun, self.may_go_on = asyncio.Event(), asyncio.Event()

    def bound(self) -> Transfer:
        async def transfer(transfers: Transfers, name: str, source: Any) -> None:
            self.n_begun += 1
            self.has_begun.set()
            await self.may_go_on.wait()
            await self._transfer(transfers, name, source)

        return transfer


async def test_an_image_that_its_registry_does_not_have_is_refused_for_good(
    lab: ContainerdLab, registry: tuple[Registry, str]
) -> None:
    _, host = registry
    runtime = lab.open()

    with pytest.raises(PermanentError, match="llm:2"):
        await runtime.start(msgspec.structs.replace(lab.container(), image=f"{host}/llm:2"))

    assert () == await runtime.containers()


@pytest.mark.parametrize(("lost", "n_lost"), [("before", 4), ("amid", 1)])
async def test_an_import_whose_stream_is_collected_as_garbage_begins_anew(
    lab: ContainerdLab, busybox: Path, monkeypatch: pytest.MonkeyPatch, lost: str, n_lost: int
) -> None:
    images = lab.open().images
    monkeypatch.setattr(Transfers, "transfer", losing(n_lost, Transfers.transfer, LOST[lost]))

    await images.import_archive("lost:1", busybox)

    assert (await images.ensure(IMAGE)).snapshot == (await images.ensure("lost:1")).snapshot


LOST = {
    "before": RefusedError("x", grpc.StatusCode.NOT_FOUND, "not found"),
    "amid": RefusedError("x", grpc.StatusCode.UNKNOWN, "failed to ingest: unexpected EOF"),
}


def losing(n: int, transfer: Transfer, lost: RefusedError) -> Transfer:
    """Let a transfer lose its stream n times, which containerd does not do on demand."""
    left = iter(range(n))

    async def transfer_or_lose(transfers: Transfers, name: str, source: Any) -> None:
        if next(left, None) is not None:
            raise transfer_error(name, lost)
        await transfer(transfers, name, source)

    return transfer_or_lose


async def test_a_newer_image_of_the_name_is_taken_for_the_next_container(
    lab: ContainerdLab, tmp_path: Path, busybox: Path
) -> None:
    images = lab.open().images
    await images.import_archive("changing:1", busybox)
    before = await images.ensure("changing:1")
    archive = image_archive(tmp_path / "new.tar", layer_with("etc/new", b"new"), Cmd=["/bin/sh"])

    await lab.open().images.import_archive("changing:1", archive)

    after = await images.ensure("changing:1")
    assert ("/bin/sh",) == after.config.Cmd
    assert before.snapshot != after.snapshot


async def test_a_container_without_a_command_runs_what_its_image_says(
    lab: ContainerdLab, tmp_path: Path, busybox: Path
) -> None:
    with tarfile.open(busybox) as tar:
        layers = [_content(tar, member) for member in tar.getmembers() if member.size > 100_000]
    archive = image_archive(
        tmp_path / "entry.tar",
        layers[0],
        Entrypoint=["/bin/sh", "-c"],
        Cmd=["id -u; echo $FROM_IMAGE $PWD; exec sleep 1000"],
        Env=["PATH=/bin", "FROM_IMAGE=yes"],
        WorkingDir="/tmp",  # noqa: S108 # the container's
        User="65534:65534",
    )
    runtime = lab.open()
    await runtime.images.import_archive("entry:1", archive)
    container = msgspec.structs.replace(lab.container(), image="entry:1", command=())

    await runtime.start(container)

    await eventually(lambda: "65534\nyes /tmp\n" == lab.said(container))


async def test_a_start_brings_the_containers_archive_where_the_node_lacks_the_image(
    lab: ContainerdLab, busybox: Path
) -> None:
    runtime = lab.open()
    container = msgspec.structs.replace(lab.container(), image="carried:1", archive=str(busybox))
    beside = msgspec.structs.replace(
        lab.container(number=2), image="carried:1", archive="/nonexistent/llm.tar"
    )

    await runtime.start(container)
    await runtime.start(beside)  # the image is there: nobody looks for the archive

    assert {running(container), running(beside)} == set(await runtime.containers())


async def test_an_archive_comes_before_the_registry_of_the_images_name(
    lab: ContainerdLab, busybox: Path
) -> None:
    name = "registry.invalid/carried:1"

    images = lab.open().images

    assert await images.ensure(IMAGE) == await images.ensure(name, str(busybox))


async def test_a_start_without_its_archive_is_a_lasting_fault_that_says_where_it_looked(
    lab: ContainerdLab, tmp_path: Path
) -> None:
    runtime = lab.open()
    missing = msgspec.structs.replace(
        lab.container(), image="absent:1", archive=str(tmp_path / "llm.tar")
    )

    with pytest.raises(
        PermanentError, match=r"llm\.tar on the provisioner's machine: No such file"
    ) as caught:
        await runtime.start(missing)

    assert () == await runtime.containers()
    assert str(caught.value).endswith("then retry: ollama-fleet instances replace --phase failed")


async def test_an_archive_that_is_no_file_is_not_read(lab: ContainerdLab, tmp_path: Path) -> None:
    """Nobody writes into this pipe: to open it would never end."""
    pipe = tmp_path / "llm.tar"
    os.mkfifo(pipe)

    with pytest.raises(PermanentError, match="it is no file"):
        await lab.open().images.ensure("pipe:1", str(pipe))


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty", "text", "missing"])
async def test_a_broken_archive_is_refused_for_good_and_leaves_no_image(
    lab: ContainerdLab, tmp_path: Path, damage: str
) -> None:
    archive = image_archive(
        tmp_path / f"{damage}.tar", layer_with("etc/text", f"weights {damage}".encode())
    )
    content = archive.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "corrupt": content.replace(b"weights", b"Weights"),
        "empty": b"",
        "text": b"this is no archive\n" * 100,
    }
    archive.unlink()
    if damage in damaged:
        archive.write_bytes(damaged[damage])
    runtime = lab.open()

    with pytest.raises(PermanentError, match=rf"{damage}:1|{damage}\.tar"):
        await runtime.images.import_archive(f"{damage}:1", archive)

    with pytest.raises(PermanentError, match="import an archive"):
        await runtime.images.ensure(f"{damage}:1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llm:1", False),
        ("library/llm:1", False),
        ("localhost/llm:1", True),
        ("registry:5000/llm", True),
        ("registry.example/a/b@sha256:0", True),
    ],
)
def test_a_registry_is_told_from_a_path(name: str, expected: bool) -> None:
    assert expected == has_registry(name)


def test_each_layer_is_named_by_all_below_it() -> None:
    def digest(text: str) -> str:
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    second = digest(f"{FIRST} {SECOND}")

    assert [FIRST] == chain_ids((FIRST,))
    assert [FIRST, second, digest(f"{second} {THIRD}")] == chain_ids((FIRST, SECOND, THIRD))


def test_an_image_may_say_nothing() -> None:
    assert ImageConfig() == msgspec.json.decode(b'{"Env": null, "Labels": {}}', type=ImageConfig)


def layer_with(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        layer.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Content:
    """A daemon that has one image, `llm:1`, and the documents that it is made of."""

    endpoint, deadline_s = "unix:///nowhere", DEADLINE_S

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self._documents = documents

    async def call(self, *_: object, **__: object) -> messages.GetImageReply:
        reply = messages.GetImageReply()
        reply.image.target.digest = "top"
        return reply

    async def stream(
        self, method: object, request: messages.ReadContentRequest, **_: object
    ) -> AsyncIterator[messages.ReadContentReply]:
        yield messages.ReadContentReply(data=json.dumps(self._documents[request.digest]).encode())


def images(*architectures: str) -> Images:
    """Return what reads an image that is made for these, and tells by its user which it took."""
    documents: dict[str, Any] = {
        "top": {
            "manifests": [
                {"digest": f"for-{one}", "platform": {"architecture": one, "os": "linux"}}
                for one in architectures
            ]
        }
    }
    for one in architectures:
        documents[f"for-{one}"] = {"config": {"digest": f"config-{one}"}}
        documents[f"config-{one}"] = {"rootfs": {"diff_ids": [LAYER]}, "config": {"User": one}}
    return reading(documents)


def reading(documents: Mapping[str, Any]) -> Images:
    content: Any = Content(documents)
    pulls = ImagePulls("n1", SystemClock(), asyncio.Semaphore())
    return Images(
        content, pulls, snapshotter="overlayfs", architecture="amd64", registries_dir="/x"
    )


@pytest.mark.parametrize("order", [("arm64", "amd64"), ("amd64", "arm64")])
async def test_of_an_image_for_several_platforms_the_nodes_is_taken(order: Sequence[str]) -> None:
    assert "amd64" == (await images(*order).ensure("llm:1")).config.User


async def test_an_image_for_other_platforms_only_is_refused_for_good() -> None:
    with pytest.raises(PermanentError, match="made for other machines than linux/amd64"):
        await images("arm64", "riscv64").ensure("llm:1")


@pytest.mark.parametrize("layers", [(), None])
async def test_an_image_without_layers_is_refused_for_good(layers: Sequence[str] | None) -> None:
    documents = {
        "top": {"config": {"digest": "config"}, "layers": layers},
        "config": {"rootfs": {"diff_ids": layers}},
    }

    with pytest.raises(PermanentError, match=r"'llm:1' has no layers, .* build it again"):
        await reading(documents).ensure("llm:1")


class Windowed:
    """The daemon's end of an import, which takes one chunk at a time."""

    def __init__(self) -> None:
        self.free_bytes = 0
        self.taken = b""
        self.is_done = False

    async def read(self) -> Any:
        self.free_bytes += CHUNK_BYTES
        update = messages.WindowUpdate(update=CHUNK_BYTES)
        return api.wrapped(f"{api.TRANSFER}.WindowUpdate", update)

    async def write(self, wrapped: Any) -> None:
        data = messages.Data.FromString(wrapped.value).data
        assert len(data) <= self.free_bytes
        self.free_bytes -= len(data)
        self.taken += data

    async def done_writing(self) -> None:
        self.is_done = True


async def test_an_archive_is_sent_no_faster_than_the_daemon_takes_it() -> None:
    archive = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"end"
    stream: Any = Windowed()

    await feed(stream, io.BytesIO(archive))

    assert (archive, True) == (stream.taken, stream.is_done)


class Node:
    """A node to which an image takes 100 s."""

    def __init__(self, name: str = "n1", *, imports: asyncio.Semaphore | None = None) -> None:
        self.took_s = 100.0
        self.faults: list[Exception] = []
        self.n_pulls = 0
        self.pulls = ImagePulls(name, VirtualClock(), imports or asyncio.Semaphore())

    async def pull(self, *, is_import: bool = True) -> Image:
        return await self.pulls.pull("llm:1", self._pull, is_import=is_import)

    async def _pull(self) -> Image:
        self.n_pulls += 1
        await VirtualClock().sleep(self.took_s)
        if self.faults:
            raise self.faults.pop()
        return PULLED


def test_all_who_want_an_image_share_one_pull_and_how_it_ends() -> None:
    async def scene() -> tuple[list[Image | BaseException], list[Image], int]:
        node = Node()
        node.faults = [PermanentError("no such image")]
        failed = await asyncio.gather(*(node.pull() for _ in range(3)), return_exceptions=True)
        return failed, await asyncio.gather(*(node.pull() for _ in range(3))), node.n_pulls

    failed, pulled, n_pulls = virtual_run(scene())

    assert ["no such image"] * 3 == [str(one) for one in failed]
    assert ([PULLED] * 3, 2) == (pulled, n_pulls)


def test_a_pull_outlives_those_who_wait_for_it_and_they_are_told_for_what() -> None:
    async def scene() -> tuple[list[str], int, float]:
        node = Node()
        notes = []
        for _ in range(3):
            waiting = asyncio.create_task(notes_of(node.pull()))
            await VirtualClock().sleep(30.0)
            waiting.cancel()
            notes += await waiting
        await node.pull()
        return notes, node.n_pulls, VirtualClock().monotonic_s()

    notes, n_pulls, took_s = virtual_run(scene())

    assert ["its image 'llm:1' is still being pulled to n1"] * 3 == notes
    assert (1, 100.0) == (n_pulls, took_s)


def test_a_fault_that_nobody_waits_for_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        node = Node()
        node.faults = [TransientError("the registry went away")]
        waiting = asyncio.create_task(node.pull())
        await VirtualClock().sleep(30.0)
        waiting.cancel()
        await VirtualClock().sleep(100.0)

    virtual_run(scene())

    (warning,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    expected = "image pull fails image=llm:1 node=n1 error=the registry went away"
    assert expected == warning.getMessage()


def test_a_pull_that_never_ends_is_given_up_at_its_deadline_which_leaves_waiting_out() -> None:
    async def scene() -> tuple[list[Image | BaseException], float]:
        imports = asyncio.Semaphore(1)
        nodes = [Node(f"n{number}", imports=imports) for number in range(3)]
        nodes[0].took_s, nodes[1].took_s = 1e6, TRANSFER_LIMIT_S - 1.0
        pulls = (node.pull() for node in nodes)
        return await asyncio.gather(*pulls, return_exceptions=True), VirtualClock().monotonic_s()

    (failed, *pulled), took_s = virtual_run(scene())

    assert "'llm:1' is not on n0 after 3,600 s" in str(failed)
    assert isinstance(failed, TransientError)
    assert ([PULLED] * 2, 2 * TRANSFER_LIMIT_S + 99.0) == (pulled, took_s)


@pytest.mark.parametrize(("is_import", "expected_s"), [(True, 200.0), (False, 100.0)])
def test_only_so_many_are_imported_at_once_and_pulls_need_not_wait(
    is_import: bool, expected_s: float
) -> None:
    async def scene() -> float:
        imports = asyncio.Semaphore(2)
        nodes = [Node(f"n{number}", imports=imports) for number in range(4)]
        await asyncio.gather(*(node.pull(is_import=is_import) for node in nodes))
        return VirtualClock().monotonic_s()

    assert expected_s == virtual_run(scene())
