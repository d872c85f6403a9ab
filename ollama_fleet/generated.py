"""Write what a command makes into a folder, or check that the folder holds just that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ollama_fleet.files import write_whole


class GeneratedError(Exception):
    """Files cannot be written, or are not as they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Everything that one command makes."""

    what: str
    """For messages: `alerts`; `ollama-fleet alerts build` makes them."""
    made: Mapping[str, str]
    """The text of each file, by its path below the folder."""
    folders: tuple[tuple[str, str], ...]
    """(folder, pattern) of those that hold nothing but what is made."""
    is_ours: Callable[[str], bool]
    """Whether a text was made by the command, now or by an earlier version."""


def write(output: Output, folder: Path) -> tuple[str, ...]:
    """Write the files that differ, remove those of ours that are no longer made; return which.

    Raises:
        GeneratedError: A file cannot be written or removed, or one of that name is not ours.
    """
    made = output.made
    if others := [path for path in made if _is_others(output, folder / path)]:
        raise GeneratedError(
            f"{', '.join(str(folder / path) for path in others)}: not made by this command, so "
            "left alone, and nothing written; choose another --output-dir, or move it away"
        )
    changed = [path for path, text in made.items() if _text_of(folder / path) != text]
    orphans = _orphans(output, folder)
    for path in (*changed, *orphans):
        try:
            _bring_about(folder / path, made.get(path))
        except OSError as error:
            raise GeneratedError(
                f"cannot write {folder / path}: {error.strerror}; choose another --output-dir, or "
                "make room there and make it writable"
            ) from error
    return (*changed, *orphans)


def _bring_about(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())


def check(output: Output, folder: Path) -> None:
    """See whether the folder holds what `write` would write, and no more.

    Raises:
        GeneratedError: Files are missing, differ, or are left over; names each.
    """
    faults = [fault for path, text in output.made.items() if (fault := _fault(folder / path, text))]
    faults += [
        f"{folder / path} is left over: nothing makes it" for path in _orphans(output, folder)
    ]
    if faults:
        raise GeneratedError(
            "\n  ".join(
                [
                    f"the {output.what} are out of date: they differ from what is generated",
                    *faults,
                ]
            )
            + f"\nRun `ollama-fleet {output.what} build` with the same settings."
        )


def _fault(path: Path, text: str) -> str:
    found = _text_of(path)
    if found is None:
        return f"{path} is missing"
    if not found.strip():
        return f"{path} is empty"
    return "" if found == text else f"{path} differs"


def _orphans(output: Output, folder: Path) -> list[str]:
    found = (
        path.relative_to(folder).as_posix()
        for name, pattern in output.folders
        for path in sorted((folder / name).glob(pattern))
    )
    return [
        path for path in found if path not in output.made and not _is_others(output, folder / path)
    ]


def _is_others(output: Output, path: Path) -> bool:
    """Return whether a file is there that this command has not made."""
    text = _text_of(path)
    return bool(text) and not output.is_ours(str(text))


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""
