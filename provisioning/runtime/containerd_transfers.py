"""Transfer images to a node: pulled by it from a registry, or sent to it as an archive.

In:   the name of an image; an OCI archive to import, or the registry that the name begins with.
Out:  nothing; the node has the image, unpacked.
Fails with LastingError (no such image, a broken archive), or another UnitError.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import BinaryIO

import grpc
from google.protobuf.any_pb2 import Any

from provisioning.errors import LastingError, TransientError, UnitError
from provisioning.runtime import containerd_api as api
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd_daemon import Daemon, RefusedError
from provisioning.runtime.containerd_turns import Turn

TRANSFER_LIMIT_S = 3600.0
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
TRIED_AGAIN = (
    "once that is mended, have it tried again: ollama-fleet instances replace --phase failed"
)
BROKEN_TEXTS = ("invalid", "archive/tar", "unsupported", "unrecognized")


class StreamLostError(TransientError):
    """The stream that an image comes by is gone; a new one may last."""


class CutOffError(TransientError):
    """What came of the image ended too early."""


class Transfers:
    """What brings images to one namespace of a daemon."""

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
            LastingError: The registry does not have it, or not for us.
        """
        resolver = messages.RegistryResolver(host_dir=self._registries_dir)
        source = messages.OCIRegistry(reference=name, resolver=resolver)
        await self._transfer(name, api.wrapped(f"{api.TRANSFER}.OCIRegistry", source))

    async def import_archive(self, name: str, archive: Path, turn: Turn) -> None:
        """Bring an OCI archive to the node, and unpack it; an older image of the name is replaced.

        The turn is told what is sent.

        Raises:
            LastingError: The archive cannot be read, or is no image.
        """
        for _ in range(STREAM_TRIES):
            try:
                with await asyncio.to_thread(_opened, archive) as file:
                    await self._send(name, file, turn)
            except OSError as error:
                raise LastingError(
                    f"cannot read the image {archive} on the provisioner's machine: "
                    f"{error.strerror}; {TRIED_AGAIN}"
                ) from error
            except StreamLostError:
                continue
            return
        raise TransientError(
            f"cannot bring the image {name!r} to the node: containerd lost the stream "
            f"{STREAM_TRIES} times"
        )

    async def _send(self, name: str, file: BinaryIO, turn: Turn) -> None:
        stream_id = f"import-{secrets.token_hex(8)}"
        source = messages.ImageImportStream(stream=stream_id)
        async with self._daemon.conversation(api.OPEN_STREAM) as stream:
            await stream.write(api.wrapped(api.STREAM_INIT, messages.StreamInit(id=stream_id)))
            await stream.read()  # the daemon knows the stream's name now
            sending = asyncio.ensure_future(_feed(stream, file, turn))
            try:
                wrapped = api.wrapped(f"{api.TRANSFER}.ImageImportStream", source)
                await self._transfer(name, wrapped)
            except CutOffError as error:
                kind = LastingError if await _has_sent_all(sending) else StreamLostError
                raise kind(str(error)) from error
            finally:
                sending.cancel()
                await asyncio.wait([sending])

    async def _transfer(self, name: str, source: Any) -> None:
        platform = messages.Platform(os="linux", architecture=self._architecture)
        unpack = messages.UnpackConfiguration(platform=platform, snapshotter=self._snapshotter)
        store = messages.ImageStore(name=name, unpacks=[unpack])
        destination = api.wrapped(f"{api.TRANSFER}.ImageStore", store)
        request = messages.TransferRequest(source=source, destination=destination)
        try:
            await self._daemon.call(api.TRANSFER_IMAGE, request, deadline_s=TRANSFER_LIMIT_S)
        except RefusedError as error:
            raise transfer_error(name, error) from error


def has_registry(name: str) -> bool:
    """Say whether an image's name begins with a host, rather than with a part of its path."""
    host, slash, _ = name.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost")


def transfer_error(name: str, error: RefusedError) -> UnitError:
    """Return what a refused transfer means: whether it may go well with the next try."""
    if error.code is grpc.StatusCode.NOT_FOUND and error.details == STREAM_LOST:
        return StreamLostError(f"cannot bring the image {name!r} to the node: stream not found")
    if ENDED in error.details:
        return CutOffError(f"cannot bring the image {name!r} to the node: {error.details}")
    is_broken = error.code in BROKEN or any(text in error.details for text in BROKEN_TEXTS)
    kind = LastingError if is_broken else TransientError
    return kind(f"cannot bring the image {name!r} to the node: {error.details}")


async def _has_sent_all(sending: asyncio.Future[bool]) -> bool:
    done, _ = await asyncio.wait([sending], timeout=LAST_WORD_S)
    return bool(done) and sending.result()


def _opened(archive: Path) -> BinaryIO:
    """Open a file to be read; a pipe or a device might never end, or never begin."""
    if archive.exists() and not archive.is_file():
        raise LastingError(f"cannot read the image {archive}: it is no file; {TRIED_AGAIN}")
    return archive.open("rb")


async def _feed(stream: grpc.aio.StreamStreamCall[Any, Any], file: BinaryIO, turn: Turn) -> bool:
    """Send a file, never more than the daemon's window allows; windows add up.

    Returns whether that was all of it.
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
                window += messages.WindowUpdate.FromString(update.value).update
            await stream.write(api.wrapped(f"{api.TRANSFER}.Data", messages.Data(data=chunk)))
            window -= len(chunk)
            turn.goes_on()
        await stream.done_writing()
        turn.has_sent_all()
        return True
    return False
