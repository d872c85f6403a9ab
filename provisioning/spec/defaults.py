"""Complete a specification: engines' defaults, ranges of nodes, files of developers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any, NamedTuple

from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import Path

RANGE = re.compile(r"\{([0-9]{1,6})\.\.([0-9]{1,6})\}", re.ASCII)
MAX_GROUP = 10_000
"""Nodes of one entry."""
MAX_DEVELOPERS = 1_000_000
MAX_DEVELOPERS_BYTES = 4_000_000
Document = dict[str, Any]


class Fault(NamedTuple):
    """What is wrong with a document, and where in it."""

    path: Path
    message: str


class Preset(StrEnum):
    """Warm-ups with a name."""

    PULL = "pull"
    """Fetch the model where it is missing, then load it."""
    LOAD = "load"
    """Load a model that is there already."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RequestsPage:
    """Where an engine says how many requests run and wait."""

    path: str
    names: tuple[str, ...]
    """Keys of its JSON, or names of its Prometheus series; all 0: the engine is idle."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The defaults of one kind of LLM server."""

    health_path: str = ""
    """Empty: the specification has to say it."""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    warm_up: Preset = Preset.NONE
    presets: frozenset[Preset] = frozenset({Preset.NONE})
    """The warm-ups that it knows."""
    requests: RequestsPage | None = None
    """None: it does not count its requests, so a drain lasts its whole time."""
    canary_path: str = ""
    """Path of the canary; see `runtime.canary`. Empty: it has no canary."""


COMPLETIONS = "/v1/completions"
ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "auto": Engine(),
        "fleet": Engine(
            health_path="/health",
            requests=RequestsPage("/api/metrics", ("requests_running", "requests_queued")),
        ),
        # Its health page answers 503 until the model is loaded: no warm-up is needed.
        "llamacpp": Engine(
            health_path="/health",
            # Without its option --metrics this answers 501, and a drain lasts its whole time.
            requests=RequestsPage(
                "/metrics", ("llamacpp:requests_processing", "llamacpp:requests_deferred")
            ),
            canary_path="/completion",
        ),
        # It has no health page; its version page answers in a millisecond, also while it generates.
        "ollama": Engine(
            health_path="/api/version",
            command=("ollama", "serve"),
            environment=MappingProxyType(
                {
                    "OLLAMA_HOST": "{address}",
                    "OLLAMA_NUM_PARALLEL": "1",
                    "OLLAMA_MAX_LOADED_MODELS": "1",
                }
            ),
            warm_up=Preset.PULL,
            presets=frozenset(Preset),
            canary_path="/api/generate",
        ),
        # These listen once their model is loaded: they need a longer limits.start_timeout.
        "vllm": Engine(
            health_path="/health",
            requests=RequestsPage(
                "/metrics", ("vllm:num_requests_running", "vllm:num_requests_waiting")
            ),
            canary_path=COMPLETIONS,
        ),
        "sglang": Engine(
            health_path="/model_info",  # its /health generates a token each time
            requests=RequestsPage("/metrics", ("sglang:num_running_reqs", "sglang:num_queue_reqs")),
            canary_path=COMPLETIONS,
        ),
        "tgi": Engine(
            health_path="/health",
            requests=RequestsPage("/metrics", ("tgi_batch_current_size", "tgi_queue_size")),
            canary_path=COMPLETIONS,
        ),
    }
)
DEFAULT_ENGINE = "ollama"


class Completion:
    """One completion of one document; `faults` holds what could not be completed."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.entry_of_node: list[int] = []
        """By index of a node in the completed document: its index in the given one."""

    def expanded(self, document: object, folder: FilePath) -> object:
        """Return a person's document with its node ranges and developers written out."""
        if not isinstance(document, dict):
            return document
        expanded = dict(document)
        if isinstance(document.get("nodes"), list):
            expanded["nodes"] = list(self._nodes(document["nodes"]))
        if isinstance(document.get("pools"), list):
            expanded["pools"] = [
                self._with_developers(pool, ("pools", index, "developers"), folder)
                for index, pool in enumerate(document["pools"])
            ]
        return expanded

    def completed(self, document: object) -> object:
        """Return a document with the defaults of its pools' engines; one that has them is equal."""
        if not isinstance(document, dict) or not isinstance(document.get("pools"), list):
            return document
        pools = [self._with_engine(pool, index) for index, pool in enumerate(document["pools"])]
        return {**document, "pools": pools}

    def _nodes(self, entries: list[Any]) -> Iterator[object]:
        for index, entry in enumerate(entries):
            nodes = [entry]
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                try:
                    nodes = nodes_of(entry)
                except ValueError as error:
                    self._complain(("nodes", index, "name"), str(error))
                    continue
            self.entry_of_node += [index] * len(nodes)
            yield from nodes

    def _with_developers(self, pool: Any, path: Path, folder: FilePath) -> Any:
        given = pool.get("developers") if isinstance(pool, dict) else None
        if not isinstance(given, dict):
            return pool
        try:
            return {**pool, "developers": developers_of(given, folder)}
        except ValueError as error:
            self._complain(path, str(error))
            return {**pool, "developers": []}

    def _with_engine(self, pool: Any, index: int) -> Any:
        path: Path = ("pools", index)
        name = pool.get("engine", DEFAULT_ENGINE) if isinstance(pool, dict) else None
        engine = ENGINES.get(name) if isinstance(name, str) else None
        if engine is None:
            return pool
        defaults = {"engine": name, "command": engine.command, "warm_up": engine.warm_up}
        completed = {**defaults, **pool}
        health, environment = pool.get("health", {}), pool.get("environment", {})
        if isinstance(health, dict) and "path" not in health:
            completed["health"] = {**health, "path": engine.health_path or "/"}
            if not engine.health_path:
                self._complain((*path, "health"), f"needs a path: engine {name} has no usual one")
        if isinstance(environment, dict):
            self._check_dropped(environment, engine, str(name), (*path, "environment"))
            completed["environment"] = {**engine.environment, **environment}
        return completed

    def _check_dropped(self, given: Document, engine: Engine, name: str, path: Path) -> None:
        """Refuse a variable without a value, unless it drops one that the engine sets."""
        for variable, value in given.items():
            if value is None and variable not in engine.environment:
                near = did_you_mean(str(variable), engine.environment)
                self._complain(
                    (*path, str(variable)),
                    f"has no value, which only drops what engine {name} sets by default; "
                    f'write "" for an empty text{near}',
                )

    def _complain(self, path: Path, message: str) -> None:
        self.faults.append(Fault(path, message))


