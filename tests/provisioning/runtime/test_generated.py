from __future__ import annotations

from tests.provisioning.runtime.generated import FOLDER, STEM, generated


def test_the_committed_messages_are_those_of_the_definitions() -> None:
    """Where this fails: python -m tests.provisioning.runtime.generated."""
    committed = {path.name: path.read_text() for path in FOLDER.glob(f"{STEM}_pb2.*")}

    assert generated() == committed
