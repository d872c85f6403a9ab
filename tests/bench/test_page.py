from __future__ import annotations

import asyncio
import gzip

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.bench.page import count_samples, fetch, value_of

PAGE = b'# HELP up x\nup{a="1"} 3\nups 4\nup 5.5\n\n'


def test_a_sample_is_found_by_its_whole_name() -> None:
    assert 5.5 == value_of(PAGE, "up")
    assert 3.0 == value_of(PAGE, 'up{a="1"}')


def test_a_missing_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample down"):
        value_of(PAGE, "down")


def test_comments_and_empty_lines_are_no_samples() -> None:
    assert 3 == count_samples(PAGE)


async def _answer(request: web.Request) -> web.Response:
    if request.path != "/metrics":
        raise web.HTTPNotFound
    is_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    return web.Response(body=gzip.compress(PAGE) if is_gzip else PAGE)


async def test_a_page_is_taken_as_it_comes() -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _answer)
    async with TestServer(app) as server:
        port = server.port or 0
        plain = await asyncio.to_thread(fetch, port)
        gzipped = await asyncio.to_thread(fetch, port, is_gzip=True)

        assert PAGE == plain.body
        assert PAGE == gzip.decompress(gzipped.body)
        assert plain.duration_s > 0
        with pytest.raises(ValueError, match="status 404"):
            await asyncio.to_thread(fetch, port, "/x")
