"""Every setting of the alerts: its default, its unit and what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from alerts.fields import CountLevelSetting, Duration, LevelSetting, Share
from alerts.model import Severity
from alerts.promql import Scope
from alerts.receivers import RoutingSettings
from alerts.series import ALL_SERIES
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import Level

INVENTORY = "inventory"
LOOKBACK_SCRAPES = 4
MAX_SCRAPE_INTERVAL_S = 75.0
LONGEST_BURN_WINDOW_S = 259_200.0
FASTEST_BURN_BUDGET = 0.02
"""Part of the error budget that may go in an hour; see `groups.slo`."""
NAME = r"^[a-zA-Z_][a-zA-Z0-9_]*$"
SIZE = re.compile(r"0*[1-9][0-9]{0,8}")


class Section(BaseModel):
    """A part of the settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


TAKEN_LABELS = frozenset(label for series in ALL_SERIES for label in series.labels) | {
    "alertname",
    "severity",
    "job",
    "instance",
    "le",
    "quantile",
    "shard",
    "nan",
    "inf",
}


OUR_ANNOTATIONS = frozenset({"summary", "description", "runbook_url", "dashboard_url"})


def _own_label(name: str) -> str:
    if name.lower() in TAKEN_LABELS:
        raise ValueError(f"cannot be {name}: our series use this label, or PromQL this word")
    return name


def _no_template(text: str) -> str:
    if "{{" in text:
        raise ValueError("must not hold {{, which begins a template")
    return text


def _own_annotation(name: str) -> str:
    if name in OUR_ANNOTATIONS:
        raise ValueError(f"cannot be {name}: our alerts have this annotation")
    return name


JobName = Annotated[str, Field(min_length=1, pattern=r'^[^"\\\n]+$'), AfterValidator(_no_template)]


OwnName = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]*$")]
PlainText = Annotated[str, Field(min_length=1), AfterValidator(_no_template)]


class PrometheusSettings(Section):
    """How Prometheus scrapes the exporter and evaluates the rules."""

    job: JobName = Field("ollama-fleet-exporter", description="Scrape job of the exporters.")
    scrape_interval: Duration = Field(15.0, description="Scrape interval of that job.")
    scrape_timeout: Duration = Field(10.0, description="Scrape timeout of that job.")
    evaluation_interval: Duration = Field(15.0, description="Evaluation interval of the rules.")
    cluster_label: Annotated[str, Field(pattern=NAME), AfterValidator(_own_label)] = Field(
        "cluster",
        description="Label that distinguishes fleets when one Prometheus scrapes several.",
    )
    provisioner_job: JobName = Field(
        "ollama-fleet-provisioner",
        description="Scrape job of the provisioners, with the same intervals. Without such a job "
        "no provisioner is expected.",
    )
    gateway_job: JobName = Field(
        "ollama-fleet-gateway",
        description="Scrape job of the gateways' ops listeners, with the same intervals. Without "
        "such a job no gateway is expected.",
    )


def _parse_size(given: object) -> str:
    text = str(given).strip()
    if text != INVENTORY and not SIZE.fullmatch(text):
        raise ValueError(f"is neither `{INVENTORY}` nor a number of instances")
    return text


class Fleet(Section):
    """What the fleet should be."""

    size: Annotated[str, BeforeValidator(_parse_size)] = Field(
        INVENTORY,
        description="Size that percentages refer to: `inventory` (without instances that are "
        "drained, provisioned, starting or away) or a fixed number of instances.",
    )


