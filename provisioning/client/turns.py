"""Whom to ask first: one that hangs holds nobody up while others can be asked.

In:   the URLs of provisioners, a Sender.
Out:  whole answers; in which order to ask, by who has answered so far; whether one is there.
Fails as the Sender does.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence

import requests

from provisioning.client.answers import Answer, was_silent
from provisioning.client.sending import Bounds, Order, Sender

ALIVE = Order("GET", "/-/healthy")


class Turns:
    """Keeps in mind who was silent when asked last, and who has just answered."""

    def __init__(
        self,
        urls: Sequence[str],
        sender: Sender,
        bounds: Bounds,
        *,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._urls = urls
        self._sender = sender
        self._bounds = bounds
        self._monotonic_s = monotonic_s
        self._silent: set[str] = set()
        self._heard_at_s: dict[str, float] = {}

    def in_turn(self) -> list[str]:
        """Return whom to ask, in this order: who was silent comes last."""
        return sorted(self._urls, key=self._silent.__contains__)

    def send(
        self, url: str, order: Order, seen: MutableMapping[str, str], *, is_hasty: bool
    ) -> Answer:
        """Send a request; what hinders it is put into `seen`, in words."""
        try:
            answer = self._sender.send(url, order, is_hasty=is_hasty)
        except requests.RequestException as error:
            seen[url] = self._sender.words(url, error, is_hasty=is_hasty)
            if was_silent(error):
                self._silent.add(url)
            raise
        self._silent.discard(url)
        self._heard_at_s[url] = self._monotonic_s()
        return answer

    def is_there(self, url: str, seen: MutableMapping[str, str]) -> bool:
        """Say whether a provisioner answers, before it is sent what must not be sent twice."""
        heard_at_s = self._heard_at_s.get(url)
        if heard_at_s is not None and self._monotonic_s() - heard_at_s < self._bounds.hasty_s:
            return True
        try:
            self.send(url, ALIVE, seen, is_hasty=True)
        except requests.RequestException:
            return False
        return True
