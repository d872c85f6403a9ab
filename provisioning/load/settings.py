"""What a load test asks for, of whom, how often, and when it counts as passed."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Api(StrEnum):
    """Whose endpoints are asked for text."""

    OLLAMA = "ollama"
    OPENAI = "openai"


class LoadTestError(Exception):
    """A load test cannot run; the message says what helps."""


PROMPTS = (
    "Why is the sky blue?",
    "Write a function that reverses a linked list.",
    "Summarise the rules of chess in three sentences.",
    "Translate 'good morning' into French, German and Spanish.",
    "What is the difference between a process and a thread?",
)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each user does; a master sends it to its workers."""

    instances: str = ""
    """URL or file of the instances that users ask; empty: they ask the gateway."""
    gateway_url: str = ""
    models: tuple[str, ...] = ()
    """Empty: each instance's own."""
    api: Api = Api.OLLAMA
    is_stream: bool = False
    n_tokens: int = 8
    prompts: tuple[str, ...] = PROMPTS
    key_file: str = ""
    """Of the worker's own machine, as is `ca_file`: no secret passes between workers."""
    ca_file: str = ""
    timeout_s: float = 30.0
    wait_s: tuple[float, float] = (0.1, 0.5)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much load, and for how long."""

    n_users: int
    users_per_s: float
    """How fast users arrive."""
    run_time_s: float


class ServiceLevel(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet has to reach; shares are 0 to 1."""

    p99_s: float
    failed_ratio: float
    rejected_ratio: float | None = None
    """None: rejections are reported, not judged."""
