"""Write an OCI image as one archive: the same input gives the same bytes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

MEDIA = "application/vnd.oci.image"
TAG = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
"""What `ctr images import` calls the image."""


def digest_of(content: bytes) -> str:
    """Return the name of a blob."""
    return f"sha256:{sha256(content).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Layer:
    """The content of one folder."""

    blob: bytes
    """Compressed."""
    diff_id: str
    """Digest of what is compressed."""


def layer_of(root: Path, date_s: int) -> Layer:
    """Return a folder's content as a layer: sorted, owned by root, with one date."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(root.rglob("*")):
            _add(archive, path, str(path.relative_to(root)), date_s)
    content = buffer.getvalue()
    return Layer(gzip.compress(content, mtime=0), digest_of(content))


def _add(archive: tarfile.TarFile, path: Path, name: str, date_s: int) -> None:
    info = archive.gettarinfo(path, name)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = date_s
    if info.isreg():
        with path.open("rb") as content:
            archive.addfile(info, content)
    else:
        archive.addfile(info)


def write_archive(
    path: Path, layers: Sequence[Layer], config: Mapping[str, Any], *, name: str, tag: str
) -> str:
    """Write an image that skopeo, podman, containerd and Docker read.

    Args:
        path: The archive, which is replaced.
        layers: From the lowest one.
        config: The image's configuration without `rootfs`: platform, date and `config`.
        name: The repository, such as `ollama-fleet`.
        tag: Such as the version.

    Returns:
        Digest of the image's manifest: what a registry calls it.
    """
    diff_ids = [layer.diff_id for layer in layers]
    config_blob = _json({**config, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config_blob),
            "layers": [_descriptor("layer.v1.tar+gzip", layer.blob) for layer in layers],
        }
    )
    entry = {
        **_descriptor("manifest.v1+json", manifest),
        "platform": {"architecture": config["architecture"], "os": config["os"]},
        "annotations": {CONTAINERD_NAME: f"docker.io/library/{name}:{tag}", TAG: tag},
    }
    blobs = {_path(blob): blob for blob in (manifest, config_blob, *(one.blob for one in layers))}
    docker = {
        "Config": _path(config_blob),
        "RepoTags": [f"{name}:{tag}"],
        "Layers": [_path(layer.blob) for layer in layers],
    }
    index = {"schemaVersion": 2, "mediaType": f"{MEDIA}.index.v1+json", "manifests": [entry]}
    _write_tar(
        path,
        {
            "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
            "index.json": _json(index),
            "manifest.json": _json([docker]),  # `docker load` without containerd's image store
            **dict(sorted(blobs.items())),
        },
    )
    return digest_of(manifest)


def _write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _path(blob: bytes) -> str:
    return f"blobs/{digest_of(blob).replace(':', '/')}"


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": f"{MEDIA}.{kind}", "digest": digest_of(blob), "size": len(blob)}
