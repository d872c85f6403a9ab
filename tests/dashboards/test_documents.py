"""Dashboards are read and checked, all of them, before anything is done with any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dashboards import documents
from dashboards.documents import Document
from dashboards.errors import DocumentError


def content(uid: str, /, **changes: Any) -> dict[str, Any]:
    return {"uid": uid, "title": f"Title of {uid}", "panels": [], **changes}


def write(folder: Path, *contents: dict[str, Any]) -> Path:
    for one in contents:
        (folder / f"{one.get('uid', 'none')}.json").write_text(json.dumps(one))
    return folder


def uids(found: tuple[Document, ...]) -> list[str]:
    return [document.uid for document in found]


def problems_of(folder: Path, *wanted: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        documents.load(folder, wanted)
    return list(caught.value.problems)


def test_a_whole_folder_is_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, content("b"), content("a"))
    (tmp_path / "README.md").write_text("no dashboard")

    assert ["a", "b"] == uids(documents.load(tmp_path, []))


def test_files_are_read_wherever_they_are(tmp_path: Path) -> None:
    write(tmp_path, content("a"), content("b"))

    assert ["b"] == uids(documents.load(None, [str(tmp_path / "b.json")]))


def test_an_unknown_uid_is_told_with_the_known_ones(tmp_path: Path) -> None:
    write(tmp_path, content("fleet-nodes"), content("fleet-models"))

    assert [
        "fleet-node: no such dashboard; there are fleet-models, fleet-nodes; did you mean "
        "fleet-nodes?"
    ] == problems_of(tmp_path, "fleet-node")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "no JSON: "),
        ('{"a": NaN}', "no JSON: NaN is no number of JSON"),
        ("[" * 100_000, "no JSON: "),
        ("[]", "not a JSON object"),
        ('{"spec": {}}', "schema v2"),
        ('{"elements": {}}', "schema v2"),
        (json.dumps(content("ä")), "uid: must be"),
        (json.dumps(content("x" * 41)), "uid: must be"),
        (json.dumps(content("a", uid=7)), "uid: must be"),
        (json.dumps(content("a", title=" ")), "title: must be"),
        (json.dumps(content("a", panels={})), "panels: must be"),
        (json.dumps(content("a", __inputs=[{}])), "__inputs: only"),
    ],
)
def test_what_is_no_dashboard_is_told_with_its_file(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "wrong.json").write_text(text)

    (told,) = problems_of(tmp_path)

    assert told.startswith(f"{tmp_path}/wrong.json: ")
    assert problem in told


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, content("a", title="", panels=None))
    (tmp_path / "b.json").write_bytes(b"\xff")

    assert 3 == len(problems_of(tmp_path, str(tmp_path / "missing.json"), "a")) - 1


@pytest.mark.parametrize("key", ["uid", "title"])
def test_two_dashboards_that_would_be_one_are_told(tmp_path: Path, key: str) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(content(name, **{key: "same"})))

    assert [f"{tmp_path}/a.json, {tmp_path}/b.json: the same {key} 'same'"] == problems_of(tmp_path)


def test_a_folder_without_dashboards_is_told(tmp_path: Path) -> None:
    assert [f"{tmp_path}: no *.json there; give another --input-dir"] == problems_of(tmp_path)
    assert [f"{tmp_path}/x: No such file or directory; give another --input-dir"] == problems_of(
        tmp_path / "x"
    )


def test_the_same_dashboard_has_the_same_digest() -> None:
    one = Document("a", content("a", id=7, version=3, refresh="1m"))
    same = Document("b", {"refresh": "1m", **content("a")})
    other = Document("a", content("a", refresh="2m"))

    assert one.digest == same.digest
    assert one.digest != other.digest
    assert 32 == len(one.digest)
