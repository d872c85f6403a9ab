"""Decode JSON objects of instances; a bad value is left out, the others stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from exporter.engines.base import clipped, decode_json, good_body
from exporter.errors import PollError
from exporter.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.engines.base import Answers


Object = TypeVar("Object", bound=msgspec.Struct)


class ObjectReader(Generic[Object]):
    """Reads JSON objects into a Struct."""

    def __init__(self, kind: type[Object]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        self._decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        fields = msgspec.structs.fields(kind)
        self._required = [field.name for field in fields if field.required]
        self._decode_field = {
            field.name: msgspec.json.Decoder(field.type).decode for field in fields
        }

    def read(self, body: bytes | msgspec.Raw, path: str) -> tuple[Object, dict[str, str]]:
        """Return the object, and by its name what is wrong with each value that is left out.

        Raises:
            PollError: BAD_BODY. It is no object, or a value that must be there is missing or bad.
        """
        try:
            return decode_json(self._decode, body, path), {}
        except PollError:  # then each value is decoded by itself
            return self._read_each(decode_json(self._decode_raw, body, path), path)

    def _read_each(
        self, raw_values: dict[str, msgspec.Raw], path: str
    ) -> tuple[Object, dict[str, str]]:
        values: dict[str, object] = {}
        faults: dict[str, str] = {}
        for name in [name for name in self._decode_field if name in raw_values]:
            try:
                values[name] = decode_json(self._decode_field[name], raw_values[name], name)
            except PollError as error:
                faults[name] = error.detail
        missing = [name for name in self._required if name not in values]
        if missing:
            why = "; ".join(faults.values()) or f"lacks {', '.join(missing)}"
            raise PollError(Outcome.BAD_BODY, f"{path}: {clipped(why)}")
        return self._kind(**values), faults


MAX_TRIED = 1000
"""Records of a list with bad ones that are decoded one by one."""


def read_each(
    read: Callable[[msgspec.Raw, str], tuple[Object, Mapping[str, str]]],
    raw_records: Sequence[msgspec.Raw],
    path: str,
    faults: list[PollError],
) -> list[Object]:
    """Return the records of a list that can be read; what cannot is a fault."""
    records = []
    for raw in raw_records[:MAX_TRIED]:
        try:
            record, bad_values = read(raw, path)
        except PollError as error:
            # Not the error itself: the frames that it passes hold the list that would hold it.
            faults.append(PollError(error.outcome, error.detail))
        else:
            records.append(record)
            faults += [PollError(Outcome.BAD_BODY, f"{path}: {why}") for why in bad_values.values()]
    return records


def read_if_good(kind: type[Object]) -> Callable[[Answers, str], Object]:
    """Return a reader of a path that only names things; defaults stand in for what is missing.

    Such paths are asked seldom and may need an API key.
    """
    read = ObjectReader(kind).read
    nothing = kind()

    def read_answer(answers: Answers, path: str) -> Object:
        body = good_body(answers, path)
        if body is None:
            return nothing
        try:
            return read(body, path)[0]
        except PollError:
            return nothing

    return read_answer
