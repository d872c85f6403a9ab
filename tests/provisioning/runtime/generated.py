"""Make Python of the message definitions; `python -m tests.provisioning.runtime.generated`."""

from __future__ import annotations

import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

import provisioning.runtime

FOLDER = Path(next(iter(provisioning.runtime.__path__)))
STEM = "containerd_messages"
BANNER = """\
# Generated from {stem}.proto by tests/provisioning/runtime/generated.py; do not edit.
"""


def generated() -> dict[str, str]:
    """Return the text of each file that is made of the definitions, by its name."""
    well_known = files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [f"-I{FOLDER}", f"-I{well_known}", f"--python_out={scratch}"]
        status = protoc.main(["protoc", *arguments, f"--pyi_out={scratch}", f"{STEM}.proto"])
        if status:
            raise RuntimeError(f"protoc failed on {STEM}.proto with status {status}")
        banner = BANNER.format(stem=STEM)
        return {path.name: banner + path.read_text() for path in sorted(Path(scratch).iterdir())}


def main() -> None:
    """Write the files."""
    for name, text in generated().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
