"""Which thresholds a fleet's own history can propose, and what to ask Prometheus for each."""

from __future__ import annotations

from dataclasses import dataclass

from alerts import rulebook
from alerts.explain import value_of
from alerts.groups import baseline
from alerts.model import Alert
from alerts.names import EXPECTED, INVENTORY, LATENCY_BASELINE, LOADED
from alerts.settings import Settings, Thresholds
from exporter import catalogue
from exporter.catalogue import Series
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import DECIMALS, Level

FINEST_S = 60.0
SAMPLES_OF_HOLD = 5
"""How often a condition is looked at within an alert's `for`."""
NOT_RECORDED = "the exporter or the rules do not report it"
NO_MODELS = "no server reports which models are in memory"
NO_BASELINE = "there are no two weeks before to compare with, or servers report no requests"
NO_CANARIES = "canaries are off: the exporter's --canary.period turns them on"


@dataclass(frozen=True, slots=True)
class Tunable:
    """A threshold, the alert that compares something with it, and what that is a share of."""

    threshold: str
    alert: str
    size: str = ""
    """Recorded series that the compared count is divided by; empty where nothing is."""
    judges_rest: bool = False
    """Whether what is missing to the whole is judged: of 98.5% healthy, the 1.5%."""
    sets_rest: bool = False
    """Whether the setting is what may be missing, not what must be there."""
    moves_both_ways: bool = False
    """Whether to propose a stricter value as well, where the fleet is better than the present one.

    The others say what users can bear; only a fleet that is normally beyond them needs another.
    """
    is_seasonal: bool = False
    """Whether the same hour of the last weeks is compared, so that a trend shows in the alert."""
    where: str = ""
    """What the alert demands besides the comparison, so that other times say nothing."""
    needs: Series | None = None
    """What must be there, or a count of 0 says nothing."""
    absent: str = NOT_RECORDED
    """Why there may be no history."""

    @property
    def key(self) -> str:
        """Return the name of the setting."""
        return f"thresholds.{self.threshold}"

    @property
    def is_share(self) -> bool:
        """Return whether the setting cannot be above 100%."""
        return self.text(1.5).endswith("%")

    def alert_of(self, settings: Settings) -> Alert | None:
        """Return the alert under some settings; None where these leave it out."""
        alerts = (alert for group in rulebook.groups(settings) for alert in group.alerts)
        return next((alert for alert in alerts if alert.name == self.alert), None)

    def changed(self, settings: Settings, value: float) -> Settings:
        """Return the settings with another value, in the unit that the history is judged in."""
        if self.judges_rest and not self.sets_rest:
            value = round(1 - value, DECIMALS)
        is_level = isinstance(getattr(Thresholds(), self.threshold), Level)
        return self._with(settings, Level(value, is_per_instance=True) if is_level else value)

    def _with(self, settings: Settings, value: float | Level) -> Settings:
        thresholds = settings.thresholds.model_copy(update={self.threshold: value})
        return settings.model_copy(update={"thresholds": thresholds})

    def text(self, value: float) -> str:
        """Return a value as the settings file has it, to three digits."""
        return value_of(self.changed(Settings(), float(f"{max(value, 0.0):.3g}")), self.key)

    def is_floor(self, alert: Alert) -> bool:
        """Return whether low values are the bad ones."""
        return (comparison(alert.expr)[1] == "<") is not self.judges_rest

    def history_query(self, settings: Settings) -> str:
        """Return what the worst of all clusters, nodes and models held for the alert's `for`.

        Raises:
            ValueError: The settings leave the alert out.
        """
        # A level as a plain number may be compared with another count than one per instance.
        settings = self._with(settings, getattr(Thresholds(), self.threshold))
        alert = self.alert_of(settings)
        if alert is None:
            raise ValueError(f"{self.alert} is left out")
        best, worst = ("max", "min") if self.is_floor(alert) else ("min", "max")
        value = self._value(settings, alert)
        return f"{worst}({_over(best, value, alert)} and {_held(value, alert)})"

    def _value(self, settings: Settings, alert: Alert) -> str:
        value = f"({comparison(alert.expr)[0]})"
        if self.size:
            is_level = isinstance(getattr(settings.thresholds, self.threshold), Level)
            value += f" / {(is_level and settings.fixed_size) or self.size}"
        if self.needs:
            value += f" and {settings.scope.on()} {settings.scope.raw(self.needs)}"
        if self.where:
            value += f" and {settings.scope.on()} {self.where}"
        if self.judges_rest:
            return f"1 - ({value})"
        return f"({value}) - 1" if self.is_seasonal else value


