"""Say in the words of this project what pydantic finds wrong with a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

WHOLE_NUMBER, NUMBER = "must be a whole number", "must be a number"
TEXT, BOOLEAN = "must be a text", "must be true or false"
LIST, MAPPING = "must be a list", "must be a mapping"
WORDS = {
    "missing": "required",
    "int_type": WHOLE_NUMBER,
    "int_parsing": WHOLE_NUMBER,
    "int_parsing_size": "must be a smaller number",
    "int_from_float": WHOLE_NUMBER,
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "string_type": TEXT,
    "bool_type": BOOLEAN,
    "bool_parsing": BOOLEAN,
    "list_type": LIST,
    "tuple_type": LIST,
    "dict_type": MAPPING,
    "mapping_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
}
"""What to say by the type of an error; others are numbers out of bounds, or our own validators'."""


def fault_text(error: ErrorDetails) -> str:
    """Return what is wrong, without the value and its place."""
    context = error.get("ctx", {})
    if error["type"] == "string_too_short":
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have at least {least} characters"
    if words := WORDS.get(error["type"]):
        return words.format_map(context)
    own = error["msg"].removeprefix("Value error, ")
    return own.replace("Input should be", "must be", 1)
