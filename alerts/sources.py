"""What gives each series that rules read, and so why a fleet may lack it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from alerts import series
from exporter import catalogue
from exporter.catalogue import Condition, Kind, Series

JOB = re.compile(r'\bjob="([^"]*)"')
NOT_SERVING = f'condition="{Condition.NOT_SERVING}"'


@dataclass(frozen=True, slots=True)
class Present:
    """Which series a Prometheus has, by the scrape job that they are of."""

    names_by_job: Mapping[str, frozenset[str]]
    exporter_job: str
    gateway_job: str

    def has(self, job: str, name: str) -> bool:
        """Return whether a job has a series of this name."""
        return name in self.names_by_job.get(job, ())


@dataclass(frozen=True, slots=True)
class Source:
    """What gives some series."""

    reason: str
    """Why they are not there, and what would give them; `{job}` is the scrape job."""
    series: tuple[Series | str, ...]
    rests_on: tuple[Source, ...] = ()
    """Without the series of these there are none of this either, for their reason."""
    matcher: str = ""
    """A selector with this matcher reads what only this source gives a value."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of its series, as expressions write them."""
        return tuple(name for each in self.series for name in _names(each))

    def fault(self, job: str, present: Present) -> str:
        """Return why none of its series is there; empty if one is."""
        is_there = any(present.has(job, name) for name in self.names)
        return "" if is_there else self.why(job, present)

    def why(self, job: str, present: Present) -> str:
        """Return why one of its series is not there: the first fault on the way to it."""
        faults = (source.fault(job, present) for source in self.rests_on)
        return next(filter(None, faults), self.reason.format(job=job))