class Thresholds(Section):
    """Where each alert begins. Defaults give the article's thresholds at 10,000 instances."""

    healthy_instances: CountLevelSetting = Field(
        Level(0.99, is_per_instance=True),
        description="Page if fewer instances are healthy: a number or a share (9,900 of 10,000).",
    )
    min_missing: Annotated[int, Field(gt=1)] = Field(
        2,
        description="Minimum instances that are missing, stalled or without their model to page "
        "because of a share of the fleet; where none is left, fewer page as well.",
    )
    request_latency_p99: Duration = Field(
        0.15, description="Page if the p99 latency is higher; ticket if that of a model is."
    )
    latency_outliers: Duration = Field(
        1.5, description="Ticket if one instance in a thousand reports a higher p99 latency."
    )
    latency_rise: Share = Field(
        0.3,
        description="Ticket if the p99 latency is above the same hour of the last weeks by more "
        "than this share.",
    )
    traffic_lost: Share = Field(
        0.7,
        description="Page if traffic is below the same hour of the last weeks by more than this "
        "share.",
    )
    failing_requests: Share = Field(
        0.25,
        description="Page if a larger share of the requests fails; ticket if of those for a model.",
    )
    tokens_per_second: LevelSetting = Field(
        Level(40.0, is_per_instance=True),
        description="Page if fleet capacity falls below this: tokens/s as a number or `N per "
        "instance`. 400,000 at 10,000 instances; set it to what your hardware delivers.",
    )
    min_measured: Share = Field(
        0.2,
        description="Minimum share of healthy instances with known speed to estimate fleet "
        "capacity; the others count as equally fast.",
    )
    min_requests: Annotated[int, Field(gt=0)] = Field(
        100,
        description="Minimum requests or canaries in a window to evaluate its p99, and requests to "
        "evaluate its error ratio.",
    )
    queued_per_instance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        2.0, description="Ticket if more requests are queued per healthy instance."
    )
    stuck_instances: LevelSetting = Field(
        Level(5.0), description="Ticket if more instances have queued requests and no output."
    )
    min_model_instances: Annotated[int, Field(gt=0)] = Field(
        3, description="Minimum failing instances of a model for a page or a ticket about it."
    )
    model_instances_down: Share = Field(
        0.25, description="Ticket if a larger share of the instances of a model fails."
    )
    kv_cache_instances: Share = Field(
        0.05, description="Ticket if the KV cache of a larger share of the fleet is full."
    )
    not_loaded_instances: LevelSetting = Field(
        Level(0.01, is_per_instance=True),
        description="Ticket if more instances do not have the model in memory that the inventory "
        "lists.",
    )
    not_loaded_share: Share = Field(
        0.1, description="Page if a larger share of the fleet does not."
    )
    not_installed_instances: LevelSetting = Field(
        Level(0.001, is_per_instance=True),
        description="Ticket if more instances do not have that model on disk.",
    )
    on_cpu: Share = Field(
        0.02,
        description="Ticket if a larger share of the instances of a model has it on the CPU, and "
        "less than half.",
    )
    unloads: LevelSetting = Field(
        Level(2.0, is_per_instance=True),
        description="Ticket if servers unload more models within `windows.changes`.",
    )
    restarts: LevelSetting = Field(
        Level(0.5, is_per_instance=True),
        description="Ticket if more restarts are seen within `windows.changes`.",
    )
    stalled_instances: LevelSetting = Field(
        Level(0.001, is_per_instance=True),
        description="Ticket if more instances do not answer canaries.",
    )
    stalled_share: Share = Field(
        0.01, description="Page if a larger share of the fleet does not answer canaries."
    )
    slow_node: Share = Field(
        0.28,
        description="Ticket if a node is slower than the median of its peers (same model, engine "
        "and hardware) by more than this. Below 30%, so that a node 30% slower is always found.",
    )
    slow_nodes: Share = Field(
        0.1, description="One ticket for all if a larger share of the nodes is slow."
    )
    flapping_instances: LevelSetting = Field(
        Level(0.005, is_per_instance=True), description="Ticket if more instances are flapping."
    )
    out_of_memory: LevelSetting = Field(
        Level(0.001, is_per_instance=True),
        description="Ticket if more out-of-memory errors occur within `windows.out_of_memory`.",
    )
    rotation_age: Duration = Field(604_800.0, description="Ticket if instances are older.")
    rotation_critical_age: Duration = Field(
        1_209_600.0,
        description="Ticket if many instances are older: a known memory leak becomes critical.",
    )
    rotation_critical_instances: LevelSetting = Field(
        Level(0.001, is_per_instance=True),
        description="Ticket if more instances exceed `rotation_critical_age`.",
    )
    versions: Annotated[int, Field(gt=0)] = Field(
        2, description="Info alert if one engine runs more versions at a time."
    )
    inventory_shrunk: Share = Field(
        0.1,
        description="Ticket if a larger share of the inventory disappears within "
        "`windows.inventory`.",
    )
    inventory_lost: Share = Field(
        0.5,
        description="Page if a larger share of the inventory disappears within "
        "`windows.inventory`.",
    )
    drained_instances: LevelSetting = Field(
        Level(0.05, is_per_instance=True),
        description="Ticket if more instances are drained for as long as `windows.drained`.",
    )
    inventory_age: Duration = Field(
        600.0,
        description="Ticket if an inventory has not been read for longer.",
    )
    poll_intervals: Annotated[int, Field(gt=1)] = Field(
        3,
        description="An exporter is stale after this many poll intervals without a complete "
        "poll cycle; it withdraws its metrics of the fleet after 3, at least 60 seconds.",
    )
    replicas_differ: Share = Field(
        0.02,
        description="Ticket if exporters of one shard differ in healthy instances by a larger "
        "share of the shard.",
    )
    poll_lateness: Share = Field(
        0.1, description="Ticket if polls start later than this share of the poll interval."
    )
    metrics_failures: Share = Field(
        0.05, description="Ticket if a larger share of polls returns no metrics."
    )
    samples: Annotated[int, Field(gt=0)] = Field(
        5000, description="Expected samples per scrape, besides those of the instances."
    )
    samples_per_instance: Annotated[int, Field(gt=0)] = Field(
        20, description="Expected samples per scrape and instance."
    )
    scrape_duration: Share = Field(
        0.8, description="Ticket if a scrape takes longer than this share of its timeout."
    )
    fleet_full: Share = Field(
        0.25,
        description="Page if the gateways reject a larger share of the requests because every "
        "instance is at its limit.",
    )
    rejections: Share = Field(
        0.02, description="Ticket if they reject a larger share for that reason."
    )
    upstreams_age: Duration = Field(
        120.0, description="Ticket if the upstream list of a gateway is older."
    )
    ejected_upstreams: Share = Field(
        0.1,
        description="Ticket if a gateway sends no requests to a larger share of the instances in "
        "its list.",
    )
    view_age: Duration = Field(
        120.0, description="Ticket if a provisioner's view of its store is older."
    )
    reconcile_age: Duration = Field(
        120.0, description="Ticket if the leading provisioner has not reconciled for longer."
    )
    failed_instances: Annotated[int, Field(gt=0)] = Field(
        1, description="Ticket at this many instances that cannot be started."
    )
    ready_instances: Share = Field(
        0.9,
        description="Ticket if a smaller share of the wanted instances is up to date and healthy, "
        "without progress. Keep it below what the specification's `unavailable` allows.",
    )


