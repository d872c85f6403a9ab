"""Ask for a loaded model of an Ollama without a change to how long it stays in memory.

Ollama keeps one duration per loaded model: the `keep_alive` of the last request that had one. Each
request that ends moves the model's expiry to then plus that duration. A canary that sends the time
that is left keeps the expiry, but also becomes the duration of later requests that send none. So
what it took from them is given back with the next canary, and a model is left alone in the second
half of its stay: no stay is ever cut by more than half, nor for longer than a period.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from exporter.model import Stay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model import LoadedModel


FOREVER = -1
"""The `keep_alive` of a model that is never unloaded."""
MINUTE_S = 60.0
"""Stays are whole minutes, as people set them; a poll comes some seconds after a request."""
SAME_S = 1.0
"""Expiries so close are one: a canary that is under way moves it by its own duration."""


def chosen(loaded: Sequence[LoadedModel], name: str) -> LoadedModel | None:
    """Return the loaded model of a name; the first where it is not known."""
    return next((model for model in loaded if not name or model.name == name), None)


def watch(stay: Stay | None, model: LoadedModel | None, now_s: float) -> Stay | None:
    """Return what is known of a model's stay after one more look at it.

    Args:
        stay: What was known.
        model: As it is loaded now.
        now_s: By the instance's clock, in seconds since 1970 UTC.
    """
    if model is None or model.expires_at_s is None:
        return None
    expires_s = model.expires_at_s
    if stay is None or stay.model != model.name:
        return _new(model.name, expires_s, now_s)
    if expires_s <= stay.expires_at_s + SAME_S:
        return stay
    # A request has ended since. Its stay is its own, or what the last canary has left to it.
    if stay.sent_s is None or expires_s - now_s > stay.sent_s:
        return _new(model.name, expires_s, now_s)
    owed_s = stay.usual_s - stay.sent_s
    return msgspec.structs.replace(stay, expires_at_s=expires_s, owed_s=owed_s)


def _new(model: str, expires_s: float, now_s: float) -> Stay:
    return Stay(model, expires_s, math.ceil((expires_s - now_s) / MINUTE_S) * MINUTE_S)


def left_s(stay: Stay, now_s: float) -> float:
    """Return how long a model would still stay if canaries had never been sent."""
    return stay.expires_at_s + stay.owed_s - now_s


def is_leaving(stay: Stay, now_s: float) -> bool:
    """Return whether a model is in the second half of its stay, in which it is left alone.

    One whose time is over is in use: it goes when that ends, unless more requests come.
    """
    return 0 < left_s(stay, now_s) < stay.usual_s / 2


def keep_alive(model: LoadedModel, stay: Stay | None, now_s: float) -> str | int | None:
    """Return the `keep_alive` of a request after which the model goes when it would have gone.

    None, to send none: a request is under way, at whose end Ollama sets the expiry anew; or the
    server does not say when the model goes.
    """
    if model.is_pinned:
        return FOREVER
    if stay is None:
        return None
    rest_s = left_s(stay, now_s)
    return f"{rest_s:.3f}s" if rest_s > 0 else None


def after_canary(stay: Stay | None, sent_at_s: float, ended_at_s: float) -> Stay | None:
    """Return what is known of a model's stay once a canary with our `keep_alive` has ended."""
    if stay is None or (sent_s := left_s(stay, sent_at_s)) <= 0:
        return stay
    return Stay(stay.model, ended_at_s + sent_s, stay.usual_s, sent_s)
