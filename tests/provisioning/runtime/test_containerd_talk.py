"""How we talk with a daemon, where a real one would not show it: what it may be slow or odd in."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
import msgspec
import pytest

from ollama_fleet.clock import Clock
from provisioning.errors import (
    ContainerError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import DEADLINE_S, RefusedError, meaning_of
from provisioning.runtime.containerd.containers import Settings, new_record
from provisioning.runtime.containerd.images import (
    CHUNK_BYTES,
    Bringing,
    Image,
    ImageConfig,
    Images,
    _feed,
)
from provisioning.runtime.containerd.runtime import Events
from provisioning.runtime.image_pulls import Turn, Turns
from tests.provisioning.runtime.test_containerd_pure import UNIT

LAYER = "sha256:layer"


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
    bringing = Bringing("n1", Sleeps(), Turns())
    return Images(
        content, bringing, snapshotter="overlayfs", architecture="amd64", registries_dir="/x"
    )


@pytest.mark.parametrize("order", [("arm64", "amd64"), ("amd64", "arm64")])
async def test_of_an_image_for_several_platforms_the_nodes_is_taken(order: Sequence[str]) -> None:
    assert "amd64" == (await images(*order).ensure("llm:1")).config.User


async def test_an_image_for_other_platforms_only_is_refused_for_good() -> None:
    with pytest.raises(PermanentError, match="made for other machines than linux/amd64"):
        await images("arm64", "riscv64").ensure("llm:1")


class Lacking(Content):
    """A daemon that has no image."""

    async def call(self, *_: object, **__: object) -> messages.GetImageReply:
        raise RefusedError("Get", grpc.StatusCode.NOT_FOUND, "image: not found")


class Noting:
    """Brings nothing, and notes which are imports."""

    def __init__(self) -> None:
        self.imports: dict[str, bool] = {}

    async def bring(self, name: str, *_: object, is_import: bool) -> Image:
        self.imports[name] = is_import
        return Image("top", LAYER, ImageConfig())


async def test_what_has_an_archive_is_imported_and_what_names_a_registry_is_pulled() -> None:
    noting: Any = Noting()
    lacking: Any = Lacking({})
    images = Images(
        lacking, noting, snapshotter="overlayfs", architecture="amd64", registries_dir="/x"
    )

    await images.ensure("llm:1", "/srv/llm.tar")
    await images.ensure("registry.example/llm:1", "/srv/llm.tar")
    await images.ensure("registry.example/llm:2")
    with pytest.raises(PermanentError, match="set the pool's `archive`"):
        await images.ensure("llm:2")

    expected = {"llm:1": True, "registry.example/llm:1": True, "registry.example/llm:2": False}
    assert expected == noting.imports


@pytest.mark.parametrize("layers", [(), None])
async def test_an_image_without_layers_is_refused_for_good(layers: Sequence[str] | None) -> None:
    documents = {
        "top": {"config": {"digest": "config"}, "layers": layers},
        "config": {"rootfs": {"diff_ids": layers}},
    }

    with pytest.raises(PermanentError, match=r"'llm:1' has no layers, .* build it again"):
        await reading(documents).ensure("llm:1")


async def test_an_image_is_as_large_as_its_layers() -> None:
    documents = {
        "top": {"config": {"digest": "config"}, "layers": [{"digest": LAYER, "size": 7}] * 2},
        "config": {"rootfs": {"diff_ids": [LAYER, LAYER]}},
    }

    assert 14 == (await reading(documents).ensure("llm:1")).size_bytes


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

    await _feed(stream, io.BytesIO(archive), Turn(None))

    assert (archive, True) == (stream.taken, stream.is_done)


class Told(Turn):
    """A turn that notes what it is told."""

    def __init__(self) -> None:
        super().__init__(None)
        self.words: list[str] = []

    def goes_on(self) -> None:
        self.words.append("goes on")

    def has_sent_all(self) -> None:
        self.words.append("has sent all")


async def test_each_chunk_that_is_sent_is_told_and_the_end_when_all_is_sent() -> None:
    stream: Any = Windowed()
    told = Told()

    await _feed(stream, io.BytesIO(bytes(3 * CHUNK_BYTES)), told)

    assert [*["goes on"] * 3, "has sent all"] == told.words


class Sated(Windowed):
    """The daemon's end of an import that takes one chunk, and no more."""

    async def read(self) -> Any:
        return grpc.aio.EOF if self.taken else await super().read()