class Slo(Section):
    """The service level that the error budgets come from."""

    availability: Share = Field(
        0.999, description="Objective: share of the serving instances that are healthy."
    )
    requests: Share = Field(0.997, description="Objective: share of the requests that succeed.")
    period: Duration = Field(2_592_000.0, description="Period of the error budget.")


class Windows(Section):
    """How far back rules look; each at least four scrape intervals."""

    rate: Duration = Field(300.0, description="Window of rates and quantiles.")
    canary: Duration = Field(
        600.0,
        description="Window of the p99 of canaries, and in which canaries are expected; at least "
        "twice the exporter's canary period.",
    )
    low_traffic: Duration = Field(
        3600.0,
        description="Window in which latency and failures are judged where requests are few: at "
        "night, or of a single model.",
    )
    changes: Duration = Field(
        3600.0, description="Window in which restarts and unloads of models are counted."
    )
    out_of_memory: Duration = Field(
        3600.0,
        description="Window in which out-of-memory errors are counted.",
    )
    inventory: Duration = Field(
        3600.0,
        description="Window in which a shrinking inventory is detected.",
    )
    drained: Duration = Field(
        21_600.0, description="How long many instances may be drained before they are forgotten."
    )
    trend: Duration = Field(
        21_600.0,
        description="Time whose missing instances are normal: a loss that continues takes more.",
    )
    horizon: Duration = Field(
        14_400.0,
        description="Ticket if a loss that continues reaches the floor of "
        "`thresholds.healthy_instances` sooner.",
    )
    telemetry: Duration = Field(
        900.0,
        description="Window in which polls without metrics are counted.",
    )
    absent: Duration = Field(
        21_600.0,
        description="How long a metric that disappeared is expected back.",
    )
    failed: Duration = Field(
        900.0, description="Window in which a failed instance is retried or counts as recovered."
    )
    progress: Duration = Field(1800.0, description="Window in which a rollout must progress.")


