"""Read what a client says that it takes.

In:   the text of an Accept or Accept-Encoding header.
Out:  what it names. Pure; nothing in a header is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def taken(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what an Accept header names, with its parameters; a weight of 0 means `not this`."""
    for part in header.lower().split(","):
        name, *texts = [text.strip() for text in part.split(";")]
        parameters = dict(text.split("=", 1) for text in texts if "=" in text)
        if parameters.get("q", "1").strip("0."):
            yield name, parameters


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header takes gzip."""
    return any(name == "gzip" for name, _ in taken(accept_encoding))
