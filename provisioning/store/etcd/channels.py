"""Make the connection to one member of an etcd cluster.

In:   its address, how to reach the cluster, what TLS needs.
Out:  a channel, which connects when it is first used, and again whenever it has to.
"""

from __future__ import annotations

import grpc
import grpc.aio

from provisioning.store.etcd.access import DEADLINE_S

MAX_MESSAGE_BYTES = 64 * 2**20


def channel(
    member: str, secrets: grpc.ChannelCredentials | None, *, deadline_s: float
) -> grpc.aio.Channel:
    """Return a channel to a member, for calls that have so much time as a rule."""
    if secrets is None:
        return grpc.aio.insecure_channel(member, options=options(deadline_s))
    return grpc.aio.secure_channel(member, secrets, options=options(deadline_s))


def options(deadline_s: float) -> tuple[tuple[str, int], ...]:
    """Return how a channel behaves whose calls have so much time as a rule."""
    # Hasty calls give up before their connection is made; it is then there for later ones.
    connecting_s = max(DEADLINE_S, deadline_s)
    return (
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A member that is back is used again soon, not after two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # In spite of its name: how long a connection may take to be made, TLS included.
        ("grpc.min_reconnect_backoff_ms", int(1000 * connecting_s)),
        ("grpc.enable_http_proxy", 0),
        # What is tried again, and where, is decided by our client.
        ("grpc.enable_retries", 0),
        # Clients of one process do not share a connection, nor its back-off.
        ("grpc.use_local_subchannel_pool", 1),
    )
