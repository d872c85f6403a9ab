"""The hooks of mkdocs.yml: runbooks become pages; links out of docs/ lead to the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
RUNBOOKS = "alerts/runbooks"
LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each runbook as `runbooks/NAME`; the menu does not list them."""
    for path in sorted((ROOT / RUNBOOKS).glob("*.md")):
        text = path.read_text(encoding="utf-8")
        files.append(File.generated(config, f"runbooks/{path.name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files outside docs/, which are right on GitHub, into links of the site."""
    folder = posixpath.dirname(page.file.src_uri)
    if folder == "runbooks":
        return markdown

    def turned(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, found[2]))
        if target.startswith("docs/"):
            return found[0]
        if target.startswith(f"{RUNBOOKS}/"):
            return found[1] + posixpath.relpath(target.removeprefix("alerts/"), folder or ".")
        return f"{found[1]}{config.extra['repository']}/blob/main/{target}"

    return LINK.sub(turned, markdown)