def nodes_of(entry: Document) -> list[Document]:
    """Return the nodes of an entry: of `rack1-n{01..12}`, or of a name and a count.

    Raises:
        ValueError: It has a bad range or count, or ranges of different lengths.
    """
    common = {key: value for key, value in entry.items() if key != "count"}
    names = _names(entry["name"], entry["count"]) if "count" in entry else expanded(entry["name"])
    columns = {"name": names}
    for key in ("address", "endpoint"):
        if isinstance(entry.get(key), str):
            columns[key] = _aligned(entry[key], len(names))
    rows = zip(*columns.values(), strict=True)
    return [{**common, **dict(zip(columns, row, strict=True))} for row in rows]


def _names(text: str, count: object) -> tuple[str, ...]:
    if RANGE.search(text):
        raise ValueError("holds a range beside a count; give one or the other")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_GROUP:
        raise ValueError(f"count must be from 1 to {MAX_GROUP:,}")
    width = len(str(count))
    return tuple(f"{text}-{number:0{width}}" for number in range(1, count + 1))


def expanded(text: str) -> tuple[str, ...]:
    """Return a text for each number of its range; leading zeros keep the width."""
    found = RANGE.search(text)
    if found is None:
        return (text,)
    if RANGE.search(text, found.end()):
        raise ValueError(f"holds more than one range: {text}")
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MAX_GROUP:
        raise ValueError(f"range {found[0]} must ascend, and hold at most {MAX_GROUP:,} numbers")
    width = len(found[1])
    before, after = text[: found.start()], text[found.end() :]
    return tuple(f"{before}{number:0{width}}{after}" for number in range(first, last + 1))


def _aligned(text: str, n: int) -> tuple[str, ...]:
    """Return n texts: those of a range, which must have n numbers, or n times the same."""
    texts = expanded(text)
    if RANGE.search(text) is None:
        return texts * n
    if len(texts) != n:
        raise ValueError(f"range stands for {len(texts):,} texts, the name for {n:,} nodes: {text}")
    return texts


def developers_of(given: Document, folder: FilePath) -> list[str]:
    """Return the developers' names: the lines of a file, or a count of made-up names.

    Raises:
        ValueError: The file cannot be read, or the mapping holds something else.
    """
    match given:
        case {"file": str(name), **others} if not others:
            return _names_in(folder / name)
        case {"count": int(count), **others} if set(others) <= {"prefix"} and count is not True:
            if not 0 <= count <= MAX_DEVELOPERS:
                raise ValueError(f"count must be from 0 to {MAX_DEVELOPERS:,}, got {count}")
            width = max(4, len(str(count)))
            prefix = others.get("prefix", "dev-")
            return [f"{prefix}{number:0{width}}" for number in range(1, count + 1)]
    for key in given:
        if key not in ("file", "count", "prefix"):
            near = did_you_mean(str(key), ("file", "count", "prefix"))
            raise ValueError(f"has the unknown key {key}{near}")
    raise ValueError("must be a list of names, or have either a file or a count and a prefix")


def _names_in(file: FilePath) -> list[str]:
    """Return the lines of a file, without empty ones and those that begin with #."""
    try:
        if not file.exists():
            raise ValueError("it does not exist")
        if not file.is_file():
            raise ValueError("it is not a regular file")
        if file.stat().st_size > MAX_DEVELOPERS_BYTES:
            raise ValueError(f"it is larger than {MAX_DEVELOPERS_BYTES:,} bytes")
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:  # UnicodeDecodeError among them
        seen = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {file}: {seen}") from error
    return [line for line in lines if line and not line.startswith("#")]
