"""Tell what it means to who asked for a unit that containerd refuses to make it.

In:   the Unit, and the RefusedError.
Out:  a LastingError, NoRoomError or TransientError that says what helps.
Pure; containerd gives all of them one code, so its words decide.
"""

from __future__ import annotations

import grpc

from provisioning.errors import LastingError, NoRoomError, TransientError, UnitError
from provisioning.model import Unit
from provisioning.runtime.containerd_daemon import RefusedError

OCI_FAILURE, NO_PARENT = "oci runtime create failed", "parent snapshot"
GROUP_FAILURE = "creating cgroup directory"
"""Says crun where another fleet has just removed the group above, which was empty."""
NO_SUCH_CALL = "function not implemented"
"""Says a runtime where the kernel lacks mount_setattr(2)."""
LASTING_TEXTS = (
    "no such file",
    "not found",
    "does not exist",
    "permission denied",
    "not a directory",
    "is a directory",
    "not a regular file",
    "exec format error",
    "argument list too long",
    "invalid",
)
NO_ROOM_TEXTS = ("no space left", "cannot allocate memory", "resource temporarily unavailable")


def meaning_of(unit: Unit, error: RefusedError) -> UnitError:
    """Return what a refusal to make a unit means to who asked for it."""
    text = error.details.lower()
    if any(part in text for part in NO_ROOM_TEXTS):
        return NoRoomError(f"cannot start {unit.name}: {error}; free some on the node")
    if NO_SUCH_CALL in text and unit.mounts:
        return LastingError(
            f"cannot start {unit.name}: {error}; mounts are read-only with all that is mounted "
            "below them, which the node's kernel can from Linux 5.12 on: take a newer one, or a "
            "pool without `mounts` there"
        )
    is_told = NO_PARENT in text or (OCI_FAILURE in text and GROUP_FAILURE not in text)
    is_lasting = is_told and any(part in text for part in LASTING_TEXTS)
    if is_lasting or error.code is grpc.StatusCode.INVALID_ARGUMENT:
        return LastingError(
            f"cannot start {unit.name} of the image {unit.image!r}: {error}; correct its command, "
            "mounts or environment, or import the image again"
        )
    return TransientError(f"cannot start {unit.name}: {error}")
