"""The bytes that a misbehaving instance sends instead of an answer.

In:   the request, and the answer that a healthy instance would give.
Out:  answers without sense, or half of a good one.
"""

from __future__ import annotations

from http import HTTPStatus

from provisioning.simulator.wire import JSON, Request, Response, encode

NO_HTTP = b"SSH-2.0-OpenSSH_9.2p1\r\n\x00\x16\x03\x01\r\n"
"""What a client sees that has reached another protocol's port."""
NO_JSON = Response(HTTPStatus.OK, JSON, b'{"tokens_per_second": 4\xff\xfe\x00<html>')
BROKEN_METRICS = Response(HTTPStatus.OK, JSON, b'{"tokens_per_second": "fast", "latency_p99": [')


def half(request: Request, response: Response, *, now_s: float) -> bytes:
    """Write an answer up to the middle of its body."""
    whole = encode(request, response, now_s=now_s)
    return whole[: len(whole) - (len(response.body) + 1) // 2]
