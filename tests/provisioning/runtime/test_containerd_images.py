from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import ssl
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import trustme
from aiohttp import web

from provisioning.errors import ContainerError, PermanentError, TransientError
from provisioning.runtime.containerd.client import RefusedError
from provisioning.runtime.containerd.images import (
    Image,
    ImageConfig,
    chain_ids,
    has_registry,
    transfer_error,
)
from provisioning.runtime.image_pulls import Turn
from tests.containerd import IMAGE, Containerd, image_archive, running_containerd
from tests.ports import free_port
from tests.provisioning.runtime.containers import ContainerdLab
from tests.provisioning.runtime.contract import FLEET, running
from tests.provisioning.runtime.test_containerd_talk import Told
from tests.waiting import eventually

Transfer = Callable[[str, Any], Awaitable[None]]
Bring = Callable[[Turn], Awaitable[Image]]

LARGE_BYTES = 100_000
FIRST, SECOND, THIRD = (f"sha256:{digit * 64}" for digit in "123")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def containerd(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[Containerd]:
    authorities = tmp_path_factory.mktemp("authorities") / "authority.pem"
    authority.cert_pem.write_to_path(str(authorities))
    folder = tmp_path_factory.mktemp("containerd")
    with running_containerd(folder, authorities=authorities) as daemon:
        yield daemon


@pytest.fixture
async def lab(containerd: Containerd, busybox: Path) -> AsyncIterator[ContainerdLab]:
    lab = ContainerdLab(containerd, busybox)
    await lab.prepare(FLEET)
    yield lab
    await lab.close()


class Registry:
    """A registry with one image, which serves what the distribution specification asks for."""

    def __init__(self, archive: Path) -> None:
        self.holds(archive)
        self.asked: list[str] = []
        self.is_cut_off = False
        """Whether what is large breaks off amid it, as behind a proxy that restarts."""

    def holds(self, archive: Path) -> None:
        """Serve this image from now on."""
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
        whole = self._answer(request.match_info["reference"], "application/octet-stream")
        if not self.is_cut_off or len(content := bytes_of(whole)) < LARGE_BYTES:
            return whole
        part = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await part.prepare(request)
        await part.write(content[: LARGE_BYTES // 2])
        assert request.transport is not None
        request.transport.close()
        return part

    def _answer(self, digest: str, kind: str) -> web.Response:
        if digest not in self._blobs:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        headers = {"Content-Type": kind, "Docker-Content-Digest": digest}
        return web.Response(body=self._blobs[digest], headers=headers)


def bytes_of(answer: web.Response) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


@pytest.fixture
async def registry(busybox: Path, authority: trustme.CA) -> AsyncIterator[tuple[Registry, str]]:
    """A registry, and where it is."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
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
    slow = Slow(runtime.images._transfers._transfer)
    monkeypatch.setattr(runtime.images._transfers, "_transfer", slow.transfer)
    container = msgspec.structs.replace(lab.container(), image=name, archive=archive)
    start = asyncio.create_task(notes_of(runtime.start(container)))
    await slow.has_begun.wait()

    start.cancel()
    notes = await start
    slow.may_go_on.set()
    await runtime.start(container)

    assert [f"its image {name!r} is still being brought to node-1"] == notes
    assert 1 == slow.n_begun
    assert (running(container),) == await runtime.containers()


async def notes_of(start: Awaitable[None]) -> list[str]:
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

    async def transfer(self, name: str, source: Any) -> None:
        self.n_begun += 1
        self.has_begun.set()
        await self.may_go_on.wait()
        await self._transfer(name, source)


async def test_a_runtime_that_is_closed_brings_nothing_any_more(
    lab: ContainerdLab, busybox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = lab.open()
    slow = Slow(runtime.images._transfers._transfer)
    monkeypatch.setattr(runtime.images._transfers, "_transfer", slow.transfer)
    container = msgspec.structs.replace(lab.container(), image="closed:1", archive=str(busybox))
    start = asyncio.create_task(runtime.start(container))
    await slow.has_begun.wait()

    await runtime.close()
    slow.may_go_on.set()

    with pytest.raises(TransientError, match="'closed:1' is brought to node-1 no more"):
        await start


async def test_an_image_that_its_registry_does_not_have_is_refused_for_good(
    lab: ContainerdLab, registry: tuple[Registry, str]
) -> None:
    _, host = registry
    runtime = lab.open()

    with pytest.raises(PermanentError, match="llm:2"):
        await runtime.start(msgspec.structs.replace(lab.container(), image=f"{host}/llm:2"))

    assert () == await runtime.containers()


async def test_a_pull_that_is_cut_off_again_and_again_may_go_well_later(
    lab: ContainerdLab, tmp_path: Path, registry: tuple[Registry, str]
) -> None:
    server, host = registry
    server.holds(image_archive(tmp_path / "cut.tar", layer_with("weights", os.urandom(2**20))))
    images = lab.open().images
    server.is_cut_off = True

    with pytest.raises(TransientError, match="unexpected EOF"):
        await images.ensure(f"{host}/llm:1")

    server.is_cut_off = False
    assert (await images.ensure(f"{host}/llm:1")).size_bytes > 2**20


async def test_a_registry_that_does_not_answer_may_do_so_later(lab: ContainerdLab) -> None:
    port = free_port()
    runtime = lab.open()

    with pytest.raises(ContainerError, match="connection refused") as caught:
        await runtime.start(
            msgspec.structs.replace(lab.container(), image=f"127.0.0.1:{port}/llm:1")
        )

    assert not isinstance(caught.value, PermanentError)


async def test_importing_again_changes_nothing(lab: ContainerdLab, busybox: Path) -> None:
    images = lab.open().images
    before = await images.ensure(IMAGE)

    await images.import_archive(IMAGE, busybox)

    assert before == await images.ensure(IMAGE)


@pytest.mark.parametrize("n_lost", [1, 4])
@pytest.mark.parametrize("lost", ["before", "amid"])
async def test_an_import_whose_stream_is_collected_as_garbage_begins_anew(
    lab: ContainerdLab, busybox: Path, monkeypatch: pytest.MonkeyPatch, n_lost: int, lost: str
) -> None:
    images = lab.open().images
    monkeypatch.setattr(
        images._transfers, "_transfer", losing(n_lost, images._transfers._transfer, LOST[lost])
    )

    await images.import_archive("lost:1", busybox)

    assert (await images.ensure(IMAGE)).snapshot == (await images.ensure("lost:1")).snapshot


async def test_an_import_that_loses_every_stream_may_go_well_later(
    lab: ContainerdLab, busybox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = lab.open().images
    monkeypatch.setattr(
        images._transfers, "_transfer", losing(5, images._transfers._transfer, LOST["before"])
    )

    with pytest.raises(TransientError, match="'lost:2' to the node: containerd lost the stream"):
        await images.import_archive("lost:2", busybox)


LOST = {
    "before": RefusedError("x", grpc.StatusCode.NOT_FOUND, "not found"),
    "amid": RefusedError("x", grpc.StatusCode.UNKNOWN, "failed to ingest: unexpected EOF"),
}
"""What containerd says of a stream that it has collected before, or amid, the transfer."""


def losing(n: int, transfer: Transfer, lost: RefusedError) -> Transfer:
    """Let a transfer lose its stream n times, which containerd does not do on demand."""
    left = iter(range(n))

    async def transfer_or_lose(name: str, source: Any) -> None:
        if next(left, None) is not None:
            raise transfer_error(name, lost)
        await transfer(name, source)

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


async def test_an_import_tells_its_turn_that_it_goes_on_and_when_all_is_sent(
    lab: ContainerdLab, busybox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()

    async def bring(_: str, __: object, bring: Bring, *, is_import: bool) -> Image:
        return await bring(told)

    images = lab.open().images
    monkeypatch.setattr(images._bringing, "bring", bring)

    await images.ensure("told:1", str(busybox))

    assert ["goes on", "has sent all"] == list(dict.fromkeys(told.words))
    assert "has sent all" == told.words[-1]


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
    assert str(caught.value).endswith("tried again: ollama-fleet instances replace --phase failed")


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


async def test_an_image_for_other_machines_is_refused_for_good(
    lab: ContainerdLab, busybox: Path
) -> None:
    settings = msgspec.structs.replace(lab.containerd.settings, architecture="riscv64")
    runtime = lab.open(settings=settings)

    with pytest.raises(PermanentError):
        await runtime.images.import_archive("other:1", busybox)


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
