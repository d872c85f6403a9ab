"""The generated messages are those of messages.proto.

To make them anew, from the root of the tree:

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
        provisioning/store/etcd/messages.proto
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path("provisioning/store/etcd")
PROTO = FOLDER / "messages.proto"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return a folder with the messages made anew."""
    outputs = (f"--python_out={tmp_path}", f"--pyi_out={tmp_path}")
    command = (sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs)
    subprocess.run([*command, str(ROOT / PROTO)], check=True)
    return tmp_path / FOLDER


def descriptor(path: Path) -> str:
    """Return the messages' description, which no release of the compiler writes otherwise."""
    found = re.search(r"AddSerializedFile\((.*)\)\n", path.read_text())
    assert found is not None
    return found[1]


def test_the_messages_are_those_of_the_proto_file(made: Path) -> None:
    name = "messages_pb2.py"

    assert descriptor(made / name) == descriptor(ROOT / FOLDER / name), __doc__


def test_the_types_are_those_of_the_proto_file(made: Path) -> None:
    name = "messages_pb2.pyi"

    assert (made / name).read_text() == (ROOT / FOLDER / name).read_text(), __doc__


def test_the_messages_clash_with_no_etcd_library() -> None:
    """One process may hold each message's name once only."""
    assert "\npackage ollama_fleet.etcd;\n" in (ROOT / PROTO).read_text()
