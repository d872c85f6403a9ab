"""Every setting of the alerts: its default, its unit and what it means.

In:   mappings as YAML gives them.
Out:  frozen Settings. Fails with pydantic's ValidationError, which `config` puts into our words.
Durations are written as Prometheus writes them, shares as per cent; a Level may be a number, a
share of the fleet or `40 per instance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from alerts.fields import Duration, LevelSetting, Share
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


def _own_label(name: str) -> str:
    if name.lower() in TAKEN_LABELS:
        raise ValueError(f"cannot be {name}: our series use this label, or PromQL this word")
    return name


def _no_template(text: str) -> str:
    if "{{" in text:
        raise ValueError("must not hold {{, which begins a template")
    return text


JobName = Annotated[str, Field(min_length=1, pattern=r'^[^"\\\n]+$'), AfterValidator(_no_template)]
PageUrl = Annotated[str, Field(pattern=r"^https?://\S+[^/\s]$"), AfterValidator(_no_template)]


class PrometheusSettings(Section):
    """How Prometheus scrapes the exporter and evaluates the rules."""

    job: JobName = Field(
        "ollama-fleet-exporter", description="Name of the scrape job of the exporters."
    )
    scrape_interval: Duration = Field(15.0, description="Of that job.")
    scrape_timeout: Duration = Field(10.0, description="Of that job.")
    evaluation_interval: Duration = Field(15.0, description="Of the rules.")
    cluster_label: Annotated[str, Field(pattern=NAME), AfterValidator(_own_label)] = Field(
        "cluster", description="Label that tells fleets apart where one Prometheus has several."
    )
    provisioner_job: JobName = Field(
        "ollama-fleet-provisioner",
        description="Name of the scrape job of the provisioners, with the same intervals. Where "
        "there is no such job, none is missed.",
    )


def _parse_size(given: object) -> str:
    text = str(given).strip()
    if text != INVENTORY and not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(f"is neither `{INVENTORY}` nor a number of instances")
    return text


class Fleet(Section):
    """What the fleet should be."""

    size: Annotated[str, BeforeValidator(_parse_size)] = Field(
        INVENTORY,
        description="What shares of the fleet are shares of: `inventory`, less what is being "
        "drained or provisioned, or a fixed number of instances.",
    )


class Thresholds(Section):
    """Where each alert begins. Defaults give the article's figures at 10,000 instances."""

    healthy_instances: LevelSetting = Field(
        Level(0.99, is_per_instance=True),
        description="Fewer healthy instances page: a number or a share. 9,900 of 10,000.",
    )
    healthy_drop: Share = Field(
        0.02, description="A larger part of the fleet lost within `windows.drop` pages."
    )
    request_latency_p99: Duration = Field(0.15, description="A higher p99 latency pages.")
    tokens_per_second: LevelSetting = Field(
        Level(40.0, is_per_instance=True),
        description="Less generation speed of the whole fleet pages: a number or `N per "
        "instance`. 400,000 at 10,000 instances; set it to what your hardware does.",
    )
    min_measured: Share = Field(
        0.5,
        description="Share of the healthy instances whose speed must be known to judge the "
        "fleet's: the rest is taken to be as fast.",
    )
    min_requests: Annotated[int, Field(gt=0)] = Field(
        100, description="Requests in a window below which its p99 and error ratio mean nothing."
    )
    queued_per_instance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        2.0, description="More requests waiting per healthy instance is a ticket."
    )
    stuck_instances: LevelSetting = Field(
        Level(5.0), description="More instances with waiting requests and no output is a ticket."
    )
    min_model_instances: Annotated[int, Field(gt=0)] = Field(
        2, description="Fewer instances of a model never page as `model unavailable`."
    )
    capacity: Share = Field(
        0.99, description="A healthy share that heads below this within `windows.horizon`: ticket."
    )
    slow_node: Share = Field(
        0.28,
        description="A node slower by more than this than the median of its peers, same model and "
        "engine, is a ticket. Below 30%, so that a node 30% slower is found for certain.",
    )
    min_peers: Annotated[int, Field(gt=1)] = Field(
        3, description="Nodes with the same model and engine that a comparison needs."
    )
    slow_nodes: Share = Field(0.1, description="A larger part of all nodes being slow pages.")
    flaps: Annotated[int, Field(gt=0)] = Field(
        4, description="An instance that changed more often within `windows.flapping` flaps."
    )
    flapping_instances: LevelSetting = Field(
        Level(0.005, is_per_instance=True), description="More flapping instances: ticket."
    )
    out_of_memory: LevelSetting = Field(
        Level(0.001, is_per_instance=True),
        description="More out-of-memory errors within `windows.out_of_memory` page.",
    )
    rotation_age: Duration = Field(604_800.0, description="Instances older than this: ticket.")
    rotation_critical_age: Duration = Field(
        1_209_600.0, description="Many instances older than this page: a known leak bites then."
    )
    rotation_critical_instances: LevelSetting = Field(
        Level(0.001, is_per_instance=True), description="How many of them are many."
    )
    versions: Annotated[int, Field(gt=0)] = Field(
        2, description="More versions of one engine at a time: information."
    )
    inventory_shrunk: Share = Field(
        0.1, description="A larger part of the inventory gone in `windows.inventory`: ticket."
    )
    inventory_lost: Share = Field(
        0.5, description="A larger part of the inventory gone in `windows.inventory` pages."
    )
    inventory_age: Duration = Field(600.0, description="An inventory not read for longer: ticket.")
    poll_intervals: Annotated[int, Field(gt=1)] = Field(
        12, description="Poll intervals without a whole pass after which an exporter is stale."
    )
    poll_lateness: Share = Field(
        0.1, description="Polls later than this part of the poll interval: ticket."
    )
    metrics_failures: Share = Field(
        0.05, description="A larger part of the polls without figures: ticket."
    )
    samples: Annotated[int, Field(gt=0)] = Field(
        5000, description="Samples of a scrape that are usual, beside those of the instances."
    )
    samples_per_instance: Annotated[int, Field(gt=0)] = Field(
        20, description="Samples of a scrape that are usual for each instance."
    )
    scrape_duration: Share = Field(
        0.8, description="A scrape longer than this part of its time-out: ticket."
    )
    view_age: Duration = Field(
        120.0, description="A provisioner that knows nothing newer of its store: ticket."
    )
    pass_age: Duration = Field(
        120.0, description="A provisioner that leads and has made no pass for longer pages."
    )
    failed_instances: Annotated[int, Field(gt=0)] = Field(
        1, description="So many instances that cannot be started, or more: ticket."
    )
    as_wanted: Share = Field(
        0.9,
        description="A smaller part of the wanted instances running as wanted, and no progress: "
        "ticket. Keep it below what the specification's `unavailable` leaves.",
    )


