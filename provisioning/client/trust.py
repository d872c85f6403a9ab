"""Whether what was asked of one provisioner may be asked of the leader that it names.

In:   the answer that names one, what is to be sent, whom a person configured.
Out:  nothing, where it may. Fails with UntrustedLeaderError. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from provisioning.client.addresses import is_alike, is_trusted
from provisioning.client.answers import SHOWN_CHARACTERS, Answer
from provisioning.client.errors import UntrustedLeaderError
from provisioning.client.sending import Order


def check_leader(answer: Answer, order: Order, configured: Sequence[str], doing: str) -> None:
    """Refuse to send an order to the leader that an answer names, if it is not for it.

    What tells nothing may be sent to any server that the one who answers could be as well.

    Raises:
        UntrustedLeaderError: It is not.
    """
    leader = answer.leader
    if leader in configured or is_trusted(leader, configured):
        return
    if not order.is_telling and is_alike(leader, answer.url):
        return
    why = "which the token is not for" if order.token else "where nothing is sent unasked"
    raise UntrustedLeaderError(
        f"cannot {doing}: {answer.url} says that {leader[:SHOWN_CHARACTERS]!r} leads, "
        f"{why}; give it as another --provisioner.url if it is one of yours"
    )
