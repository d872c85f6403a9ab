"""Combine the settings: command line before environment before file before default."""

from __future__ import annotations

import os
import ssl
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.counters import SPEED_KEPT_S
from exporter.errors import InputError
from exporter.inventory.checks import shown
from exporter.inventory.source import public_names
from exporter.inventory.sources import urls_of
from exporter.settings import FOLLOWING, SETTINGS, Setting
from ollama_fleet import yaml_lines
from ollama_fleet.durations import duration_text
from ollama_fleet.problems import Problem
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import InvalidDocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from exporter.inventory import Shard
    from exporter.settings import Setting
    from exporter.status import Transient
    from ollama_fleet.levels import Level


SETTING_BY_NAME = {setting.name: setting for setting in SETTINGS}

TIMES = ("poll.interval", "poll.metrics-timeout", "poll.health-timeout")
MAX_CANARY_PERIOD_S = SPEED_KEPT_S / 2

MAX_FILE_BYTES = 1_048_576
"""A file of settings with a thousand inventories is a tenth of that."""


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody wrote for a setting."""

    texts: tuple[str, ...]
    """One, or several for a repeatable setting."""
    place: str
    """`--poll.interval`, `OLLAMA_FLEET_POLL_INTERVAL` or `exporter.yml:3: poll.interval`."""


@dataclass(frozen=True, slots=True)
class Config:
    """The effective settings. Times are in seconds; SETTINGS says what each means."""

    inventory: tuple[str, ...]
    inventory_refresh_interval: float
    inventory_timeout: float
    inventory_allow_partial: bool
    inventory_transient: Transient
    inventory_token_file: str
    inventory_ca_file: str
    poll_interval: float
    poll_health_timeout: float
    poll_metrics_timeout: float
    poll_max_body_bytes: int
    poll_identify_interval: float
    poll_loading_timeout: float
    poll_starting_timeout: float
    poll_grace_period: float
    poll_ca_file: str
    poll_insecure_skip_verify: bool
    canary_period: float
    canary_timeout: float
    canary_concurrency: int
    canary_tokens: int
    canary_prompt: str
    gateway_url: tuple[str, ...]
    shard: Shard
    metrics_per_instance: bool | None
    metrics_hardware_label: str
    metrics_latency_unit: str
    metrics_max_tokens_per_second: int
    web_listen_address: tuple[tuple[str, int], ...]
    web_telemetry_path: str
    web_config_file: str
    web_token_file: str
    web_allowed_hosts: tuple[str, ...]
    web_write_timeout: float
    web_max_connections: int
    ui_healthy_instances: Level
    ui_request_latency_p99: float
    ui_tokens_per_second: Level
    ui_prometheus_url: str
    log_window: float
    log_level: str
    log_format: str
    given: Mapping[str, Given] = field(default_factory=dict, repr=False, compare=False)
    """By the name of the setting; those that nobody set are missing."""

    @property
    def latency_unit_s(self) -> float:
        """Return how many seconds one unit of `latency_p99` is."""
        return 0.001 if self.metrics_latency_unit == "milliseconds" else 1.0


def build(*layers: Mapping[str, Given], faults: Sequence[Problem] = ()) -> Config:
    """Return the configuration; of the layers that hold a setting, the first one counts.

    Raises:
        InputError: All that is wrong, with places; the faults that are known already included.
    """
    problems = list(faults)
    given = {setting.name: _first(setting, layers) for setting in SETTINGS}
    values = {
        setting.attribute: _value(setting, given[setting.name], problems) for setting in SETTINGS
    }
    if not problems:
        _follow(values, given)
        problems += _cross_check(values, given)
    if problems:
        raise InputError("the exporter's configuration", problems)
    return Config(**values, given={name: found for name, found in given.items() if found})


def effective(config: Config) -> list[dict[str, Any]]:
    """Return each setting in force and where it was set, without secrets."""
    rows = []
    for setting in SETTINGS:
        given = config.given.get(setting.name)
        texts = list(given.texts if given else filter(None, [setting.default]))
        if setting.name in FOLLOWING and not given:
            texts = [duration_text(getattr(config, setting.attribute))]
        texts = public_names(texts) if setting.name == "inventory" else texts
        value = texts if setting.is_repeatable else "".join(texts)
        source = given.place if given else "default"
        rows.append({"name": setting.name, "value": value, "source": source})
    return rows


def read_file(path: Path) -> tuple[dict[str, Given], list[Problem]]:
    """Return what a YAML file sets, by setting name, and what is wrong with it."""
    try:
        document = yaml_lines.read(path, max_bytes=MAX_FILE_BYTES)
    except InvalidDocumentError as error:
        return {}, [error.problem]
    problems: list[Problem] = []
    given: dict[str, Given] = {}
    for keys, value in _flatten((), {} if document.content is None else document.content):
        name = ".".join(keys)
        name = "inventory" if name == "inventory.sources" else name
        if fault := _fault(name, value, given):
            problems.append(Problem(document.place(keys), fault))
        elif name in SETTING_BY_NAME:
            texts = (_from_folder(path.parent, name, text) for text in _texts(value))
            given[name] = Given(tuple(texts), document.place(keys))
    return given, problems


def _flatten(keys: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each value that is not a mapping, with the keys on the way to it."""
    if not isinstance(value, dict):
        yield keys, value
        return
    for key, inner in value.items():
        yield from _flatten((*keys, str(key)), inner)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(text for item in value for text in _texts(item))
    return () if value is None else (str(value),)


