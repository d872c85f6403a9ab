"""Call containerd over gRPC, and put its refusals into our errors."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import grpc
import msgspec
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from provisioning.errors import (
    ContainerError,
    NodeUnreachableError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import ContainerSpec
from provisioning.runtime import containerd_messages_pb2 as pb

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
STREAM_INIT = "containerd.services.streaming.v1.StreamInit"
TRANSFER = "containerd.types.transfer"
RUNC_OPTIONS = "containerd.runc.v1.Options"


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Reply]):
    """A method of containerd's API."""

    path: str
    request: type[Request]
    reply: type[Reply]

    @property
    def serialise(self) -> Callable[[Request], bytes]:
        """Return what writes a request."""
        return self.request.SerializeToString

    @property
    def parse(self) -> Callable[[bytes], Reply]:
        """Return what reads a reply."""
        return self.reply.FromString


def wrapped(type_name: str, value: Message | bytes) -> Any:
    """Return a value under the bare name that containerd knows; `Any.Pack` would prefix it."""
    return Any(
        type_url=type_name, value=value if isinstance(value, bytes) else value.SerializeToString()
    )


def _method(name: str, request: type[Request], reply: type[Reply]) -> Method[Request, Reply]:
    """Return a method by its service and name, as `Tasks/Start`."""
    service = name.partition("/")[0]
    return Method(f"/containerd.services.{service.lower()}.v1.{name}", request, reply)


GET_IMAGE = _method("Images/Get", pb.GetImageRequest, pb.GetImageReply)
READ_CONTENT = _method("Content/Read", pb.ReadContentRequest, pb.ReadContentReply)
OPEN_STREAM = _method("Streaming/Stream", Any, Any)
TRANSFER_IMAGE = _method("Transfer/Transfer", pb.TransferRequest, pb.Empty)
PREPARE_SNAPSHOT = _method("Snapshots/Prepare", pb.PrepareSnapshotRequest, pb.PrepareSnapshotReply)
REMOVE_SNAPSHOT = _method("Snapshots/Remove", pb.RemoveSnapshotRequest, pb.Empty)
LIST_SNAPSHOTS = _method("Snapshots/List", pb.ListSnapshotsRequest, pb.ListSnapshotsReply)
CREATE_CONTAINER = _method("Containers/Create", pb.CreateContainerRequest, pb.ContainerReply)
GET_CONTAINER = _method("Containers/Get", pb.ContainerId, pb.ContainerReply)
DELETE_CONTAINER = _method("Containers/Delete", pb.ContainerId, pb.Empty)
LIST_CONTAINERS = _method("Containers/List", pb.ListContainersRequest, pb.ListContainersReply)
CREATE_TASK = _method("Tasks/Create", pb.CreateTaskRequest, pb.CreateTaskReply)
START_TASK = _method("Tasks/Start", pb.TaskId, pb.StartTaskReply)
GET_TASK = _method("Tasks/Get", pb.TaskId, pb.GetTaskReply)
KILL_TASK = _method("Tasks/Kill", pb.KillTaskRequest, pb.Empty)
WAIT_TASK = _method("Tasks/Wait", pb.TaskId, pb.WaitTaskReply)
DELETE_TASK = _method("Tasks/Delete", pb.TaskId, pb.DeleteTaskReply)
LIST_TASKS = _method("Tasks/List", pb.Empty, pb.ListTasksReply)
METRICS = _method("Tasks/Metrics", pb.MetricsRequest, pb.MetricsReply)
SUBSCRIBE = _method("Events/Subscribe", pb.SubscribeRequest, pb.Envelope)

OCI_FAILURE, NO_PARENT = "oci runtime create failed", "parent snapshot"
GROUP_FAILURE = "creating cgroup directory"
"""Says crun where another fleet has just removed the group above, which was empty."""
NO_SUCH_CALL = "function not implemented"
"""Says a runtime where the kernel lacks mount_setattr(2)."""
PERMANENT_TEXTS = (
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
RESOURCE_EXHAUSTED_TEXTS = (
    "no space left",
    "cannot allocate memory",
    "resource temporarily unavailable",
)


def meaning_of(container: ContainerSpec, error: RefusedError) -> ContainerError:
    """Return the error that a refused start is, by what the caller can do about it."""
    text = error.details.lower()
    if any(part in text for part in RESOURCE_EXHAUSTED_TEXTS):
        return ResourceExhaustedError(
            f"cannot start {container.name}: {error}; free some on the node"
        )
    if NO_SUCH_CALL in text and container.mounts:
        return PermanentError(
            f"cannot start {container.name}: {error}; mounts are read-only with all that is "
            "mounted "
            "below them, which the node's kernel can from Linux 5.12 on: take a newer one, or a "
            "pool without `mounts` there"
        )
    is_known = NO_PARENT in text or (OCI_FAILURE in text and GROUP_FAILURE not in text)
    is_permanent = is_known and any(part in text for part in PERMANENT_TEXTS)
    if is_permanent or error.code is grpc.StatusCode.INVALID_ARGUMENT:
        return PermanentError(
            f"cannot start {container.name} of the image {container.image!r}: {error}; correct "
            "its command, "
            "mounts or environment, or import the image again"
        )
    return TransientError(f"cannot start {container.name}: {error}")


DEADLINE_S = 10.0
MAX_MESSAGE_BYTES = 64 * 2**20
UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A node that comes back is found within a second, and one that stays away is not hammered.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Pings, as seldom as the daemon bears; with them comes the kernel's limit on bytes that nobody
    # acknowledges, so that the connection to a node that vanished ends after ten seconds.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Nodes are reached directly, whatever proxy the environment names.
    ("grpc.enable_http_proxy", 0),
    # Daemons of one address may follow one another in one process: each has its own connection.
    ("grpc.use_local_subchannel_pool", 1),
)


