"""Types of settings that are written as durations, levels and shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from ollama_fleet.durations import duration_text, parse_positive_duration_s
from ollama_fleet.levels import Level, parse_count_level, parse_level, parse_positive_share, percent

Duration = Annotated[
    float, BeforeValidator(parse_positive_duration_s), PlainSerializer(duration_text)
]
"""Seconds in the program."""
LevelSetting = Annotated[Level, BeforeValidator(parse_level), PlainSerializer(str)]
CountLevelSetting = Annotated[Level, BeforeValidator(parse_count_level), PlainSerializer(str)]
"""A number of instances: at most all of them."""
Share = Annotated[float, BeforeValidator(parse_positive_share), PlainSerializer(percent)]
"""A ratio in the program."""