def _from_folder(folder: Path, name: str, text: str) -> str:
    """Return a setting's text with a path, if it is one, relative to the file that sets it."""
    is_path = SETTING_BY_NAME[name].metavar in {"FILE", "FILE_OR_URL"}
    return str(folder / text) if is_path and text and not urls_of(text) else text


def _fault(name: str, value: Any, given: Mapping[str, Given]) -> str:
    """Return what is wrong with a key of the file or with the form of its value."""
    if not name:
        return "must be a mapping of settings"
    if name in given:
        return "is set twice"
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return "must be a text, or a list of texts"
    is_section = any(known.startswith(f"{name}.") for known in SETTING_BY_NAME)
    if name in SETTING_BY_NAME or (is_section and value is None):
        return ""
    return f"unknown key{did_you_mean(name, SETTING_BY_NAME)}"


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


def _follow(values: dict[str, Any], given: Mapping[str, Given | None]) -> None:
    """Have defaults follow the settings that they depend on."""
    for name, following in FOLLOWING.items():
        if given[name] is None:
            values[SETTING_BY_NAME[name].attribute] = following(values)


def _cross_check(values: Mapping[str, Any], given: Mapping[str, Given | None]) -> Iterator[Problem]:
    if not values["inventory"]:
        yield Problem("inventory", "required: name a file or URL with the list of instances")
    yield from _repeated_inventories(values["inventory"])
    yield from _check_times(values, given)
    yield from _check_canary(values, given)
    for name in ("inventory.token-file", "inventory.ca-file", "poll.ca-file", "web.config.file"):
        path = values[SETTING_BY_NAME[name].attribute]
        if path and not Path(path).is_file():
            yield Problem(name, f"there is no file {path}")
        elif path and name.endswith(".ca-file") and (fault := _certificate_fault(path)):
            yield Problem(name, f"no certificates can be read from {path}: {fault}")


def _repeated_inventories(texts: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each file or URL that is named more than once."""
    counts = Counter(name for text in texts for name in urls_of(text) or [os.path.normpath(text)])
    for name, count in counts.items():
        if count > 1:
            message = f"{shown(name)} is given {count} times; name each file or URL once"
            yield Problem("inventory", message)


def _check_times(values: Mapping[str, Any], given: Mapping[str, Given | None]) -> Iterator[Problem]:
    interval_s, whole_s = values["poll_interval"], values["poll_metrics_timeout"]
    interval, whole, health = (_in_force(name, values, given) for name in TIMES)
    if whole_s >= interval_s:
        place = _first_place(given, "poll.metrics-timeout", "poll.interval")
        helps = _lower("poll.metrics-timeout", 0.8 * interval_s)
        yield Problem(place, f"{whole} must be shorter than {interval}: {helps}")
    if values["poll_health_timeout"] > whole_s:
        place = _first_place(given, "poll.health-timeout", "poll.metrics-timeout")
        helps = _lower("poll.health-timeout", 0.5 * whole_s)
        yield Problem(place, f"{health} must not be longer than {whole}: {helps}")


def _check_canary(
    values: Mapping[str, Any], given: Mapping[str, Given | None]
) -> Iterator[Problem]:
    period_s = values["canary_period"]
    if not period_s:
        return
    period, timeout = (
        _in_force(name, values, given) for name in ("canary.period", "canary.timeout")
    )
    if period_s > MAX_CANARY_PERIOD_S:
        longest = duration_text(MAX_CANARY_PERIOD_S)
        place = _first_place(given, "canary.period")
        yield Problem(place, f"{period} must be at most {longest}: results count for an hour")
    if values["canary_timeout"] >= period_s:
        place = _first_place(given, "canary.timeout", "canary.period")
        helps = _lower("canary.timeout", 0.5 * period_s)
        yield Problem(place, f"{timeout} must be shorter than {period}: {helps}")


def _first_place(given: Mapping[str, Given | None], *names: str) -> str:
    """Return where the first of the settings that somebody wrote stands."""
    return next((found.place for name in names if (found := given[name])), names[0])


def _in_force(name: str, values: Mapping[str, Any], given: Mapping[str, Given | None]) -> str:
    """Return a time with its value as it was written, or as it is by default."""
    if (written := given[name]) is not None:
        return f"{name} ({written.texts[0].strip()})"
    return f"{name} ({duration_text(values[SETTING_BY_NAME[name].attribute])}, the default)"


def _lower(name: str, duration_s: float) -> str:
    """Return the advice to lower a setting to a duration, at least a millisecond."""
    return f"lower it as well, for instance --{name} {duration_text(max(0.001, duration_s))}"


def _certificate_fault(path: str) -> str:
    """Return why a file holds no certificates; empty where it does."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError among them
        return error.strerror or str(error)
    return ""


T = TypeVar("T")


def changed(before: Config, after: Config) -> list[Setting]:
    """Return the settings whose values differ."""
    return [
        setting
        for setting in SETTINGS
        if getattr(before, setting.attribute) != getattr(after, setting.attribute)
    ]


def restarts(settings: Sequence[Setting]) -> list[Problem]:
    """Return a problem for each changed setting that a running exporter cannot take over."""
    message = "needs a restart; nothing is changed"
    return [Problem(setting.name, message) for setting in settings if setting.needs_restart]


def assign(target: T, source: T, *, keep: Sequence[str] = ()) -> None:
    """Give a dataclass that others hold the values of another one, except for some fields."""
    for one in fields(source):  # type: ignore[arg-type]
        if one.name not in keep:
            setattr(target, one.name, getattr(source, one.name))
