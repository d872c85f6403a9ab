"""Lay out a simple web page: what all pages but the map of the fleet have in common."""

from __future__ import annotations

import html

from aiohttp import web

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} – ollama-fleet</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="/fleet/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/fleet/page.css"></head>
<body><nav aria-label="Pages">{nav}</nav><main>
{body}
</main></body></html>
"""
NAV = {"/": "Exporter", "/fleet": "Fleet", "/runbooks/": "Runbooks", "/metrics": "Metrics"}


def page(title: str, body: str) -> web.Response:
    """Return a page; the body is HTML already."""
    nav = " ".join([f'<a href="{path}">{words}</a>' for path, words in NAV.items()])
    text = PAGE.format(title=html.escape(title), nav=nav, body=body)
    headers = {"Cache-Control": "no-cache"}
    return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)
