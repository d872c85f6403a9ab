"""Turn the settings into the parts that read files, and into the options of the others."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.canary import CanaryOptions
from exporter.engines.auto import all_engines
from exporter.errors import ExporterError
from exporter.inventory import Inventory, SourceSettings, sources_for
from exporter.scrape_target import PollOptions
from exporter.ui.summary import Limits, UiConfig
from exporter.websecurity import Guard
from ollama_fleet.tokens import TokenFileError, Tokens

if TYPE_CHECKING:
    from exporter.config import Config
    from exporter.instance_client import TransportConfig
    from exporter.inventory import Source
    from ollama_fleet.clock import Clock


MIN_REFRESH_S = 1.0
REFRESHES_PER_POLL = 5
"""Refreshes of the web UI per poll interval."""


def sources_of(config: Config, clock: Clock) -> list[Source]:
    """Return the inventory sources; nothing is read yet.

    Raises:
        InputError: A source is neither a path nor a usable URL.
    """
    settings = SourceSettings(
        timeout_s=config.inventory_timeout,
        token_file=path_of(config.inventory_token_file),
        ca_file=path_of(config.inventory_ca_file),
    )
    return sources_for(config.inventory, settings, clock)


def inventory_of(config: Config, clock: Clock) -> Inventory:
    """Return the inventory that the settings describe; nothing is read yet.

    Raises:
        InputError: A source is neither a path nor a usable URL.
    """
    return Inventory(sources_of(config, clock), shard=config.shard, clock=clock)


def guard_of(config: Config) -> Guard | None:
    """Return the guard that the web configuration describes, if there is one.

    Raises:
        InputError: The web configuration, or a certificate that it names, is bad.
    """
    path = path_of(config.web_config_file)
    return None if path is None else Guard(path)


def tokens_of(config: Config) -> Tokens | None:
    """Return whose tokens may reload, if a file is named.

    Raises:
        ExporterError: The file can be neither read nor made, or holds no token.
    """
    if not config.web_token_file:
        return None
    try:
        return Tokens(Path(config.web_token_file), option="web.token-file")
    except TokenFileError as error:
        raise ExporterError(str(error)) from error


def poll_options_of(config: Config, transport: TransportConfig, clock: Clock) -> PollOptions:
    """Return how instances are polled."""
    return PollOptions(
        health_timeout_s=config.poll_health_timeout,
        metrics_timeout_s=config.poll_metrics_timeout,
        identify_interval_s=config.poll_identify_interval,
        loading_timeout_s=config.poll_loading_timeout,
        starting_timeout_s=config.poll_starting_timeout,
        transient=config.inventory_transient,
        max_tokens_per_second=config.metrics_max_tokens_per_second,
        engines=all_engines(latency_unit_s=config.latency_unit_s),
        transport=transport,
        clock=clock,
    )


def canary_options_of(config: Config) -> CanaryOptions | None:
    """Return how canaries are sent; None where they are switched off."""
    if not config.canary_period:
        return None
    return CanaryOptions(
        period_s=config.canary_period,
        concurrency=config.canary_concurrency,
        timeout_s=config.canary_timeout,
        n_tokens=config.canary_tokens,
        prompt=config.canary_prompt,
        max_tokens_per_second=config.metrics_max_tokens_per_second,
    )


def ui_config_of(config: Config, version: str) -> UiConfig:
    """Return what the web UI says of the settings."""
    limits = Limits(
        healthy_instances=config.ui_healthy_instances,
        request_latency_p99_s=config.ui_request_latency_p99,
        tokens_per_second=config.ui_tokens_per_second,
    )
    return UiConfig(
        limits,
        config.shard,
        version,
        config.poll_interval,
        max(MIN_REFRESH_S, config.poll_interval / REFRESHES_PER_POLL),
        config.inventory_refresh_interval,
        config.canary_period,
    )


def tls_context_of(config: Config) -> ssl.SSLContext:
    """Return how HTTPS instances are verified."""
    context = ssl.create_default_context(cafile=config.poll_ca_file or None)
    if config.poll_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def path_of(text: str) -> Path | None:
    """Return the path that a setting names, if it names one."""
    return Path(text) if text else None
