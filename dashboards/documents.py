"""Read finished dashboards and see that each is one, before anything is done with any of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn

from dashboards.errors import DocumentError
from ollama_fleet.suggestions import did_you_mean

UID = re.compile(r"[a-zA-Z0-9_-]{1,40}")
"""What Grafana takes: `pkg/util/shortid_generator.go`."""
OF_GRAFANA = ("id", "version")
"""Keys that are Grafana's to set, and so tell nothing about a dashboard."""


@dataclass(frozen=True, slots=True)
class Document:
    """One dashboard, checked as far as pushing it depends on it."""

    source: str
    content: Mapping[str, Any]

    @property
    def uid(self) -> str:
        """Return what names it in addresses and links."""
        return str(self.content["uid"])

    @property
    def digest(self) -> str:
        """Return 32 characters that are the same for the same dashboard only."""
        return hashlib.sha256(normalised(self.content).encode()).hexdigest()[:32]


def normalised(content: Mapping[str, Any]) -> str:
    """Return a dashboard as JSON with sorted keys, without what Grafana itself sets."""
    own = {key: value for key, value in content.items() if key not in OF_GRAFANA}
    return json.dumps(own, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def load(input_dir: Path | None, wanted: Sequence[str]) -> tuple[Document, ...]:
    """Read dashboards and check them all.

    Args:
        input_dir: A folder of `*.json`; where None, those that come with this package.
        wanted: uids of the folder, or files; all of the folder where empty.
    """
    files = [name for name in wanted if _is_file(name)]
    uids = [name for name in wanted if not _is_file(name)]
    problems: list[str] = []
    found = _read([Path(name) for name in files], problems)
    if uids or not wanted:
        found += _of_folder(input_dir or resources.files("dashboards") / "out", uids, problems)
    problems += _repeated(found, "uid") + _repeated(found, "title")
    if problems:
        raise DocumentError(problems)
    return tuple(sorted(found, key=lambda document: document.uid))


def _is_file(name: str) -> bool:
    return not UID.fullmatch(name)


def _of_folder(folder: Traversable, uids: Sequence[str], problems: list[str]) -> list[Document]:
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith(".json")]
    except OSError as error:
        problems.append(f"{folder}: {error.strerror}; give another --input-dir")
        return []
    documents = _read(sorted(paths, key=lambda path: path.name), problems)
    if not paths:
        problems.append(f"{folder}: no *.json there; give another --input-dir")
    elif not problems:
        problems += _unknown(uids, [document.uid for document in documents])
    return [document for document in documents if not uids or document.uid in uids]


def _unknown(uids: Iterable[str], known: Sequence[str]) -> list[str]:
    return [
        f"{uid}: no such dashboard; there are {', '.join(known)}{did_you_mean(uid, known)}"
        for uid in uids
        if uid not in known
    ]


def _read(paths: Iterable[Traversable], problems: list[str]) -> list[Document]:
    documents = []
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}: no JSON: {error}")
        else:
            faults = _faults(content)
            problems += [f"{path}: {fault}" for fault in faults]
            documents += [] if faults else [Document(str(path), content)]
    return documents


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _faults(content: Any) -> list[str]:
    """Return why a document is no dashboard that can be pushed."""
    if not isinstance(content, dict):
        return ["not a JSON object"]
    if "spec" in content or "elements" in content:
        return ["a dashboard of schema v2; export it as the classic model"]
    faults = []
    if not (isinstance(content.get("uid"), str) and UID.fullmatch(content["uid"])):
        faults.append("uid: must be 1 to 40 letters, digits, `-` or `_`")
    if not (isinstance(content.get("title"), str) and content["title"].strip()):
        faults.append("title: must be a text")
    if not isinstance(content.get("panels"), list):
        faults.append("panels: must be a list")
    if content.get("__inputs"):
        faults.append("__inputs: only Grafana's import page fills them in; use a variable instead")
    return faults


def _repeated(documents: Sequence[Document], key: str) -> list[str]:
    counts = Counter(str(document.content[key]) for document in documents)
    return [
        f"{', '.join(d.source for d in documents if d.content[key] == value)}: the same {key} "
        f"{value!r}"
        for value, count in counts.items()
        if count > 1
    ]