class Certificates(msgspec.Struct, frozen=True):
    """Files by which we and a node know each other; see nodeconfig.py."""

    authority: Path
    certificate: Path
    key: Path


class RefusedError(TransientError):
    """The daemon answered, and did not do it."""

    def __init__(self, what: str, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self.details = details
        super().__init__(f"{what}: containerd says {code.name}: {details}")


class Daemon:
    """A connection to one namespace of one containerd; it is made at the first call."""

    def __init__(
        self, endpoint: str, namespace: str, certificates: Certificates | None = None
    ) -> None:
        """Refuse with PermanentError an endpoint, or files, that cannot be right."""
        self.endpoint = endpoint
        self.deadline_s = DEADLINE_S
        self._metadata = (("containerd-namespace", namespace),)
        self._open = _opener(endpoint, certificates)
        self._opened: grpc.aio.Channel | None = None

    async def call(
        self, method: Method[Request, Reply], request: Request, *, deadline_s: float | None = None
    ) -> Reply:
        """Return the reply to one request; None: `self.deadline_s` at the latest.

        Raises:
            NodeUnreachableError: No reply within the deadline; it may have been done or not.
            RefusedError: See its code.
        """
        call = self._channel.unary_unary(
            method.path, request_serializer=method.serialise, response_deserializer=method.parse
        )
        with self._translated(method.path):
            reply: Reply = await call(
                request, metadata=self._metadata, timeout=deadline_s or self.deadline_s
            )
            return reply

    async def stream(
        self,
        method: Method[Request, Reply],
        request: Request,
        *,
        deadline_s: float,
    ) -> AsyncIterator[Reply]:
        """Yield the replies to one request, which is sent when iteration begins."""
        async with self.begun(method, request, deadline_s=deadline_s) as replies:
            async for reply in replies:
                yield reply

    @contextlib.asynccontextmanager
    async def begun(
        self,
        method: Method[Request, Reply],
        request: Request,
        *,
        deadline_s: float | None = None,
    ) -> AsyncIterator[AsyncIterable[Reply]]:
        """Send one request, and give its replies for the block; they wait until they are read.

        None: they come as long as the connection holds.
        """
        call = self._channel.unary_stream(
            method.path, request_serializer=method.serialise, response_deserializer=method.parse
        )
        replies = call(request, metadata=self._metadata, timeout=deadline_s)
        try:
            with self._translated(method.path):
                yield replies
        finally:
            replies.cancel()

    @contextlib.asynccontextmanager
    async def conversation(
        self, method: Method[Request, Reply]
    ) -> AsyncIterator[grpc.aio.StreamStreamCall[Request, Reply]]:
        """Give a stream in both directions, for the block."""
        call = self._channel.stream_stream(
            method.path, request_serializer=method.serialise, response_deserializer=method.parse
        )
        talk = call(metadata=self._metadata)
        try:
            with self._translated(method.path):
                yield talk
        finally:
            talk.cancel()

    async def close(self) -> None:
        """Close the connection; calls that are under way are cancelled."""
        if self._opened is not None:
            await self._opened.close()

    @property
    def _channel(self) -> grpc.aio.Channel:
        """Return the channel, which belongs to the event loop of the first call."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    @contextlib.contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._error(path, error.code(), error.details() or "") from error

    def _error(self, path: str, code: grpc.StatusCode, details: str) -> ContainerError:
        what = f"{path.rpartition('.')[2]} on {self.endpoint}"
        if code in UNREACHABLE:
            return NodeUnreachableError(
                f"{what}: {code.name}: {details}; see whether containerd runs there and can be "
                "reached"
            )
        return RefusedError(what, code, details)


def _opener(endpoint: str, certificates: Certificates | None) -> Callable[[], grpc.aio.Channel]:
    """Return what opens a channel, once everything about it is known to be right."""
    parts = urlsplit(endpoint)
    if parts.scheme == "unix" and parts.path:
        target = f"unix:{parts.path}"
        return functools.partial(grpc.aio.insecure_channel, target, options=OPTIONS)
    if parts.scheme == "https" and parts.hostname and parts.port:
        credentials = _credentials(endpoint, certificates)
        return functools.partial(grpc.aio.secure_channel, parts.netloc, credentials, OPTIONS)
    raise PermanentError(
        f"{endpoint!r} is no endpoint of containerd; write unix:///run/containerd/containerd.sock "
        "or https://host:port"
    )


def _credentials(endpoint: str, certificates: Certificates | None) -> grpc.ChannelCredentials:
    if certificates is None:
        raise PermanentError(f"{endpoint} asks for a client certificate, and none is set")
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=certificates.authority.read_bytes(),
            private_key=certificates.key.read_bytes(),
            certificate_chain=certificates.certificate.read_bytes(),
        )
    except OSError as error:
        raise PermanentError(
            f"cannot read {error.filename} for {endpoint}: {error.strerror}; see who may read it"
        ) from error
