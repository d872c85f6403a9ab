"""Pull or import images to a node, each once, however many instances wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import grpc
import msgspec
from google.protobuf.any_pb2 import Any

from ollama_fleet.clock import Clock
from provisioning.errors import ContainerError, PermanentError, TransientError
from provisioning.runtime import containerd_messages_pb2 as pb
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import Daemon, RefusedError

TRANSFER_LIMIT_S = 3600.0
MB = 1e6
CHUNK_BYTES = 32 * 1024
BROKEN = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""What a transfer answers where another try gives the same."""
STREAM_LOST = "not found"
"""All that containerd says where its collection of garbage, which follows on any removal, has taken
the stream before the transfer asked for it; of missing content it says which."""
STREAM_TRIES = 5
ENDED = "unexpected EOF"
"""The archive is cut off; or, where we have not sent all of it yet, the stream; or a registry's
answer, which is whole the next time."""
LAST_WORD_S = 1.0
TRIED_AGAIN = "then retry: ollama-fleet instances replace --phase failed"
BROKEN_TEXTS = ("invalid", "archive/tar", "unsupported", "unrecognized")


log = logging.getLogger(__name__)


class ImageConfig(msgspec.Struct, frozen=True):
    """What an image says about running it; names as in the OCI image specification."""

    Env: tuple[str, ...] | None = None
    Entrypoint: tuple[str, ...] | None = None
    Cmd: tuple[str, ...] | None = None
    WorkingDir: str = ""
    User: str = ""


class Image(msgspec.Struct, frozen=True):
    """An image that a node has, unpacked."""

    digest: str
    snapshot: str
    """The chain id of its topmost layer."""
    config: ImageConfig
    size_bytes: int = 0
    """Of its layers, as they are carried."""


def chain_ids(diff_ids: tuple[str, ...]) -> list[str]:
    """Return the names of the snapshots of layers, each upon those before it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if not chain:
            chain.append(diff_id)
            continue
        both = f"{chain[-1]} {diff_id}".encode()
        chain.append(f"sha256:{hashlib.sha256(both).hexdigest()}")
    return chain


class StreamLostError(TransientError):
    """The stream that an image comes by is gone; a new one may last."""


class CutOffError(TransientError):
    """What came of the image ended too early."""


class Transfers:
    """Moves images into one namespace of a daemon."""

    def __init__(
        self, daemon: Daemon, *, snapshotter: str, architecture: str, registries_dir: str
    ) -> None:
        """Take what Images takes."""
        self._daemon = daemon
        self._snapshotter = snapshotter
        self._architecture = architecture
        self._registries_dir = registries_dir

    async def pull(self, name: str) -> None:
        """Let the node fetch an image from the registry that its name begins with, and unpack it.

        Raises:
            PermanentError: The registry does not have it, or not for us.
        """
        resolver = pb.RegistryResolver(host_dir=self._registries_dir)
        source = pb.OCIRegistry(reference=name, resolver=resolver)
        await self.transfer(name, api.wrapped(f"{api.TRANSFER}.OCIRegistry", source))

    async def import_archive(self, name: str, archive: Path) -> None:
        """Send an OCI archive to the node, and unpack it; an older image of the name is replaced.

        Raises:
            PermanentError: The archive cannot be read, or is no image.
        """
        for _ in range(STREAM_TRIES):
            try:
                with await asyncio.to_thread(_opened, archive) as file:
                    await self._send(name, file)
            except OSError as error:
                raise PermanentError(
                    f"cannot read the image {archive} on the provisioner's machine: "
                    f"{error.strerror}; {TRIED_AGAIN}"
                ) from error
            except StreamLostError:
                continue
            return
        raise TransientError(
            f"cannot pull the image {name!r} to the node: containerd lost the stream "
            f"{STREAM_TRIES} times"
        )

    async def _send(self, name: str, file: BinaryIO) -> None:
        stream_id = f"import-{secrets.token_hex(8)}"
        source = pb.ImageImportStream(stream=stream_id)
        async with self._daemon.conversation(api.OPEN_STREAM) as stream:
            await stream.write(api.wrapped(api.STREAM_INIT, pb.StreamInit(id=stream_id)))
            await stream.read()  # the daemon knows the stream's name now
            sending = asyncio.ensure_future(feed(stream, file))
            try:
                wrapped = api.wrapped(f"{api.TRANSFER}.ImageImportStream", source)
                await self.transfer(name, wrapped)
            except CutOffError as error:
                kind = PermanentError if await _has_sent_all(sending) else StreamLostError
                raise kind(str(error)) from error
            finally:
                sending.cancel()
                await asyncio.wait([sending])

    async def transfer(self, name: str, source: Any) -> None:
        """Have the daemon take an image from its source, and unpack it."""
        platform = pb.Platform(os="linux", architecture=self._architecture)
        unpack = pb.UnpackConfiguration(platform=platform, snapshotter=self._snapshotter)
        store = pb.ImageStore(name=name, unpacks=[unpack])
        destination = api.wrapped(f"{api.TRANSFER}.ImageStore", store)
        request = pb.TransferRequest(source=source, destination=destination)
        try:
            await self._daemon.call(api.TRANSFER_IMAGE, request, deadline_s=TRANSFER_LIMIT_S)
        except RefusedError as error:
            raise transfer_error(name, error) from error


def has_registry(name: str) -> bool:
    """Say whether an image's name begins with a host, rather than with a part of its path."""
    host, slash, _ = name.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost")


