"""Every setting of the exporter: its name, type, default and help text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.engines.base import MAX_TOKENS_PER_SECOND
from exporter.inventory import Shard
from exporter.inventory.checks import label_name_fault
from exporter.status import Transient
from ollama_fleet.durations import parse_duration_s, parse_positive_duration_s
from ollama_fleet.levels import parse_count_level, parse_level
from ollama_fleet.logs import FORMATS, LEVELS
from ollama_fleet.urls import base_url, host_port

ENVIRONMENT_PREFIX = "OLLAMA_FLEET_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; `parse` turns the text of an option or variable into its value."""

    name: str
    """As option and as key: `poll.interval`."""
    default: str
    """As one would write it; empty for none."""
    help: str
    parse: Callable[[str], Any]
    shown: str = ""
    """What `--help` says of its values, unless its kind says that."""
    is_repeatable: bool = False
    needs_restart: bool = False
    """Whether a running exporter cannot take over another value."""

    @property
    def metavar(self) -> str:
        """Return what `--help` says of its values."""
        return self.shown or METAVAR_BY_PARSER[self.parse]

    @property
    def option(self) -> str:
        """Return the command line's spelling."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """Return the environment's spelling."""
        return ENVIRONMENT_PREFIX + re.sub(r"[.-]", "_", self.name).upper()

    @property
    def attribute(self) -> str:
        """Return the Config field's name."""
        return re.sub(r"[.-]", "_", self.name)