EXPORTER_SCRAPE = Source(
    "no target of the scrape job {job}: scrape the exporter, or set prometheus.job to its job",
    ("up", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling"),
)
EXPORTER = Source(
    "no series of an exporter in the scrape job {job}: its targets are down, or something else",
    (
        catalogue.EXPORTER_POLL_INTERVAL,
        catalogue.EXPORTER_POLLS,
        catalogue.EXPORTER_POLL_ERRORS,
        catalogue.EXPORTER_POLL_LAST_COMPLETED,
        catalogue.EXPORTER_POLL_LATENESS,
        catalogue.EXPORTER_SHARD_INFO,
        catalogue.EXPORTER_SHARDS,
        catalogue.EXPORTER_INVENTORY_LAST_SUCCESS,
        catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESSFUL,
    ),
    (EXPORTER_SCRAPE,),
)
FLEET = Source(
    "no count of instances: /-/ready of the exporter says why",
    (
        catalogue.FLEET_INSTANCES,
        catalogue.FLEET_INVENTORY_INSTANCES,
        catalogue.FLEET_RECENTLY_FAILED_INSTANCES,
        catalogue.FLEET_TRANSIENT_INSTANCES,
        catalogue.FLEET_INSTANCE_CONDITIONS,
        catalogue.FLEET_RESTARTS,
        catalogue.FLEET_ENGINE_INSTANCES,
        catalogue.FLEET_MEASURED_INSTANCES,
        catalogue.MODEL_INSTANCES,
        catalogue.NODE_INSTANCES,
    ),
    (EXPORTER,),
)
INSTANCE = Source(
    "no series per instance: set metrics.per-instance to true",
    (catalogue.INSTANCE_UP, catalogue.INSTANCE_INFO),
    (FLEET,),
)
LATENCY = Source(
    "no latency: stock Ollama and llama-server report none; switch on the canary "
    "(--canary.period), or read a gateway (--gateway.url)",
    (
        catalogue.FLEET_REQUEST_DURATION,
        catalogue.FLEET_CANARY_DURATION,
        catalogue.FLEET_REQUEST_LATENCY_P99,
    ),
    (FLEET,),
)
REQUESTS = Source(
    "no request counts: stock Ollama and llama-server report none; read a gateway (--gateway.url)",
    (catalogue.FLEET_REQUESTS, catalogue.FLEET_REQUEST_ERRORS),
    (FLEET,),
)
ERRORS = Source(
    "no error counts: stock Ollama and llama-server report none; read a gateway (--gateway.url)",
    (catalogue.FLEET_ERRORS, catalogue.NODE_ERRORS),
    (FLEET,),
)
SPEED = Source(
    "no speed: stock Ollama reports none; switch on the canary (--canary.period)",
    (
        catalogue.FLEET_TOKENS_PER_SECOND,
        catalogue.NODE_TOKENS_PER_SECOND,
        catalogue.NODE_MEASURED_INSTANCES,
        catalogue.MODEL_INSTANCE_TOKENS_PER_SECOND,
    ),
    (FLEET,),
)
TOKENS = Source(
    "no token counts: stock Ollama reports none; read a gateway (--gateway.url)",
    (catalogue.FLEET_GENERATED_TOKENS,),
    (FLEET,),
    matcher=NOT_SERVING,
)
MODELS = Source(
    "no loaded models: only Ollama says which models it has in memory",
    (
        catalogue.MODEL_LOADED_INSTANCES,
        catalogue.MODEL_EXPIRING_INSTANCES,
        catalogue.FLEET_MODEL_UNLOADS,
    ),
    (FLEET,),
)
CANARY = Source(
    "no canaries: switch them on (--canary.period)",
    (catalogue.FLEET_CANARY_RESULTS,),
    (FLEET,),
    matcher=f'condition="{Condition.STALLED}"',
)
EXPORTER_SOURCES = (
    EXPORTER_SCRAPE,
    EXPORTER,
    FLEET,
    INSTANCE,
    LATENCY,
    REQUESTS,
    ERRORS,
    SPEED,
    TOKENS,
    MODELS,
    CANARY,
    Source(
        "no gateway is read: name those that you run (--gateway.url)",
        (catalogue.EXPORTER_GATEWAY_UP,),
        (EXPORTER,),
    ),
    Source(
        "no GPU memory of models: only Ollama reports it",
        (catalogue.MODEL_ON_CPU_INSTANCES,),
        (MODELS,),
    ),
    Source(
        "no node to compare: fewer than three have the same model, engine and hardware",
        (catalogue.NODE_PEERS_TOKENS_PER_SECOND,),
        (SPEED,),
    ),
    Source(
        "no p99 of single instances: only servers of the engine `fleet` report one",
        (
            catalogue.FLEET_INSTANCE_REQUEST_LATENCY_P99,
            catalogue.MODEL_INSTANCE_REQUEST_LATENCY_P99,
        ),
        (FLEET,),
    ),
    Source(
        "no queues: stock Ollama reports none; use servers that do",
        (catalogue.FLEET_REQUESTS_QUEUED,),
        (FLEET,),
        matcher=NOT_SERVING,
    ),
    Source(
        "no KV cache usage: only vLLM and SGLang report it",
        (catalogue.MODEL_INSTANCE_KV_CACHE_USAGE,),
        (FLEET,),
        matcher=f'condition="{Condition.KV_CACHE_FULL}"',
    ),
    Source(
        "no start times: stock Ollama reports none; set `started` in the inventory, as the "
        "provisioner does",
        (catalogue.INSTANCE_START_TIME, catalogue.NODE_STARTED_INSTANCES),
        (INSTANCE,),
    ),
)
GATEWAY_SCRAPE = Source("no gateway in the scrape job {job}: add one if you run it", ("up",))
GATEWAY_SOURCES = (
    GATEWAY_SCRAPE,
    Source(
        "no series of a gateway in the scrape job {job}: its targets are down, or something else",
        catalogue.GATEWAY_SERIES,
        (GATEWAY_SCRAPE,),
    ),
)
PROVISIONER_SCRAPE = Source(
    "no provisioner in the scrape job {job}: add one if you run it", ("up",)
)
PROVISIONER_SOURCES = (
    PROVISIONER_SCRAPE,
    Source(
        "no series of a provisioner in the scrape job {job}: its targets are down, or "
        "something else",
        series.PROVISIONER_SERIES,
        (PROVISIONER_SCRAPE,),
    ),
)


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """A series that is not there."""

    name: str
    reason: str


def gaps(name: str, matchers: str, present: Present) -> Iterator[Gap]:
    """Yield what a selector lacks: its own series, and what gives that one its values."""
    found = JOB.search(matchers)
    # The recorded series that rules select by such a matcher have no job, and are the exporter's.
    job = found[1] if found else present.exporter_job
    for source in _sources(job, present):
        if name in source.names and not present.has(job, name):
            yield Gap(name, source.why(job, present))
        if source.matcher and source.matcher in matchers and (reason := source.fault(job, present)):
            yield Gap(source.names[0], reason)


def _sources(job: str, present: Present) -> tuple[Source, ...]:
    if job == present.exporter_job:
        return EXPORTER_SOURCES
    return GATEWAY_SOURCES if job == present.gateway_job else PROVISIONER_SOURCES


def _names(each: Series | str) -> tuple[str, ...]:
    if isinstance(each, str):
        return (each,)
    suffixes = ("_bucket", "_count") if each.kind is Kind.HISTOGRAM else ("",)
    return tuple(f"{each.name}{suffix}" for suffix in suffixes)