def transfer_error(name: str, error: RefusedError) -> ContainerError:
    """Return what a refused transfer means: whether it may go well with the next try."""
    if error.code is grpc.StatusCode.NOT_FOUND and error.details == STREAM_LOST:
        return StreamLostError(f"cannot pull the image {name!r} to the node: stream not found")
    if ENDED in error.details:
        return CutOffError(f"cannot pull the image {name!r} to the node: {error.details}")
    is_broken = error.code in BROKEN or any(text in error.details for text in BROKEN_TEXTS)
    kind = PermanentError if is_broken else TransientError
    return kind(f"cannot pull the image {name!r} to the node: {error.details}")


async def _has_sent_all(sending: asyncio.Future[bool]) -> bool:
    done, _ = await asyncio.wait([sending], timeout=LAST_WORD_S)
    return bool(done) and sending.result()


def _opened(archive: Path) -> BinaryIO:
    """Open a file to be read; a pipe or a device might never end, or never begin."""
    if archive.exists() and not archive.is_file():
        raise PermanentError(f"cannot read the image {archive}: it is no file; {TRIED_AGAIN}")
    return archive.open("rb")


async def feed(stream: grpc.aio.StreamStreamCall[Any, Any], file: BinaryIO) -> bool:
    """Send a file, never more than the daemon's window allows; windows add up.

    Returns whether it sent all.
    """
    window = 0
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            chunk = await asyncio.to_thread(file.read, CHUNK_BYTES)
            if not chunk:
                break
            while window < len(chunk):
                update = await stream.read()
                if not isinstance(update, Any):
                    return False  # the daemon has heard enough
                window += pb.WindowUpdate.FromString(update.value).update
            await stream.write(api.wrapped(f"{api.TRANSFER}.Data", pb.Data(data=chunk)))
            window -= len(chunk)
        await stream.done_writing()
        return True
    return False


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] | None
    """None: written by a program that has no other word for none."""


class _ConfigDocument(msgspec.Struct, frozen=True):
    rootfs: _RootFs
    config: ImageConfig = ImageConfig()


class _Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""


class _Reference(msgspec.Struct, frozen=True):
    digest: str
    platform: _Platform | None = None
    size: int = 0


class _Document(msgspec.Struct, frozen=True):
    """An index, which has manifests, or a manifest, which has a config and layers."""

    manifests: tuple[_Reference, ...] = ()
    config: _Reference | None = None
    layers: tuple[_Reference, ...] | None = None


Document = TypeVar("Document", _Document, _ConfigDocument)