HOST_NAME = re.compile(r"\*|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"is not a whole number of at least 1: {text!r}")
    return int(text)


MAX_CANARY_TOKENS = 100
MAX_PROMPT_CHARACTERS = 1000


def canary_tokens(text: str) -> int:
    """Return a whole number of tokens that are still a tiny generation."""
    n = count(text)
    if not 2 <= n <= MAX_CANARY_TOKENS:
        raise ValueError(f"must be 2 to {MAX_CANARY_TOKENS} tokens: {text!r}")
    return n


def canary_prompt(text: str) -> str:
    """Return a short text that is not empty."""
    if not 0 < len(text) <= MAX_PROMPT_CHARACTERS:
        raise ValueError(f"must have 1 to {MAX_PROMPT_CHARACTERS:,} characters")
    return text


def duration_or_off(text: str) -> float:
    """Return the seconds of a duration; 0 for `0` and the empty text, which switch it off."""
    return parse_duration_s(text) if text.strip() else 0.0


def switch(text: str) -> bool:
    """Return the truth of `true` or `false`."""
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(f"is neither true nor false: {text!r}")
    return text.strip().lower() == "true"


def switch_or_auto(text: str) -> bool | None:
    """Return the truth of `true` or `false`; None for `auto`."""
    if text.strip().lower() == "auto":
        return None
    try:
        return switch(text)
    except ValueError:
        raise ValueError(f"is none of auto, true, false: {text!r}") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of the choices."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"is none of {', '.join(choices)}: {text!r}")
        return text

    return parse


def label_name(text: str) -> str:
    """Return the name of a label of the inventory."""
    name = text.strip()
    if fault := label_name_fault(name):
        raise ValueError(fault)
    return name


def address(text: str) -> tuple[str, int]:
    """Return the host and port to listen at; an empty host is every interface."""
    return host_port(text, example="127.0.0.1:11440")


PATH = re.compile(
    r"(?!/(?:-|fleet|instances|config|probe|runbooks|upstreams)(?:/|$))(?:/[A-Za-z0-9._~-]+)+"
)


def telemetry_path(text: str) -> str:
    """Return a path that nothing else is at."""
    path = text.strip()
    if PATH.fullmatch(path) is None:
        raise ValueError(f"is not a path of its own such as /metrics: {text!r}")
    return path


def host_name(text: str) -> str:
    """Return a host name in lower case; `*` for any, empty for none."""
    name = text.strip().lower().rstrip(".")
    if name and HOST_NAME.fullmatch(name) is None:
        raise ValueError(f"is not a host name such as exporter.example.org: {text!r}")
    return name


def prometheus_url(text: str) -> str:
    """Return the base URL of a Prometheus, without a slash at its end; empty for none."""
    return base_url(text.strip(), example="http://127.0.0.1:9090") if text.strip() else ""


def gateway_url(text: str) -> str:
    """Return the base URL of a gateway, without a slash at its end; empty for none."""
    return base_url(text.strip(), example="http://127.0.0.1:11431") if text.strip() else ""


METAVAR_BY_PARSER: Mapping[Callable[[str], Any], str] = {
    str: "FILE",
    count: "N",
    switch: "true|false",
    parse_positive_duration_s: "DURATION",
    duration_or_off: "DURATION",
}
SETTINGS = (
    Setting(
        "inventory",
        "",
        "List of instances: a YAML or JSON file (file_sd format works), or a URL such as the "
        "provisioner's /instances (http_sd format works). 'URL|URL' names replicas: if one does "
        "not answer, the next is asked. k8s://, consul://, dns+srv:// and dns+a:// ask a service "
        "discovery; see docs/inventory.md. Repeatable.",
        str,
        "FILE_OR_URL",
        is_repeatable=True,
    ),
    Setting(
        "inventory.refresh-interval",
        "10s",
        "Interval between two reads of each inventory.",
        parse_positive_duration_s,
    ),
    Setting(
        "inventory.timeout",
        "10s",
        "Timeout to read an inventory from a URL; the URLs of 'URL|URL' and all pages of "
        "Kubernetes share it.",
        parse_positive_duration_s,
    ),
    Setting(
        "inventory.allow-partial",
        "false",
        "Publish the fleet before every inventory was read once. By default the exporter is not "
        "ready until then, because half a fleet looks like a whole one.",
        switch,
    ),
    Setting(
        "inventory.transient",
        "",
        "Instances that come and go on purpose, such as laptops: those with this label in the "
        "inventory, or all. While they are unreachable they are away, and nobody misses them.",
        Transient.parse,
        "LABEL=VALUE|all",
    ),
    Setting(
        "inventory.token-file",
        "",
        "File with the bearer token for inventory URLs, http(s):// and consul://.",
        str,
    ),
    Setting("inventory.ca-file", "", "CA bundle used to verify HTTPS inventory servers.", str),
    Setting(
        "poll.interval",
        "10s",
        "Interval between two polls of an instance. Polls are spread evenly over it.",
        parse_positive_duration_s,
    ),
    Setting(
        "poll.health-timeout",
        "2s",
        "Timeout to connect and to answer the health check. By default at most half of "
        "poll.metrics-timeout.",
        parse_positive_duration_s,
    ),
    Setting(
        "poll.metrics-timeout",
        "5s",
        "Timeout of a whole poll, the instance's metrics included. By default at most four fifths "
        "of poll.interval.",
        parse_positive_duration_s,
    ),
    Setting(
        "poll.max-body-bytes",
        "1048576",
        "Maximum size of one response body of an instance.",
        count,
        needs_restart=True,
    ),
    Setting(
        "poll.identify-interval",
        "1h",
        "Interval at which an instance's server type and version are detected again. A failed "
        "poll triggers it at once; a kept connection that the server closed triggers the version.",
        parse_positive_duration_s,
    ),
    Setting(
        "poll.loading-timeout",
        "10m",
        "Longest time in which an instance loads its model. After it, the instance counts as "
        "unhealthy.",
        parse_positive_duration_s,
    ),
    Setting(
        "poll.starting-timeout",
        "15m",
        "Longest time in which an instance is starting or provisioning: it is new in the "
        "inventory, or listed as provisioning, and was not healthy since. After it, its polls "
        "decide its status.",
        parse_positive_duration_s,
    ),
    Setting(
        "poll.grace-period",
        "90s",
        "An instance whose polls have failed for less than this is in "
        "ollama_fleet_recently_failed_instances: a restart is no outage. Set it longer than "
        "poll.interval, so that one failed poll is none either. By default at least one and a half "
        "poll intervals.",
        parse_positive_duration_s,
    ),
    Setting(
        "poll.ca-file",
        "",
        "CA bundle used to verify HTTPS instances; the system's by default.",
        str,
    ),
    Setting(
        "poll.insecure-skip-verify",
        "false",
        "Do not verify certificates of HTTPS instances.",
        switch,
        needs_restart=True,
    ),
    Setting(
        "canary.period",
        "0",
        "Interval between two canaries of an instance: tiny generations that measure speed and "
        "find runners that are frozen. 0 sends none.",
        duration_or_off,
    ),
    Setting(
        "canary.timeout",
        "15s",
        "Timeout of a canary; an instance that takes longer is stalled. Set it longer than "
        "requests wait for a busy instance. Ollama replaces a frozen runner after 20 s of waiting, "
        "so a longer timeout sees a slow answer instead. By default at most half of canary.period.",
        parse_positive_duration_s,
    ),
    Setting(
        "canary.concurrency",
        "20",
        "Maximum number of canaries at once. A generation that waits for 2s makes room for another "
        "canary, so that frozen instances do not delay the others; up to ten times as many then.",
        count,
    ),
    Setting(
        "canary.tokens",
        "8",
        f"Tokens that a canary generates, 2 to {MAX_CANARY_TOKENS}.",
        canary_tokens,
        "N",
    ),
    Setting("canary.prompt", "Count: 1, 2, 3,", "Prompt of the canaries.", canary_prompt, "TEXT"),
    Setting(
        "gateway.url",
        "",
        "Base URL of a gateway's ops listener, such as http://127.0.0.1:11431. Requests, their "
        "durations, errors and tokens are then those that the gateways count, never those of the "
        "instances. Shard 0 reads them for the whole fleet. Repeatable.",
        gateway_url,
        "URL",
        is_repeatable=True,
        needs_restart=True,
    ),
    Setting(
        "shard",
        "0/1",
        "Poll only this part of the fleet: shard I of N, counted from 0, chosen by instance id.",
        Shard.parse,
        "I/N",
        needs_restart=True,
    ),
    Setting(
        "metrics.per-instance",
        "auto",
        "Publish series per instance. auto: up to 50,000 instances. Series per fleet, model and "
        "node are always published.",
        switch_or_auto,
        "auto|true|false",
    ),
    Setting(
        "metrics.hardware-label",
        "hardware",
        "Label of the inventory that names a node's hardware, such as `hardware: l40s`. A node's "
        "speed is compared with nodes of the same hardware, model and engine; without the label, "
        "with nodes of about the same speed.",
        label_name,
        "LABEL",
    ),
    Setting(
        "metrics.latency-unit",
        "seconds",
        "Unit of latency_p99 in /api/metrics of `fleet` instances.",
        one_of("seconds", "milliseconds"),
        "seconds|milliseconds",
        needs_restart=True,
    ),
    Setting(
        "metrics.max-tokens-per-second",
        f"{MAX_TOKENS_PER_SECOND:.0f}",
        "Maximum plausible decoding speed of one instance, in tokens/s. Higher values are dropped "
        "and counted as implausible. Raise it if a pool of machines is listed as one instance.",
        count,
    ),
    Setting(
        "web.listen-address",
        "127.0.0.1:11440",
        "Address of the web server. :11440 listens on every interface, port 0 takes a free port. "
        "A socket unit of systemd takes its place. Repeatable.",
        address,
        "HOST:PORT",
        is_repeatable=True,
        needs_restart=True,
    ),
    Setting(
        "web.telemetry-path",
        "/metrics",
        "Path of the exposition.",
        telemetry_path,
        "PATH",
        needs_restart=True,
    ),
    Setting(
        "web.config.file",
        "",
        "File with certificates, users and headers, in the format of Prometheus' exporter-toolkit.",
        str,
        needs_restart=True,
    ),
    Setting(
        "web.token-file",
        "",
        "File with tokens that may POST /-/reload, one per line; created with one token if "
        "missing. Not needed where web.config.file asks clients for passwords or certificates.",
        str,
        needs_restart=True,
    ),
    Setting(
        "web.allowed-hosts",
        "",
        "Additional host name that requests may use, such as exporter.example.org; * for any. "
        "Addresses, the machine's own name and local names always work. No effect if "
        "web.config.file has certificates or users. Repeatable.",
        host_name,
        "NAME",
        is_repeatable=True,
    ),
    Setting(
        "web.write-timeout",
        "30s",
        "Timeout for a client to read a response; then the connection is closed.",
        parse_positive_duration_s,
        needs_restart=True,
    ),
    Setting(
        "web.max-connections",
        "200",
        "Maximum number of open connections; one more closes the longest idle one. At most a "
        "quarter of the limit of open files.",
        count,
        needs_restart=True,
    ),
    Setting(
        "ui.healthy-instances",
        "99%",
        "The web UI shows fewer healthy instances than this in red: a number, or a share of those "
        "that should serve. It only colours the web UI: alerts have their own settings "
        "(`ollama-fleet alerts`).",
        parse_count_level,
        "LEVEL",
    ),
    Setting(
        "ui.request-latency-p99",
        "150ms",
        "The web UI shows a higher p99 latency than this in red. It only colours the web UI: "
        "alerts have their own settings (`ollama-fleet alerts`).",
        parse_positive_duration_s,
    ),
    Setting(
        "ui.tokens-per-second",
        "40 per instance",
        "The web UI shows a lower capacity of the fleet than this in red, in tokens/s: a number, "
        "or `N per instance` of those that should serve. It only colours the web UI: alerts have "
        "their own settings (`ollama-fleet alerts`).",
        parse_level,
        "LEVEL",
    ),
    Setting(
        "ui.prometheus-url",
        "",
        "Prometheus with the alert rules, such as http://127.0.0.1:9090. The web UI then shows "
        "firing alerts, and the thresholds of those rules instead of the three settings above.",
        prometheus_url,
        "URL",
    ),
    Setting(
        "log.window",
        "1m",
        "Failing instances are logged once per window, not at each poll.",
        parse_positive_duration_s,
    ),
    Setting("log.level", "info", "Minimum log level.", one_of(*LEVELS), "|".join(LEVELS)),
    Setting(
        "log.format",
        "logfmt",
        "Format of log lines.",
        one_of(*FORMATS),
        "|".join(FORMATS),
        needs_restart=True,
    ),
)

FOLLOWING: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "poll.metrics-timeout": lambda v: min(v["poll_metrics_timeout"], 0.8 * v["poll_interval"]),
    "poll.health-timeout": lambda v: min(v["poll_health_timeout"], 0.5 * v["poll_metrics_timeout"]),
    "poll.grace-period": lambda v: max(v["poll_grace_period"], 1.5 * v["poll_interval"]),
    "canary.timeout": lambda v: min(v["canary_timeout"], 0.5 * v["canary_period"] or math.inf),
}
"""Defaults that follow other settings, from the values of all, in the order in which they follow:
whoever sets an interval need not set what has to fit into it."""
