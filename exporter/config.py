"""Put the exporter's settings together: command line before environment before file before default.

In:   texts by setting name, each with its place.
Out:  a Config. Fails with InputError, which names every problem at once with its place.
"""

from __future__ import annotations

import difflib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from exporter.errors import InputError, Problem
from exporter.settings import SETTINGS, Setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from exporter.inventory import Shard

SETTING_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in force. Times are in seconds; SETTINGS says what each means."""

    inventory: tuple[str, ...]
    inventory_refresh_interval: float
    inventory_timeout: float
    inventory_token_file: str
    inventory_ca_file: str
    poll_interval: float
    poll_health_timeout: float
    poll_metrics_timeout: float
    poll_max_body_bytes: int
    poll_identify_interval: float
    poll_ca_file: str
    poll_insecure_skip_verify: bool
    shard: Shard
    metrics_per_instance: bool
    metrics_latency_unit: str
    web_listen_address: tuple[str, int]
    web_config_file: str
    log_window: float
    log_level: str

    @property
    def latency_unit_s(self) -> float:
        """Return how many seconds one unit of `latency_p99` is."""
        return 0.001 if self.metrics_latency_unit == "milliseconds" else 1.0


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody wrote for a setting."""

    texts: tuple[str, ...]
    """One, or several for a repeatable setting."""
    place: str
    """`--poll.interval`, `OLLAMA_FLEET_POLL_INTERVAL` or `exporter.yml: poll.interval`."""


def build(*layers: Mapping[str, Given], faults: Sequence[Problem] = ()) -> Config:
    """Return the configuration; of the layers that hold a setting, the first one counts.

    Raises:
        InputError: All that is wrong, with places; the faults that are known already included.
    """
    problems = list(faults)
    values = {
        setting.attribute: _value(setting, _first(setting, layers), problems)
        for setting in SETTINGS
    }
    if not problems:
        problems += _cross_check(values)
    if problems:
        raise InputError("the exporter's configuration", problems)
    return Config(**values)


def read_file(path: Path) -> tuple[dict[str, Given], list[Problem]]:
    """Return what a YAML file sets, by setting name, and what is wrong with it."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, [Problem(str(path), f"cannot be read as YAML: {' '.join(str(error).split())}")]
    problems: list[Problem] = []
    given: dict[str, Given] = {}
    for name, value in _flatten("", {} if document is None else document):
        place = f"{path}: {name}" if name else str(path)
        if fault := _fault(name, value, given):
            problems.append(Problem(place, fault))
        elif name in SETTING_BY_NAME:
            given[name] = Given(_texts(value), place)
    return given, problems


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted name; `inventory` may be a value, or a mapping with `sources`."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        yield from _flatten("inventory" if name == "inventory.sources" else name, inner)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(text for item in value for text in _texts(item))
    return () if value is None else (str(value),)


def _fault(name: str, value: Any, given: Mapping[str, Given]) -> str:
    """Return what is wrong with a key of the file or with the form of its value."""
    if not name:
        return "must be a mapping of settings"
    if name in given:
        return "is set twice"
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return "must be a text, or a list of texts"
    is_section = any(known.startswith(f"{name}.") for known in SETTING_BY_NAME)
    return "" if name in SETTING_BY_NAME or (is_section and value is None) else _unknown(name)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, SETTING_BY_NAME, n=1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _first(setting: Setting, layers: tuple[Mapping[str, Given], ...]) -> Given | None:
    for layer in layers:
        if setting.name in layer and layer[setting.name].texts:
            return layer[setting.name]
    return None


def _value(setting: Setting, given: Given | None, problems: list[Problem]) -> Any:
    """Return the setting's value; add to the problems where it has none."""
    texts = (setting.default,) if given is None else given.texts
    place = setting.name if given is None else given.place
    try:
        if setting.is_repeatable:
            return tuple(setting.parse(text) for text in texts if text)
        if len(texts) > 1:
            raise ValueError("is given more than once")
        return setting.parse(texts[0])
    except ValueError as error:
        problems.append(Problem(place, str(error)))
        return None


def _cross_check(values: Mapping[str, Any]) -> Iterator[Problem]:
    interval_s, whole_s = values["poll_interval"], values["poll_metrics_timeout"]
    health_s = values["poll_health_timeout"]
    if not values["inventory"]:
        yield Problem("inventory", "required: name a file or URL with the list of instances")
    if whole_s >= interval_s:
        message = f"must be shorter than poll.interval ({interval_s:g} s), got {whole_s:g} s"
        yield Problem("poll.metrics-timeout", message)
    if health_s > whole_s:
        message = (
            f"must not be longer than poll.metrics-timeout ({whole_s:g} s), got {health_s:g} s"
        )
        yield Problem("poll.health-timeout", message)
    for name in ("inventory.token-file", "inventory.ca-file", "poll.ca-file", "web.config.file"):
        path = values[SETTING_BY_NAME[name].attribute]
        if path and not Path(path).is_file():
            yield Problem(name, f"there is no file {path}")
        elif path and name.endswith(".ca-file") and (fault := _certificate_fault(path)):
            yield Problem(name, f"no certificates can be read from {path}: {fault}")


def _certificate_fault(path: str) -> str:
    """Return why a file holds no certificates; empty where it does."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError among them
        return error.strerror or str(error)
    return ""