class Images:
    """The images of one namespace of a daemon."""

    def __init__(
        self,
        daemon: Daemon,
        pulls: ImagePulls,
        *,
        snapshotter: str,
        architecture: str,
        registries_dir: str,
    ) -> None:
        """Take from images of several platforms the one of this architecture, as `amd64`.

        The folder, on the node, says how each registry is reached: HOST/hosts.toml, as containerd
        documents it.
        """
        self._daemon = daemon
        self._pulls = pulls
        self._transfers = Transfers(
            daemon,
            snapshotter=snapshotter,
            architecture=architecture,
            registries_dir=registries_dir,
        )
        self._platform = _Platform(architecture=architecture, os="linux")
        self._known: dict[str, Image] = {}

    async def ensure(self, name: str, archive: str = "") -> Image:
        """Return the image; where it is missing, import the archive, or pull it by its name.

        Raises:
            PermanentError: It is nowhere to be had.
        """
        if found := await self._find(name):
            return found
        if not archive and not has_registry(name):
            raise PermanentError(
                f"the image {name!r} is not on {self._daemon.endpoint}; import an archive of "
                "it, set the pool's `archive`, or begin its name with a registry, as "
                f"registry.example:5000/llm:1; {TRIED_AGAIN}"
            )
        return await self._pulls.pull(
            name, lambda: self._found_or_pulled(name, archive), is_import=bool(archive)
        )

    async def import_archive(self, name: str, archive: Path) -> None:
        """Send an OCI archive to the node, and unpack it; an older image of the name is replaced.

        Raises:
            PermanentError: The archive cannot be read, or is no image.
        """
        await self._transfers.import_archive(name, archive)
        await self._must_find(name)

    async def _found_or_pulled(self, name: str, archive: str) -> Image:
        if found := await self._find(name):  # it came while this waited
            return found
        if archive:
            await self._transfers.import_archive(name, Path(archive))
        else:
            await self._transfers.pull(name)
        return await self._must_find(name)

    async def _find(self, name: str) -> Image | None:
        try:
            reply = await self._daemon.call(api.GET_IMAGE, pb.GetImageRequest(name=name))
        except RefusedError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return None
            if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                raise PermanentError(f"{name!r} is no name of an image: {error.details}") from error
            raise
        digest = reply.image.target.digest
        known = self._known.get(name)
        if known is None or known.digest != digest:
            known = self._known[name] = await self._read(name, digest)
        return known

    async def _must_find(self, name: str) -> Image:
        if found := await self._find(name):
            return found
        raise TransientError(f"the image {name!r} was pulled to the node and is gone again")

    async def _read(self, name: str, digest: str) -> Image:
        manifest = await self._document(digest, _Document)
        while manifest.manifests:
            manifest = await self._document(self._chosen(manifest.manifests), _Document)
        if manifest.config is None:
            raise PermanentError(f"{digest} is no manifest of an image: it has no config")
        config = await self._document(manifest.config.digest, _ConfigDocument)
        if not config.rootfs.diff_ids:
            raise PermanentError(
                f"the image {name!r} has no layers, and so no program to run; build it again, "
                "with files"
            )
        size_bytes = sum(layer.size for layer in manifest.layers or ())
        return Image(digest, chain_ids(config.rootfs.diff_ids)[-1], config.config, size_bytes)

    def _chosen(self, references: tuple[_Reference, ...]) -> str:
        for reference in references:
            if reference.platform in {None, self._platform}:
                return reference.digest
        raise PermanentError(
            f"the image is made for other machines than {self._platform.os}/"
            f"{self._platform.architecture}; take one that is made for this kind"
        )

    async def _document(self, digest: str, kind: type[Document]) -> Document:
        request = pb.ReadContentRequest(digest=digest)
        stream = self._daemon.stream(api.READ_CONTENT, request, deadline_s=self._daemon.deadline_s)
        parts = [part.data async for part in stream]
        try:
            return msgspec.json.decode(b"".join(parts), type=kind)
        except msgspec.DecodeError as error:
            raise PermanentError(f"{digest} is no document of an OCI image: {error}") from error


class ImagePulls:
    """The images that are on their way to one node."""

    def __init__(self, node: str, clock: Clock, imports: asyncio.Semaphore) -> None:
        """Let imports wait for `imports`, which all nodes share: they go through our network."""
        self._node = node
        self._clock = clock
        self._imports = imports
        self._tasks: dict[str, asyncio.Task[Image]] = {}

    async def pull(
        self, name: str, pull: Callable[[], Awaitable[Image]], *, is_import: bool
    ) -> Image:
        """Return the image, pulled by whoever asks for it first.

        It goes on where the caller is cancelled; a note of the error says so.
        """
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = asyncio.create_task(self._pull(name, pull, is_import))
            task.add_done_callback(lambda ended: self._forget(name, ended))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            error.add_note(f"its image {name!r} is still being pulled to {self._node}")
            raise
        if task.cancelled():
            raise TransientError(
                f"the image {name!r} was not pulled to {self._node}: the pull was cancelled"
            )
        return task.result()

    async def close(self) -> None:
        """Cancel all pulls."""
        for task in tuple(self._tasks.values()):
            task.cancel()
            await asyncio.wait([task])

    async def _pull(
        self, name: str, pull: Callable[[], Awaitable[Image]], is_import: bool
    ) -> Image:
        async with self._imports if is_import else contextlib.nullcontext():
            begun_s = self._clock.monotonic_s()
            log.info("pulling image=%s node=%s", name, self._node)
            try:
                async with asyncio.timeout(TRANSFER_LIMIT_S):
                    image = await pull()
            except TimeoutError:
                raise TransientError(
                    f"the image {name!r} is not on {self._node} after {TRANSFER_LIMIT_S:,.0f} s; "
                    "see how fast it gets there, or import it on the node"
                ) from None
        took_s = self._clock.monotonic_s() - begun_s
        megabytes = image.size_bytes / MB
        log.info(
            "pulled image=%s node=%s size_mb=%.1f seconds=%.1f", name, self._node, megabytes, took_s
        )
        return image

    def _forget(self, name: str, ended: asyncio.Task[Image]) -> None:
        del self._tasks[name]
        if ended.cancelled() or not (error := ended.exception()):
            return
        # All who wait for it may be cancelled: then only the log says it.
        bug = None if isinstance(error, ContainerError) else error
        log.warning(
            "image pull fails image=%s node=%s error=%s", name, self._node, error, exc_info=bug
        )
