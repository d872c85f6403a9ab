"""Markdown as the runbooks use it."""

from __future__ import annotations

import re

import pytest

from exporter.runbooks import FOLDER, to_html

TAG = re.compile(r"</?(\w+)[^>]*>")
KNOWN = {
    *("h1", "h2", "h3", "p", "ul", "ol", "li", "pre", "code", "strong", "em", "a"),
    *("table", "tr", "th", "td"),
}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("# A `b`", "<h1>A <code>b</code></h1>"),
        ("one\ntwo\n\nthree", "<p>one two</p>\n<p>three</p>"),
        ("a **b** *c* d*e", "<p>a <strong>b</strong> <em>c</em> d*e</p>"),
        ("`*a*` [b](https://c/d)", '<p><code>*a*</code> <a href="https://c/d">b</a></p>'),
        ("[b](javascript:alert)", "<p>[b](javascript:alert)</p>"),
        ("- a\n  b\n- c", "<ul><li>a b</li><li>c</li></ul>"),
        ("1. a\n\n   b\n2. c\n- d", "<ol><li>a\n<p>b</p></li><li>c</li></ol>\n<ul><li>d</li></ul>"),
        ("| a | b |\n|---|---|\n| c | d |", "<table><tr><th>a</th><th>b</th></tr>"
         "<tr><td>c</td><td>d</td></tr></table>"),
        ("<b> & `<i>`", "<p>&lt;b&gt; &amp; <code>&lt;i&gt;</code></p>"),
        ("1. a\n b", "<ol><li>a</li></ol>\n<p> b</p>"),
        ("", ""),
    ],
)  # fmt: skip
def test_each_form_becomes_its_markup(text: str, written: str) -> None:
    assert written == to_html(text)


def test_code_stands_as_it_is_also_within_an_item() -> None:
    page = to_html("1. do\n   ```sh\n   # no **title**\n     <x>\n   ```\n   then")

    assert "<code># no **title**\n  &lt;x&gt;</code></pre>\n<p>then</p></li></ol>" in page


def test_words_may_become_links() -> None:
    page = to_html("see `X` and X", lambda text: text.replace("X", "<a>X</a>"))

    assert "<p>see <code><a>X</a></code> and <a>X</a></p>" == page


def test_runbooks_are_well_formed_and_leave_no_marks_behind() -> None:
    for path in FOLDER.glob("*.md"):
        page = to_html(path.read_text())
        opened: list[str] = []
        for tag in TAG.finditer(page):
            assert tag[1] in KNOWN, path
            if tag[0].startswith("</"):
                assert opened.pop() == tag[1], path
            else:
                opened.append(tag[1])
        assert [] == opened
        prose = re.sub(r"<code>.*?</code>", "", page, flags=re.DOTALL)
        assert not re.search(r"```|\*\*|^#|^- ", prose, re.MULTILINE), path
