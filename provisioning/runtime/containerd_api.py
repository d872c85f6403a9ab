"""Which of containerd's methods we call, and what the values that it wraps are called.

In:   nothing. Out: Methods, each with its full name and the types of request and reply, and
functions that wrap values for fields of type Any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from provisioning.runtime import containerd_messages_pb2 as messages

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


def _service(name: str) -> str:
    return f"/containerd.services.{name.lower()}.v1.{name}"


GET_IMAGE = Method(f"{_service('Images')}/Get", messages.GetImageRequest, messages.GetImageReply)
READ_CONTENT = Method(
    f"{_service('Content')}/Read", messages.ReadContentRequest, messages.ReadContentReply
)
OPEN_STREAM = Method(f"{_service('Streaming')}/Stream", Any, Any)
TRANSFER_IMAGE = Method(
    f"{_service('Transfer')}/Transfer", messages.TransferRequest, messages.Empty
)
PREPARE_SNAPSHOT = Method(
    f"{_service('Snapshots')}/Prepare",
    messages.PrepareSnapshotRequest,
    messages.PrepareSnapshotReply,
)
REMOVE_SNAPSHOT = Method(
    f"{_service('Snapshots')}/Remove", messages.RemoveSnapshotRequest, messages.Empty
)
LIST_SNAPSHOTS = Method(
    f"{_service('Snapshots')}/List", messages.ListSnapshotsRequest, messages.ListSnapshotsReply
)
CREATE_CONTAINER = Method(
    f"{_service('Containers')}/Create", messages.CreateContainerRequest, messages.ContainerReply
)
GET_CONTAINER = Method(
    f"{_service('Containers')}/Get", messages.ContainerId, messages.ContainerReply
)
DELETE_CONTAINER = Method(f"{_service('Containers')}/Delete", messages.ContainerId, messages.Empty)
LIST_CONTAINERS = Method(
    f"{_service('Containers')}/List",
    messages.ListContainersRequest,
    messages.ListContainersReply,
)
CREATE_TASK = Method(
    f"{_service('Tasks')}/Create", messages.CreateTaskRequest, messages.CreateTaskReply
)
START_TASK = Method(f"{_service('Tasks')}/Start", messages.TaskId, messages.StartTaskReply)
GET_TASK = Method(f"{_service('Tasks')}/Get", messages.TaskId, messages.GetTaskReply)
KILL_TASK = Method(f"{_service('Tasks')}/Kill", messages.KillTaskRequest, messages.Empty)
WAIT_TASK = Method(f"{_service('Tasks')}/Wait", messages.TaskId, messages.WaitTaskReply)
DELETE_TASK = Method(f"{_service('Tasks')}/Delete", messages.TaskId, messages.DeleteTaskReply)
LIST_TASKS = Method(f"{_service('Tasks')}/List", messages.Empty, messages.ListTasksReply)
METRICS = Method(f"{_service('Tasks')}/Metrics", messages.MetricsRequest, messages.MetricsReply)
SUBSCRIBE = Method(f"{_service('Events')}/Subscribe", messages.SubscribeRequest, messages.Envelope)