def firing_query(alert: Alert, *labels: str) -> str:
    """Return a query that gives something, by labels, where an alert has held for its `for`."""
    return f"count by ({', '.join(labels)}) ({_held(alert.expr, alert)})"


def _held(expression: str, alert: Alert) -> str:
    """Return what is there where an expression gave something for the whole of `for`."""
    n = max(1, int(alert.for_s // _step_s(alert)))
    return f"{_over('count', expression, alert)} >= {n}"


def _over(function: str, expression: str, alert: Alert) -> str:
    window_s = max(alert.for_s, FINEST_S)
    window, step = duration_text(window_s), duration_text(_step_s(alert))
    return f"{function}_over_time(({expression})[{window}:{step}])"


def _step_s(alert: Alert) -> float:
    return max(FINEST_S, alert.for_s // SAMPLES_OF_HOLD)


def comparison(expression: str) -> tuple[str, str]:
    """Return what an alert compares with its threshold, and how: `<` or `>`.

    Raises:
        ValueError: There is no comparison outside brackets.
    """
    depth = 0
    for place, character in enumerate(expression):
        depth += (character in "([{") - (character in ")]}")
        if not depth and character in "<>":
            return expression[:place].strip(), character
    raise ValueError(f"compares nothing: {expression}")


TUNABLES = (
    Tunable("healthy_instances", "OllamaFleetHealthyInstancesLow", EXPECTED, judges_rest=True),
    Tunable(
        "request_latency_p99",
        "OllamaFleetLatencyP99High",
        moves_both_ways=True,
        absent="no server reports its latency, and canaries are off or too few: the exporter's "
        "--canary.period turns them on",
    ),
    Tunable(
        "tokens_per_second",
        "OllamaFleetTokenThroughputLow",
        EXPECTED,
        moves_both_ways=True,
        absent="too few instances report their speed (thresholds.min_measured), and canaries, "
        "which measure it, are off",
    ),
    Tunable(
        "slow_node",
        "OllamaNodeSlowerThanFleet",
        judges_rest=True,
        sets_rest=True,
        absent="no nodes can be compared: that needs three nodes with the same model, engine and "
        "hardware that report their speed",
    ),
    Tunable(
        "queued_per_instance",
        "OllamaFleetQueueSaturated",
        absent="no server reports its queue",
    ),
    Tunable(
        "kv_cache_instances", "OllamaFleetKvCacheSaturated", INVENTORY,
        needs=catalogue.MODEL_INSTANCE_KV_CACHE_USAGE, absent="no server reports its KV cache",
    ),
    Tunable("flapping_instances", "OllamaFleetInstancesFlapping", INVENTORY),
    Tunable(
        "not_loaded_instances", "OllamaFleetModelsNotLoaded", INVENTORY, absent=NO_MODELS
    ),
    Tunable("not_loaded_share", "OllamaFleetManyModelsNotLoaded", EXPECTED, absent=NO_MODELS),
    Tunable(
        "not_installed_instances", "OllamaFleetModelsNotInstalled", INVENTORY, absent=NO_MODELS
    ),
    Tunable("on_cpu", "OllamaModelOnCpu", LOADED, absent=NO_MODELS),
    Tunable("unloads", "OllamaFleetModelUnloadsHigh", INVENTORY, absent=NO_MODELS),
    Tunable("restarts", "OllamaFleetRestartsHigh", INVENTORY),
    Tunable("out_of_memory", "OllamaFleetOutOfMemoryRestarts", INVENTORY),
    Tunable(
        "stalled_instances", "OllamaFleetCanariesStalled", INVENTORY,
        needs=catalogue.FLEET_CANARY_RESULTS, absent=NO_CANARIES,
    ),
    Tunable(
        "stalled_share", "OllamaFleetManyCanariesStalled", EXPECTED,
        needs=catalogue.FLEET_CANARY_RESULTS, absent=NO_CANARIES,
    ),
    Tunable(
        "traffic_lost", "OllamaFleetTrafficLost", judges_rest=True, sets_rest=True,
        is_seasonal=True, where=baseline.WAS_NORMAL, absent=NO_BASELINE,
    ),
    Tunable(
        "latency_rise", "OllamaFleetLatencyRising", LATENCY_BASELINE,
        is_seasonal=True, absent=NO_BASELINE,
    ),
    Tunable("metrics_failures", "OllamaFleetTelemetryPartial"),
)  # fmt: skip
