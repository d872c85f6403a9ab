"""Send requests to whichever provisioner can answer them.

In:   the URLs of provisioners, a token for writes, what is private and what is signed.
Out:  bodies of good answers, bounded in time and size.
Fails with ClientError. Reads are tried again, and at each provisioner in turn; writes follow a
standby's word to the leader, with the token only where it may go, and wait where nobody leads.
One that hangs holds nobody up while others can be asked: it is waited for briefly, and comes last
from then on. A write is sent only to who has just answered, as what may have been done must not be
sent to another: each provisioner knows only the Idempotency-Keys that it was given itself.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence

import requests

from provisioning.client.addresses import checked_url
from provisioning.client.answers import (
    MAYBE_DONE,
    PASSING,
    START_AND_URL,
    Answer,
    good,
    never_arrived,
    unreachable,
)
from provisioning.client.errors import ClientError, UntrustedLeaderError
from provisioning.client.patience import Patience
from provisioning.client.sending import IDEMPOTENCY_KEY, Bounds, Order, Sender
from provisioning.client.trust import check_leader
from provisioning.client.turns import Turns
from provisioning.errors import ProvisionerError

MAX_LEADERS = 3
"""How often a request is sent on: leadership may change meanwhile, but not in circles."""
OLD_S = 10.0
"""What is told is usually of this moment, or of a second ago: older is worth a word."""


class Transport:
    """Asks one fleet's provisioners."""

    def __init__(
        self,
        urls: Sequence[str],
        token: Callable[[], str],
        *,
        bounds: Bounds | None = None,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what is needed; nothing is sent yet.

        Args:
            urls: Of the provisioners.
            token: Gives the token; called when it is needed.
            bounds: Where others than the usual ones are wanted.
            sleep: Waits for so many seconds.
            tell: Told why it waits when that may take long.
            warn: Told once where what is read is old.
            monotonic_s: The time.
        """
        self.urls = tuple(map(checked_url, urls))
        self._token = token
        self._bounds = bounds or Bounds()
        self._sleep = sleep
        self._tell = tell
        self._warn = warn
        self._has_warned = False
        self._sender = Sender(self._bounds, monotonic_s=monotonic_s)
        self._turns = Turns(self.urls, self._sender, self._bounds, monotonic_s=monotonic_s)

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()

    def read(
        self,
        path: str,
        *,
        doing: str,
        body: bytes | None = None,
        is_private: bool = False,
    ) -> Answer:
        """Ask for something that changes nothing, by GET, or with a body by POST.

        Args:
            path: With its query.
            doing: For messages: `list instances`.
            body: JSON.
            is_private: It needs the token.
        """
        method = "GET" if body is None else "POST"
        token = self._token_for(doing) if is_private else None
        order = Order(method, path, body, token=token)
        patience = self._patience("waits for a provisioner that can answer")
        n_rounds = 0
        while True:
            seen: dict[str, str] = {}
            answer = self._read_of_any(order, doing, seen)
            if answer is not None and not answer.is_unready:
                self._warn_if_old(answer)
                return good(answer, doing)
            if answer is not None and not patience.lasts(answer):
                raise unreachable(doing, seen, helps=f"waited {patience.waited_s:g} s")
            if answer is None:
                n_rounds += 1
                if n_rounds == self._bounds.rounds:
                    raise unreachable(doing, seen, helps=START_AND_URL)
                self._wait_after(n_rounds)

    def write(
        self, method: str, path: str, *, doing: str, body: bytes | None = None, if_match: str = ""
    ) -> Answer:
        """Ask the leader to change something, once; wait for one where nobody leads."""
        headers = {IDEMPOTENCY_KEY: uuid.uuid4().hex}
        if if_match:
            headers["If-Match"] = if_match
        order = Order(method, path, body, headers, self._token_for(doing))
        patience = self._patience("waits for a provisioner to lead")
        while True:
            seen: dict[str, str] = {}
            answer = self._answer_of_any(order, doing, seen)
            if answer is None:
                raise unreachable(doing, seen, helps=START_AND_URL)
            if not answer.is_standbys:
                return good(answer, doing, is_write=True)
            if not patience.lasts(answer):
                waited = f"waited {patience.waited_s:g} s for one to lead"
                raise unreachable(doing, seen, helps=f"{waited}; see the provisioners' logs")

    def _token_for(self, doing: str) -> str:
        try:
            return self._token()
        except ProvisionerError as error:
            raise ClientError(f"cannot {doing}: {error}") from error

    def _patience(self, reason: str) -> Patience:
        return Patience(self._bounds.patience_s, reason, sleep=self._sleep, tell=self._tell)

    def _wait_after(self, n_rounds: int) -> None:
        """Wait before a further round; not all who failed together come again together."""
        whole_s = self._bounds.wait_s * 2.0 ** (n_rounds - 1)
        self._sleep(whole_s * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets

    def _warn_if_old(self, answer: Answer) -> None:
        if answer.age_s < OLD_S or self._has_warned:
            return
        self._has_warned = True
        age = f"{answer.age_s:,.0f} s old"
        self._warn(f"this is {age}: the provisioner at {answer.url} does not reach its store")

    def _read_of_any(self, order: Order, doing: str, seen: dict[str, str]) -> Answer | None:
        """Return the answer of the first that has one, or else of one that is not ready yet.

        A leader that is named by one who cannot answer is asked last.

        Raises:
            UntrustedLeaderError: Nobody has one, and a leader that is named may not be asked.
        """
        unready: Answer | None = None
        untrusted: UntrustedLeaderError | None = None
        in_turn = self._turns.in_turn()
        most = len(in_turn) + MAX_LEADERS
        for url in in_turn:
            is_hasty = url != in_turn[-1] or unready is not None
            try:
                answer = self._turns.send(url, order, seen, is_hasty=is_hasty)
            except requests.RequestException:
                continue
            if answer.status not in PASSING:
                return answer
            seen[url] = str(answer)
            unready = answer if answer.is_unready else unready
            if answer.leader and answer.leader not in in_turn and len(in_turn) < most:
                try:
                    check_leader(answer, order, self.urls, doing)
                except UntrustedLeaderError as error:
                    untrusted = error  # it may be one of those that come yet, by another name
                else:
                    in_turn.append(answer.leader)
        if untrusted is not None:
            raise untrusted
        return unready

    def _answer_of_any(self, order: Order, doing: str, seen: dict[str, str]) -> Answer | None:
        """Send to each until one leads; return its answer, or else a standby's.

        Args:
            order: What to send.
            doing: For messages.
            seen: Gets what becomes of it, by URL.

        Returns:
            None where nobody got it.
        """
        standbys: Answer | None = None
        in_turn = self._turns.in_turn()
        for url in in_turn:
            is_hasty = url != in_turn[-1] or standbys is not None
            answer = self._answer_of_leader(url, order, doing, seen, is_hasty=is_hasty)
            if answer is not None and not answer.is_standbys:
                return answer
            standbys = answer or standbys
        return standbys

    def _answer_of_leader(
        self, url: str, order: Order, doing: str, seen: dict[str, str], *, is_hasty: bool
    ) -> Answer | None:
        """Send to a provisioner, and on to the leader that it names; return the last answer."""
        answer: Answer | None = None
        for _ in range(1 + MAX_LEADERS):
            if url in seen or (is_hasty and not self._turns.is_there(url, seen)):
                break
            try:
                answer = self._turns.send(url, order, seen, is_hasty=False)
            except requests.RequestException as error:
                if never_arrived(error):
                    break
                seen[url] += MAYBE_DONE
                raise unreachable(doing, seen, helps=START_AND_URL) from error
            seen[url] = str(answer)
            if not answer.leader:
                break
            check_leader(answer, order, self.urls, doing)
            url, is_hasty = answer.leader, True
        return answer
