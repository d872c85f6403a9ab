"""Choose the `keep_alive` of a canary so that Ollama unloads the model when it would have anyway.

Ollama keeps one duration per loaded model: the `keep_alive` of the last request that had one. Each
request that ends moves the model's expiry to then plus that duration. A canary that sends the time
that is left keeps the expiry, but that time also becomes the duration of later requests that send
no `keep_alive`. The next canary gives back what those requests lost, and no canary is sent in the
second half of a stay: no stay is ever cut by more than half, nor for longer than a period.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar

import msgspec

FOREVER = -1
"""The `keep_alive` of a model that is never unloaded."""
MINUTE_S = 60.0
"""Stays are whole minutes, as people set them; a poll comes some seconds after a request."""
DEFAULT_STAY_S = 300.0
"""Ollama's default. A stay that was not seen from its start is taken for at least this long: taken
for less, it would be cut by more than half."""
MAX_DATE_ERROR_S = 1.5
"""A Date header has whole seconds: a smaller difference between the clocks is ignored."""
SAME_S = 1.0
"""Expiries this close are the same: a canary under way moves the expiry by its own duration."""


class LoadedModel(Protocol):
    """A model that `/api/ps` lists."""

    @property
    def name(self) -> str:
        """Return its name."""

    @property
    def expires_at_s(self) -> float | None:
        """Return when it is unloaded, in seconds since 1970 UTC; None: never, or unknown."""

    @property
    def is_pinned(self) -> bool:
        """Return whether it is never unloaded."""


Model = TypeVar("Model", bound=LoadedModel)


class Stay(msgspec.Struct, frozen=True, gc=False):
    """How long a model stays in an instance's memory, as seen so far. Times are in seconds."""

    model: str
    expires_at_s: float
    """Since 1970 UTC."""
    usual_s: float
    """The `keep_alive` of requests."""
    sent_s: float | None = None
    """The `keep_alive` of the last canary."""
    shortened_s: float = 0.0
    """By how much the last canary shortened the stay of later requests."""


def chosen(loaded: Sequence[Model], name: str) -> Model | None:
    """Return the loaded model of a name; the first where it is not known."""
    return next((model for model in loaded if not name or model.name == name), None)


def watch(stay: Stay | None, model: LoadedModel | None, now_s: float) -> Stay | None:
    """Return the stay of a model after one more look at `/api/ps`."""
    if model is None or model.expires_at_s is None:
        return None
    expires_s = model.expires_at_s
    if stay is None or stay.model != model.name:
        return _new(model.name, expires_s, now_s, least_s=DEFAULT_STAY_S)
    moved_s = expires_s - stay.expires_at_s
    if abs(moved_s) <= SAME_S:
        return msgspec.structs.replace(stay, expires_at_s=expires_s) if moved_s else stay
    # A request ended since then. It sent its own `keep_alive`, or got that of the last canary.
    if moved_s < 0 or stay.sent_s is None or expires_s - now_s > stay.sent_s:
        return _new(model.name, expires_s, now_s)
    shortened_s = stay.usual_s - stay.sent_s
    return msgspec.structs.replace(stay, expires_at_s=expires_s, shortened_s=shortened_s)


def _new(model: str, expires_s: float, now_s: float, *, least_s: float = 0.0) -> Stay:
    left_minutes = math.ceil((expires_s - now_s) / MINUTE_S)
    return Stay(model, expires_s, max(least_s, left_minutes * MINUTE_S))


def left_s(stay: Stay, now_s: float) -> float:
    """Return how long the model would still stay loaded if no canary had ever been sent."""
    return stay.expires_at_s + stay.shortened_s - now_s


def is_leaving(stay: Stay, now_s: float) -> bool:
    """Return whether a model is in the second half of its stay, in which no canary is sent.

    A model whose time is over is in use: Ollama unloads it after the last request.
    """
    return 0 < left_s(stay, now_s) < stay.usual_s / 2


def keep_alive(model: LoadedModel, stay: Stay | None, now_s: float) -> str | int | None:
    """Return the `keep_alive` to send; None: send none.

    None if the server does not say when it unloads the model, or if that time is over: then a
    request is under way, and Ollama sets the expiry again when it ends.
    """
    if model.is_pinned:
        return FOREVER
    if stay is None:
        return None
    rest_s = left_s(stay, now_s)
    return f"{rest_s:.3f}s" if rest_s > 0 else None


def after_canary(stay: Stay | None, sent_at_s: float, ended_at_s: float) -> Stay | None:
    """Return the stay of a model after a canary with our `keep_alive` has ended."""
    if stay is None or (sent_s := left_s(stay, sent_at_s)) <= 0:
        return stay
    return Stay(stay.model, ended_at_s + sent_s, stay.usual_s, sent_s)


def clock_offset_s(date: str, now_s: float) -> float:
    """Return by how much the clock of a server that sent this Date header is ahead of ours.

    0 if they agree within the second that the header has, or it cannot be read.
    """
    try:
        offset_s = parsedate_to_datetime(date).timestamp() - now_s
    except (ValueError, OverflowError):
        return 0.0
    return offset_s + 0.5 if abs(offset_s) > MAX_DATE_ERROR_S else 0.0  # the middle of that second