Link = Annotated[str, Field(pattern=r"^https?://\S+[^/\s]$"), AfterValidator(_no_template)]


class Links(Section):
    """Where the pages are that notifications link to."""

    exporter: Link | None = Field(
        None,
        description="URL of the exporter as people reach it; it serves the runbooks below "
        "`/runbooks`.",
    )
    runbooks: Link = Field(
        "https://github.com/ollama-fleet/ollama-fleet/blob/main/alerts/runbooks",
        description="URL of the runbooks; `/NAME.md` is appended. Once `links.exporter` is set, "
        "the default is those of the exporter.",
    )
    grafana: Link = Field(
        "http://localhost:3000", description="URL of Grafana; `/d/UID` is appended."
    )

    @property
    def served_runbooks(self) -> str | None:
        """Return where the exporter serves the runbooks, unless others are set."""
        is_set = "runbooks" in self.model_fields_set
        return None if is_set or self.exporter is None else f"{self.exporter}/runbooks"

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Return the settings whose links lead nowhere as long as nobody sets them."""
        known = {"links.exporter": {"exporter", "runbooks"}, "links.grafana": {"grafana"}}
        return tuple(key for key, names in known.items() if not names & self.model_fields_set)


class Override(Section):
    """What to change of one alert."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    is_enabled: bool = Field(True, alias="enabled", description="Whether the alert exists.")
    severity: Severity | None = Field(None, description="Severity of the alert.")
    for_s: Duration | None = Field(
        None, alias="for", description="How long the condition must hold before the alert fires."
    )
    keep_firing_for_s: Duration | None = Field(
        None,
        alias="keep_firing_for",
        description="How long the alert keeps firing after the condition ends.",
    )