async def test_what_the_daemon_does_not_take_is_not_told_as_sent() -> None:
    stream: Any = Sated()
    told = Told()

    await _feed(stream, io.BytesIO(bytes(3 * CHUNK_BYTES)), told)

    assert ["goes on"] == told.words


class Sleeps(Clock):
    """A clock that notes how long is slept, and that ends it all at the twelfth time."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        if len(self.slept_s) == 12:
            raise asyncio.CancelledError

    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return 0.0


class Ending:
    """A daemon that has nothing to tell."""

    endpoint = "unix:///nowhere"

    @contextlib.asynccontextmanager
    async def begun(self, *_: object) -> AsyncIterator[AsyncIterator[messages.Envelope]]:
        yield self._nothing()

    async def _nothing(self) -> AsyncIterator[messages.Envelope]:
        nothing: tuple[messages.Envelope, ...] = ()
        for envelope in nothing:
            yield envelope


async def test_a_daemon_that_is_down_is_asked_ever_more_seldom_until_it_has_been_back() -> None:
    clock, n_tries = Sleeps(), 0

    async def look() -> None:
        nonlocal n_tries
        n_tries += 1
        if n_tries != 10:
            raise TransientError("down")

    async def heard(topic: str, name: str) -> None: ...

    daemon: Any = Ending()
    events = Events(daemon, "lab", clock, look=look, heard=heard)
    events.listen()
    assert events._listening is not None
    await asyncio.wait([events._listening])

    down_s = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert [*down_s, 0.1, 0.2, 0.4] == clock.slept_s


async def test_a_fault_of_our_own_is_told_and_does_not_end_the_listening(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Sleeps()

    async def look() -> None:
        if len(clock.slept_s) == 3:
            raise FileNotFoundError(2, "No such file", "/sys/fs/cgroup/memory/ollama-fleet.n1")

    async def heard(topic: str, name: str) -> None: ...

    daemon: Any = Ending()
    events = Events(daemon, "lab", clock, look=look, heard=heard)
    events.listen()
    assert events._listening is not None
    await asyncio.wait([events._listening])

    assert [0.1, 0.1, 0.1, 5.0, 0.1] == clock.slept_s[:5]
    (told,) = caplog.records
    assert "ollama-fleet.n1" in (told.exc_text or "")


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("failed to write: No space left on device", ResourceExhaustedError),
        ("OCI runtime create failed: fork: Cannot allocate memory", ResourceExhaustedError),
        ("OCI runtime create failed: exec `serve`: No such file or directory", PermanentError),
        ("parent snapshot sha256:1 does not exist: not found", PermanentError),
        ("OCI runtime create failed: the shim went away", TransientError),
        (
            "OCI runtime create failed: creating cgroup directory "
            "`/sys/fs/cgroup/pids/ollama-fleet.n1/lab.pool-1.1`: No such file or directory",
            TransientError,
        ),
        ("lease not found", TransientError),
        ("OCI runtime create failed: mount_setattr `/x`: Function not implemented", PermanentError),
    ],
)
def test_a_refusal_is_taken_for_what_the_caller_can_do(
    details: str, kind: type[ContainerError]
) -> None:
    error = RefusedError("Create on n1", grpc.StatusCode.UNKNOWN, details)

    assert kind is type(meaning_of(UNIT, error))


def test_a_kernel_that_cannot_keep_a_mount_read_only_is_told_of_and_never_got_round() -> None:
    details = "OCI runtime create failed: mount_setattr `/models`: Function not implemented"
    error = RefusedError("Create on n1", grpc.StatusCode.UNKNOWN, details)
    bare = msgspec.structs.replace(UNIT, mounts=())

    assert "from Linux 5.12 on" in str(meaning_of(UNIT, error))
    assert TransientError is type(meaning_of(bare, error))


def test_what_is_no_valid_request_is_refused_for_good() -> None:
    error = RefusedError("Create on n1", grpc.StatusCode.INVALID_ARGUMENT, "a name")

    assert PermanentError is type(meaning_of(UNIT, error))


def test_fleets_of_one_node_have_no_cgroup_in_common() -> None:
    image = Image("sha256:1", LAYER, ImageConfig())

    document = msgspec.json.decode(new_record(UNIT, image, Settings().of("n1")).spec.value)

    assert "/ollama-fleet.n1/llms.pool-7.2" == document["linux"]["cgroupsPath"]
