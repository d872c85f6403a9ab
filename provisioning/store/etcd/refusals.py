"""What each of etcd's errors means to who asks; no I/O.

In:   an error of gRPC, what was attempted, and how large the request was.
Out:  an error of ours, which says what helps. Never fails.
"""

from __future__ import annotations

import grpc
import grpc.aio

from provisioning.errors import (
    CompactedError,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)

PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    }
)
"""Another member, or the same one later, may answer otherwise."""
NO_SPACE = "database space exceeded"
COMPACTED = "required revision has been compacted"
TOO_LARGE = ("request is too large", "received message larger than max")
"""By etcd; and by its gRPC, which reads no more than 0.5 MiB beyond that."""
BUSY = "too many requests"
NO_LEASE = "requested lease not found"
OLD_LOGIN = "revision of auth store is old"
"""Users or roles have changed since the log-in."""


def is_login_forgotten(error: grpc.aio.AioRpcError) -> bool:
    """Say whether it may go well after another log-in."""
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or OLD_LOGIN in (error.details() or "")


def meaning_of(error: grpc.aio.AioRpcError, attempted: str, *, n_bytes: int) -> StoreError:
    """Return an error of ours; `attempted` begins it, `n_bytes` is the size of the request."""
    words = error.details() or ""
    seen = f"{attempted}: {words}"
    if is_login_forgotten(error):
        return StoreUnavailableError(f"{seen}; the next try logs in again")
    if error.code() in PASSING:
        return StoreUnavailableError(
            f"{seen} ({error.code().name}); see that the member runs and that most members reach "
            f"each other"
        )
    if BUSY in words:
        return StoreUnavailableError(f"{seen}; see that its disk and network keep up")
    if NO_LEASE in words:
        return StoreUnavailableError(
            f"{seen}; it ended before it was used: see that this machine and etcd keep up"
        )
    if NO_SPACE in words:
        return StoreUnavailableError(
            f"{seen}; compact and defragment it, then disarm its NOSPACE alarm, or raise "
            f"--quota-backend-bytes"
        )
    if any(one in words for one in TOO_LARGE):
        return TooLargeError(
            f"{seen}; it is {n_bytes / 1e6:,.2f} MB in one piece, and etcd takes 1.5 MiB unless "
            f"all its members are started with a higher --max-request-bytes"
        )
    if COMPACTED in words:
        return CompactedError(f"{seen}; load again")
    return StoreError(f"{seen} ({error.code().name}); see etcd's log and its users' roles")
