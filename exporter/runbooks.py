"""Serve the runbooks of the alerts, as they are installed with the exporter."""

from __future__ import annotations

import html
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.markdown import to_html
from exporter.page import page
from ollama_fleet.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent.parent / "alerts" / "runbooks"
PATH = "/runbooks/"
WORD = re.compile(r"\b[A-Z][A-Za-z]+\b")


class Runbooks:
    """The runbooks, by the name of their alert."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._texts: Mapping[str, str] = {
            path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))
        }

    def __repr__(self) -> str:
        return f"<Runbooks: {len(self._texts)}>"

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application; a name may end in `.md`, as that of its file does."""
        app.add_routes([web.get(PATH, self._index), web.get(f"{PATH}{{name}}", self._runbook)])

    async def _index(self, _: web.Request) -> web.Response:
        rows = [_entry(name, text) for name, text in self._texts.items()]
        head = "<h1>Runbooks</h1><p>One for each alert: meaning, impact, diagnosis, mitigation.</p>"
        return page("Runbooks", f"{head}<table>{''.join(rows)}</table>")

    async def _runbook(self, request: web.Request) -> web.Response:
        name = request.match_info["name"].removesuffix(".md")
        if name not in self._texts:
            hint = did_you_mean(name[:100], self._texts) or f"; {PATH} lists all"
            raise web.HTTPNotFound(text=f"There is no such runbook{hint}.\n")
        return page(
            name, to_html(self._texts[name], partial(WORD.sub, partial(self._linked, name)))
        )

    def _linked(self, own: str, match: re.Match[str]) -> str:
        """Return a word of the text, as a link where it is another alert."""
        name = match[0]
        is_other = name != own and name in self._texts
        return f'<a href="{PATH}{name}">{name}</a>' if is_other else name


def _entry(name: str, text: str) -> str:
    """Return a row of the index: the line below the title says severity and times."""
    facts = text.splitlines()[2].split(" · ")[:2]
    shown = html.escape(", ".join(facts))
    return f'<tr><td><a href="{PATH}{name}">{name}</a></td><td>{shown}</td></tr>'