class Slo(Section):
    """The service level that the error budgets come from."""

    availability: Share = Field(
        0.999, description="Share of the instances that should serve, and are healthy."
    )
    requests: Share = Field(0.997, description="Share of the requests that succeed.")
    period: Duration = Field(2_592_000.0, description="What the error budget is for.")


class Windows(Section):
    """How far back rules look; each at least four scrape intervals."""

    rate: Duration = Field(300.0, description="For rates and quantiles.")
    drop: Duration = Field(300.0, description="In which a drop of healthy instances is fast.")
    provisioning: Duration = Field(
        900.0, description="How long an instance may be provisioned before it counts as missing."
    )
    stuck: Duration = Field(600.0, description="In which an instance should put something out.")
    flapping: Duration = Field(900.0, description="In which changes are counted.")
    out_of_memory: Duration = Field(3600.0, description="In which such errors are counted.")
    inventory: Duration = Field(3600.0, description="In which the inventory may not shrink.")
    trend: Duration = Field(21_600.0, description="From which a trend is read.")
    horizon: Duration = Field(14_400.0, description="How far ahead a trend is followed.")
    telemetry: Duration = Field(900.0, description="In which failed figures are counted.")
    absent: Duration = Field(21_600.0, description="In which a figure that is missed was there.")
    failed: Duration = Field(
        900.0, description="In which an instance that failed is tried again, or counts as mended."
    )
    progress: Duration = Field(
        1800.0, description="In which a roll-out must get on, however little."
    )


class Links(Section):
    """Where the pages are that notifications link to."""

    runbooks: Annotated[
        str, Field(pattern=r"^https?://\S+[^/\s]$"), AfterValidator(_no_template)
    ] = Field(
        "https://github.com/ollama-fleet/ollama-fleet/blob/main/alerts/runbooks",
        description="Folder of the runbooks; `/NAME.md` follows.",
    )
    grafana: Annotated[
        str, Field(pattern=r"^https?://\S+[^/\s]$"), AfterValidator(_no_template)
    ] = Field("http://localhost:3000", description="Grafana; `/d/UID` follows.")


class Override(Section):
    """What to change of one alert."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    is_enabled: bool = Field(True, alias="enabled", description="false leaves the alert out.")
    severity: Severity | None = Field(None, description="Another severity.")
    for_s: Duration | None = Field(
        None, alias="for", description="How long the condition must hold before the alert fires."
    )
    keep_firing_for_s: Duration | None = Field(
        None, alias="keep_firing_for", description="How long it fires on after the condition."
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
        default_factory=dict, description="Changes of single alerts, by the alert's name."
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
        thresholds = self.thresholds
        if thresholds.rotation_critical_age <= thresholds.rotation_age:
            yield "thresholds.rotation_critical_age must be longer than thresholds.rotation_age"
        if self.slo.period < LONGEST_BURN_WINDOW_S:
            yield "slo.period must be at least 3d, the longest window that it is judged by"
        yield from self._budget_faults()
        if thresholds.inventory_lost <= thresholds.inventory_shrunk:
            yield "thresholds.inventory_lost must be larger than thresholds.inventory_shrunk"
        if self.prometheus.provisioner_job == self.prometheus.job:
            yield (
                "prometheus.provisioner_job must not be prometheus.job: exporters and provisioners "
                "are watched for different things"
            )

    def _budget_faults(self) -> Iterator[str]:
        """Yield why an objective can never be missed: its fastest burn is more than everything."""
        fastest = FASTEST_BURN_BUDGET * self.slo.period / 3600
        for name in ("availability", "requests"):
            if (1 - getattr(self.slo, name)) * fastest >= 1:
                yield (
                    f"slo.{name} is so low that its page can never come: it would take more "
                    "failures than there can be; raise it, or shorten slo.period"
                )
