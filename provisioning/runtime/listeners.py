"""See whether a stranger listens where a unit is to listen.

In:   where the unit will be reached, from here as its probes will reach it.
Out:  nothing; the answer may be old a moment later.
Fails with NoRoomError where somebody accepts a connection; silence and refusals say that nobody
does.

A unit that cannot have its port ends, and its stranger's answer would be taken for its health.
"""

from __future__ import annotations

import asyncio

from provisioning.errors import NoRoomError

CONNECT_LIMIT_S = 1.0
"""Who has a port answers sooner; a node that drops what nobody wants is silent."""


async def refuse_taken(host: str, port: int) -> None:
    """Return where nobody listens.

    Raises:
        NoRoomError: Somebody does.
    """
    try:
        async with asyncio.timeout(CONNECT_LIMIT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError among them
        return
    ends = [writer.get_extra_info(name) for name in ("sockname", "peername")]
    writer.close()
    # A connection may get by chance the very port that it goes to: then it has reached itself.
    if ends[0] != ends[1]:
        raise NoRoomError(
            f"cannot listen on {host}:{port}: somebody does already; see who: `ss -ltnp` there"
        )
