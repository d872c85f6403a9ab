"""Bring images to a node, and say what units made of them need to know.

In:   the name of an image; an OCI archive to import, or the registry that the name begins with.
Out:  Images: the snapshot to start from, and what the image says about running it.
Fails with LastingError (no such image, a broken archive), or another UnitError.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import grpc
import msgspec

from provisioning.errors import LastingError, TransientError
from provisioning.runtime import containerd_api as api
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd_bringing import Bringing
from provisioning.runtime.containerd_daemon import Daemon, RefusedError
from provisioning.runtime.containerd_image import Image, ImageConfig, chain_ids
from provisioning.runtime.containerd_transfers import TRIED_AGAIN, Transfers, has_registry
from provisioning.runtime.containerd_turns import Turn


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
        bringing: Bringing,
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
        self._bringing = bringing
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
            LastingError: It is nowhere to be had.
        """
        if found := await self._find(name):
            return found
        if not archive and not has_registry(name):
            raise LastingError(
                f"the image {name!r} is not on {self._daemon.endpoint}; import an archive of "
                "it, set the pool's `archive`, or begin its name with a registry, as "
                f"registry.example:5000/llm:1; {TRIED_AGAIN}"
            )
        return await self._bringing.bring(
            name,
            lambda: self._find(name),
            lambda turn: self._brought(name, archive, turn),
            is_import=bool(archive),
        )

    async def import_archive(self, name: str, archive: Path) -> None:
        """Bring an OCI archive to the node, and unpack it; an older image of the name is replaced.

        Raises:
            LastingError: The archive cannot be read, or is no image.
        """
        await self._transfers.import_archive(name, archive, Turn(None))
        await self._must_find(name)

    async def _brought(self, name: str, archive: str, turn: Turn) -> Image:
        if archive:
            await self._transfers.import_archive(name, Path(archive), turn)
        else:
            await self._transfers.pull(name)
        return await self._must_find(name)

    async def _find(self, name: str) -> Image | None:
        try:
            reply = await self._daemon.call(api.GET_IMAGE, messages.GetImageRequest(name=name))
        except RefusedError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return None
            if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                raise LastingError(f"{name!r} is no name of an image: {error.details}") from error
            raise
        digest = reply.image.target.digest
        known = self._known.get(name)
        if known is None or known.digest != digest:
            known = self._known[name] = await self._read(name, digest)
        return known

    async def _must_find(self, name: str) -> Image:
        if found := await self._find(name):
            return found
        raise TransientError(f"the image {name!r} was brought to the node and is gone again")

    async def _read(self, name: str, digest: str) -> Image:
        manifest = await self._document(digest, _Document)
        while manifest.manifests:
            manifest = await self._document(self._chosen(manifest.manifests), _Document)
        if manifest.config is None:
            raise LastingError(f"{digest} is no manifest of an image: it has no config")
        config = await self._document(manifest.config.digest, _ConfigDocument)
        if not config.rootfs.diff_ids:
            raise LastingError(
                f"the image {name!r} has no layers, and so no program to run; build it again, "
                "with files"
            )
        size_bytes = sum(layer.size for layer in manifest.layers or ())
        return Image(digest, chain_ids(config.rootfs.diff_ids)[-1], config.config, size_bytes)

    def _chosen(self, references: tuple[_Reference, ...]) -> str:
        for reference in references:
            if reference.platform in {None, self._platform}:
                return reference.digest
        raise LastingError(
            f"the image is made for other machines than {self._platform.os}/"
            f"{self._platform.architecture}; take one that is made for this kind"
        )

    async def _document(self, digest: str, kind: type[Document]) -> Document:
        request = messages.ReadContentRequest(digest=digest)
        stream = self._daemon.stream(api.READ_CONTENT, request, deadline_s=self._daemon.deadline_s)
        parts = [part.data async for part in stream]
        try:
            return msgspec.json.decode(b"".join(parts), type=kind)
        except msgspec.DecodeError as error:
            raise LastingError(f"{digest} is no document of an OCI image: {error}") from error