class Settings(Section):
    """All settings of rules and routing."""

    prometheus: PrometheusSettings = PrometheusSettings()
    fleet: Fleet = Fleet()
    thresholds: Thresholds = Thresholds()
    slo: Slo = Slo()
    windows: Windows = Windows()
    links: Links = Links()
    alerts: dict[str, Override] = Field(
        default_factory=dict, description="Overrides of single alerts, by alert name."
    )
    labels: dict[Annotated[OwnName, AfterValidator(_own_label)], PlainText] = Field(
        default_factory=dict,
        description="Further labels of all alerts, such as `team: llm`: for your own routes.",
    )
    annotations: dict[Annotated[OwnName, AfterValidator(_own_annotation)], PlainText] = Field(
        default_factory=dict,
        description="Further annotations of all alerts, such as the URL of a handbook.",
    )
    routing: RoutingSettings = RoutingSettings()

    @property
    def scope(self) -> Scope:
        """Return what expressions need to know of the scrape job."""
        return Scope(
            job=self.prometheus.job,
            cluster_label=self.prometheus.cluster_label,
            lookback_s=LOOKBACK_SCRAPES * self.prometheus.scrape_interval,
        )

    @property
    def provisioner_scope(self) -> Scope:
        """Return the same of the provisioners' scrape job."""
        return replace(self.scope, job=self.prometheus.provisioner_job)

    @property
    def gateway_scope(self) -> Scope:
        """Return the same of the gateways' scrape job."""
        return replace(self.scope, job=self.prometheus.gateway_job)

    @property
    def fixed_size(self) -> str:
        """Return the fleet's size where it is a fixed number, otherwise nothing."""
        return "" if self.fleet.size == INVENTORY else self.fleet.size

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        """Refuse settings that contradict each other, all at once."""
        if faults := [*self._interval_faults(), *self._order_faults()]:
            raise ValueError("\n".join(faults))
        return self

    def _interval_faults(self) -> Iterator[str]:
        prometheus = self.prometheus
        if prometheus.scrape_timeout > prometheus.scrape_interval:
            yield (
                f"prometheus.scrape_timeout ({duration_text(prometheus.scrape_timeout)}) must not "
                f"be longer than prometheus.scrape_interval "
                f"({duration_text(prometheus.scrape_interval)}): lower it as well"
            )
        if prometheus.scrape_interval > MAX_SCRAPE_INTERVAL_S:
            yield (
                f"prometheus.scrape_interval ({duration_text(prometheus.scrape_interval)}) must "
                f"not be longer than {duration_text(MAX_SCRAPE_INTERVAL_S)}: error budgets are "
                "judged by windows of 5m"
            )
        shortest_s = LOOKBACK_SCRAPES * prometheus.scrape_interval
        for name in type(self.windows).model_fields:
            window_s: float = getattr(self.windows, name)
            if window_s < shortest_s:
                yield (
                    f"windows.{name} ({duration_text(window_s)}) must be at least "
                    f"{duration_text(shortest_s)}, which is {LOOKBACK_SCRAPES} scrape intervals: "
                    "with fewer samples a failed scrape leaves nothing to compute from"
                )

    def _order_faults(self) -> Iterator[str]:
        thresholds, prometheus = self.thresholds, self.prometheus
        if thresholds.rotation_critical_age <= thresholds.rotation_age:
            yield "thresholds.rotation_critical_age must be longer than thresholds.rotation_age"
        if self.slo.period < LONGEST_BURN_WINDOW_S:
            yield "slo.period must be at least 3d, the longest window that it is judged by"
        if prometheus.cluster_label in self.labels:
            yield (
                f"labels must not hold {prometheus.cluster_label}, which distinguishes fleets: set "
                "it in Prometheus"
            )
        yield from self._budget_faults()
        if thresholds.inventory_lost <= thresholds.inventory_shrunk:
            yield "thresholds.inventory_lost must be larger than thresholds.inventory_shrunk"
        if thresholds.fleet_full <= thresholds.rejections:
            yield "thresholds.fleet_full must be larger than thresholds.rejections"
        jobs = (prometheus.job, prometheus.provisioner_job, prometheus.gateway_job)
        if len(set(jobs)) < len(jobs):
            yield (
                "prometheus.job, prometheus.provisioner_job and prometheus.gateway_job must "
                "differ: exporters, provisioners and gateways are watched for different things"
            )

    def _budget_faults(self) -> Iterator[str]:
        """Yield why an objective can never be missed: its fastest burn is more than everything."""
        fastest = FASTEST_BURN_BUDGET * self.slo.period / 3600
        for name in ("availability", "requests"):
            if (1 - getattr(self.slo, name)) * fastest >= 1:
                yield (
                    f"slo.{name} is so low that no alert can ever fire: it would take more "
                    "failures than there can be; raise it, or shorten slo.period"
                )
