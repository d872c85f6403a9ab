"""Serve the runbooks of the alerts, with the subset of Markdown that they use as HTML."""

from __future__ import annotations

import html
import re
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.page import page
from ollama_fleet.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


FOLDER = Path(__file__).parent.parent / "alerts" / "runbooks"
PATH = "/runbooks/"
WORD = re.compile(r"\b[A-Z][A-Za-z]+\b")


class Runbooks:
    """The runbooks, by the name of their alert."""

    def __init__(self) -> None:
        self._texts: Mapping[str, str] = {
            path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))
        }

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


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Inline = Callable[[str], str]
    """Returns a line's text as HTML."""
    Block = tuple[str, int]
    """HTML, and how many lines it is made of."""

FENCE = "```"
HEADING = re.compile(r"(#{1,4}) (.+)")
ITEM = re.compile(r"(- |\d+\. )(.*)")
RULE_OF_TABLE = re.compile(r"\|[ :|-]+\|")
INLINE = (
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"\*([^ *][^*]*)\*"), r"<em>\1</em>"),
    (re.compile(r"\[([^]]+)\]\((https?://[^\s)]+|[\w./#-]+)\)"), r'<a href="\2">\1</a>'),
)
CODE = re.compile(r"(`[^`]+`)")


def to_html(text: str, name: Inline = str) -> str:
    """Return a document as HTML; `name` may make links of words of the escaped text."""

    def inline(line: str) -> str:
        return "".join([name(_span(part)) for part in CODE.split(html.escape(line))])

    return "\n".join(_blocks(text.splitlines(), inline))


def _span(part: str) -> str:
    if len(part) > 1 and part.startswith("`"):
        return f"<code>{part[1:-1]}</code>"
    for pattern, markup in INLINE:
        part = pattern.sub(markup, part)
    return part


def _blocks(lines: Sequence[str], inline: Inline) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        block, n = _block(lines[at:], inline)
        found.append(block)
        at += n
    return found


def _block(lines: Sequence[str], inline: Inline) -> Block:
    first = lines[0]
    if first.startswith(FENCE):
        return _fenced(lines)
    if match := HEADING.match(first):
        level = len(match[1])
        return f"<h{level}>{inline(match[2])}</h{level}>", 1
    if ITEM.match(first):
        return _list(lines, inline)
    if first.startswith("|"):
        return _table(lines, inline)
    paragraph = [first, *takewhile(_goes_on, lines[1:])]
    return f"<p>{inline(' '.join(paragraph))}</p>", len(paragraph)


def _goes_on(line: str) -> bool:
    is_other = line.startswith((FENCE, "|")) or HEADING.match(line) or ITEM.match(line)
    return bool(line.strip()) and not is_other


def _fenced(lines: Sequence[str]) -> Block:
    code = list(takewhile(lambda line: not line.startswith(FENCE), lines[1:]))
    # In the order of the Tab key, for those who scroll with keys.
    return f'<pre tabindex="0"><code>{html.escape(chr(10).join(code))}</code></pre>', len(code) + 2


def _list(lines: Sequence[str], inline: Inline) -> Block:
    """Return a list: lines indented by the marker's width belong to the item."""
    kind = "ul" if lines[0].startswith("-") else "ol"
    items = []
    at = 0
    while at < len(lines) and (match := ITEM.match(lines[at])) and _kind(match) == kind:
        n = _length(lines[at:], len(match[1]))
        within = [match[2], *(line[len(match[1]) :] for line in lines[at + 1 : at + n])]
        items.append(f"<li>{_unwrapped(_blocks(within, inline))}</li>")
        at += n
    return f"<{kind}>{''.join(items)}</{kind}>", at


def _kind(match: re.Match[str]) -> str:
    return "ul" if match[1] == "- " else "ol"


def _length(lines: Sequence[str], indent: int) -> int:
    """Return how many lines the first item has."""
    return next(
        (at for at in count(1) if at >= len(lines) or _is_outside(lines[at], indent)), len(lines)
    )


def _is_outside(line: str, indent: int) -> bool:
    return bool(line.strip()) and not line.startswith(" " * indent)


def _unwrapped(blocks: Sequence[str]) -> str:
    """Return the blocks of an item; its first paragraph is its text."""
    first = blocks[0].removeprefix("<p>").removesuffix("</p>") if blocks else ""
    return "\n".join([first, *blocks[1:]])


def _table(lines: Sequence[str], inline: Inline) -> Block:
    rows = list(takewhile(lambda line: line.startswith("|"), lines))
    head, *body = [row for row in rows if not RULE_OF_TABLE.fullmatch(row.strip())]
    parts = [_row(head, "th", inline), *(_row(row, "td", inline) for row in body)]
    return f"<table>{''.join(parts)}</table>", len(rows)


def _row(row: str, tag: str, inline: Inline) -> str:
    cells = [inline(cell.strip()) for cell in row.strip().strip("|").split("|")]
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"
