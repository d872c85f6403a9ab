"""What a reader takes from panels beside the values, written down for the whole collection.

In:   nothing. Out: tables by dashboard and title, of units, orders, words, colours and links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dashboards.choices import Uid
from dashboards.kit.colours import BAD, GOOD, LIMIT, NEUTRAL, PLAIN, STATUSES, WARNING
from dashboards.queries import fleet
from dashboards.queries.limits import ThresholdStat
from tests.dashboards.values.case import ASK

Key = tuple[Uid, str]

UNITS: Mapping[Uid, Mapping[str, Sequence[str]]] = {
    Uid.OVERVIEW: {
        "none": (
            "Healthy instances", "Waiting requests", "Alerts firing", "Instances by status",
            "Instances that fail", "Waiting requests over time", "Instances started",
            "Provisioning and draining", "Versions", "Overdue for rotation",
        ),
        "short": ("Token throughput", "Token throughput by model", "Tokens generated"),
        "s": ("Request latency, p99", "Latency, p99", "Request durations"),
        "percentunit": ("Failed requests", "Failed requests, share"),
        "reqps": ("Errors by type",),
    },
    Uid.NODES: {
        "none": (
            "Nodes", "Compared nodes", "Slow nodes", "Dark nodes", "Failing instances by node",
            "Instances started by node",
        ),
        "percentunit": ("Speed against peers",),
        "reqps": ("Failed requests by node",),
    },
    Uid.MODELS: {
        "none": ("Instances of the chosen models",),
        "percentunit": ("Healthy share by model",),
        "short": (
            "Token throughput", "Tokens generated", "Speed per instance, median",
            "Speed per instance, slowest tenth", "Speed of $model",
        ),
        "reqps": ("Requests", "Failed requests"),
        "s": (
            "Latency, p99 of requests", "Latency, p99 of the slowest instances",
            "Latency of $model",
        ),
    },
    Uid.INSTANCE: {
        "none": ("Health", "Requests"),
        "short": ("Speed against its peers", "Tokens"),
        "s": ("Latency, p99", "Age", "Duration of polls"),
        "reqps": ("Errors by type",),
    },
    Uid.EXPORTER: {
        "none": (
            "Exporters", "Shards that nobody polls", "Since the last whole pass",
            "Inventory sources that fail", "Rules that fail", "Alerts lost",
            "Instances in the inventory", "CPU", "Provisioner that leads", "Instances as wanted",
            "Nodes out of reach",
        ),
        "cpm": ("Passes over the fleet",),
        "s": (
            "Duration of a pass", "Lateness of polls", "Age of the inventory", "Age of the page",
            "Rendering and scraping the page", "Duration of rule groups",
            "Since the last pass and the last word of the store",
        ),
        "cps": (
            "Polls by outcome", "Failed evaluations", "Evaluations left out",
            "Alerts sent to Alertmanagers", "Notifications", "Notifications that failed",
        ),
        "reqps": ("Failed requests to instances by reason",),
        "percentunit": ("Failed polls, share", "Open files"),
        "short": ("Samples on the page",),
        "bytes": ("Memory",),
    },
}  # fmt: skip
COLUMN_UNITS: Mapping[Key, Mapping[str, str]] = {
    (Uid.OVERVIEW, "Alerts that fire"): {"active since": "dateTimeFromNow"},
    (Uid.OVERVIEW, "Nodes with most errors"): {"errors/s": "reqps", "share": "percentunit"},
    (Uid.NODES, "Nodes slowest against their peers"): {
        "of peers": "percentunit", "verdict": "none", "tokens/s each": "short",
        "peers' median": "short", "healthy on node": "none",
    },
    (Uid.NODES, "Nodes with failing instances"): dict.fromkeys(
        ("failing", "unhealthy", "unreachable", "loading", "unknown", "healthy"), "none"
    ),
    (Uid.NODES, "Nodes with most failed requests"): {
        "errors/s": "reqps", "share": "percentunit",
    },
    (Uid.NODES, "Instances, those that are down first, then the slowest"): {
        "up": "none", "tokens/s": "short", "p99": "s", "running": "none", "queued": "none",
        "age": "s",
    },
    (Uid.MODELS, "Models"): {
        "instances": "none", "healthy": "none", "healthy, share": "percentunit",
        "of the fleet": "percentunit", "tokens/s": "short", "tokens/s each": "short", "p99": "s",
        "requests/s": "reqps", "errors/s": "reqps",
    },
    (Uid.INSTANCE, "$instance_id"): {"state": "none", "started": "dateTimeFromNow"},
    (Uid.INSTANCE, "Instances of the same node"): {
        "state": "none", "tokens/s": "short", "p99": "s",
    },
    (Uid.EXPORTER, "Exporters, one by one"): {
        "last pass": "s", "pass took": "s", "late by": "s", "polls/s": "cps",
        "connections": "none", "samples": "none", "page age": "s",
    },
    (Uid.EXPORTER, "Sources of the inventory"): {"last read": "none", "instances": "none"},
}  # fmt: skip
ORDERS: Mapping[Key, Sequence[tuple[str, bool]]] = {
    (Uid.OVERVIEW, "Alerts that fire"): [("severity", False), ("active since", False)],
    (Uid.OVERVIEW, "Nodes with most errors"): [("errors/s", True)],
    (Uid.NODES, "Nodes slowest against their peers"): [("of peers", False)],
    (Uid.NODES, "Nodes with failing instances"): [("failing", True)],
    (Uid.NODES, "Nodes with most failed requests"): [("errors/s", True)],
    (Uid.NODES, "Instances, those that are down first, then the slowest"): [
        ("up", False), ("tokens/s", False),
    ],
    (Uid.MODELS, "Models"): [("instances", True)],
    (Uid.INSTANCE, "$instance_id"): [],
    (Uid.INSTANCE, "Instances of the same node"): [("state", False), ("tokens/s", False)],
    (Uid.EXPORTER, "Exporters, one by one"): [("instance", False)],
    (Uid.EXPORTER, "Sources of the inventory"): [("last read", False)],
}  # fmt: skip
"""By table the columns, and whether the highest value comes first."""
HEALTH = {"0": ("not healthy", BAD), "1": ("healthy", GOOD)}
WORDS: Mapping[Key, Mapping[str, Mapping[str, tuple[str, str]]]] = {
    (Uid.OVERVIEW, "Alerts that fire"): {
        "severity": {
            "critical": ("critical", BAD), "warning": ("warning", WARNING), "info": ("info", PLAIN),
        },
    },
    (Uid.NODES, "Nodes slowest against their peers"): {
        "verdict": {"0": ("as its peers", GOOD), "1": ("slow", BAD)},
    },
    (Uid.NODES, "Instances, those that are down first, then the slowest"): {
        "up": {"0": ("down", BAD), "1": ("up", GOOD)},
    },
    (Uid.INSTANCE, "$instance_id"): {"state": HEALTH},
    (Uid.INSTANCE, "Health"): {"": HEALTH},
    (Uid.INSTANCE, "Instances of the same node"): {"state": HEALTH},
    (Uid.EXPORTER, "Sources of the inventory"): {
        "last read": {"0": ("failing", BAD), "1": ("good", GOOD)},
    },
}  # fmt: skip
"""By panel and column what each value is called, and in which colour."""
STEPS: Mapping[Key, Mapping[str, Sequence[tuple[float | None, str]]]] = {
    (Uid.OVERVIEW, "Alerts firing"): {
        "critical": [(None, GOOD), (1, BAD)], "warning": [(None, GOOD), (1, WARNING)],
    },
    (Uid.OVERVIEW, "Overdue for rotation"): {
        "overdue": [(None, GOOD), (1, WARNING)], "far too old": [(None, GOOD), (1, BAD)],
    },
    (Uid.NODES, "Slow nodes"): {"slow": [(None, GOOD), (1, BAD)]},
    (Uid.NODES, "Dark nodes"): {"dark": [(None, GOOD), (1, BAD)]},
    (Uid.EXPORTER, "Exporters"): {"down": [(None, GOOD), (1, BAD)]},
    (Uid.EXPORTER, "Shards that nobody polls"): {"missing": [(None, GOOD), (1, BAD)]},
    (Uid.EXPORTER, "Since the last whole pass"): {"intervals": [(None, GOOD), (12, BAD)]},
    (Uid.EXPORTER, "Inventory sources that fail"): {"failing": [(None, GOOD), (1, WARNING)]},
    (Uid.EXPORTER, "Rules that fail"): {"failures": [(None, GOOD), (1, BAD)]},
    (Uid.EXPORTER, "Alerts lost"): {"lost": [(None, GOOD), (1, BAD)]},
}  # fmt: skip
"""By panel and figure from which value on it has which colour."""
JUDGED: Mapping[str, tuple[ThresholdStat, str, Sequence[str]]] = {
    "Healthy instances": (fleet.healthy(ASK), "none", ("healthy", "below the floor")),
    "Request latency, p99": (fleet.latency(ASK), "s", ("p99", "p99 above the limit")),
    "Token throughput": (fleet.speed(ASK), "short", ("tokens/s", "tokens/s below the floor")),
    "Failed requests": (fleet.failed(ASK), "percentunit", ("failed", "failed, too many")),
    "Waiting requests": (fleet.waiting(ASK), "none", ("waiting", "too many wait")),
}
COLOURS: Mapping[Key, Mapping[str, str]] = {
    **{
        (Uid.OVERVIEW, title): {
            good: GOOD, bad: BAD, f"{good}, no limit known": NEUTRAL,
        }
        for title, (_, _, (good, bad)) in JUDGED.items()
    },
    (Uid.OVERVIEW, "Instances by status"): STATUSES,
    (Uid.OVERVIEW, "Instances that fail"): STATUSES,
    (Uid.OVERVIEW, "Latency, p99"): {"fleet": GOOD, "limit": LIMIT},
    (Uid.OVERVIEW, "Failed requests, share"): {"failed": BAD, "objective": LIMIT},
    (Uid.MODELS, "Speed of $model"): {
        "median": GOOD, "slowest tenth": WARNING, "slowest hundredth": BAD,
    },
    (Uid.MODELS, "Latency of $model"): {
        "median": GOOD, "slowest tenth": WARNING, "slowest hundredth": BAD,
    },
    (Uid.INSTANCE, "Requests"): {"/^running .*$/": GOOD, "/^queued .*$/": WARNING},
    (Uid.EXPORTER, "Polls by outcome"): {"good": GOOD, "failed": BAD},
    (Uid.EXPORTER, "Failed polls, share"): {"failed": BAD},
    (Uid.EXPORTER, "Alerts sent to Alertmanagers"): {"lost": BAD},
    (Uid.EXPORTER, "Instances as wanted"): {"as wanted": GOOD, "failed": BAD, "wanted": LIMIT},
}  # fmt: skip
"""Where a colour says what is well and what is not."""
NODE, MODEL = (Uid.NODES, ("node",)), (Uid.MODELS, ("model",))
INSTANCE = (Uid.INSTANCE, ("node", "instance_id"))
LINKS: Mapping[Key, Mapping[str, tuple[Uid, Sequence[str]]]] = {
    (Uid.OVERVIEW, "Alerts that fire"): {
        "node": NODE, "model": MODEL, "instance": (Uid.EXPORTER, ()),
    },
    (Uid.OVERVIEW, "Nodes with most errors"): {"node": NODE},
    (Uid.NODES, "Nodes slowest against their peers"): {"node": NODE, "model": MODEL},
    (Uid.NODES, "Nodes with failing instances"): {"node": NODE},
    (Uid.NODES, "Nodes with most failed requests"): {"node": NODE},
    (Uid.NODES, "Instances, those that are down first, then the slowest"): {
        "instance_id": INSTANCE, "node": NODE, "model": MODEL,
    },
    (Uid.MODELS, "Models"): {"model": MODEL},
    (Uid.INSTANCE, "$instance_id"): {"node": NODE, "model": MODEL},
    (Uid.INSTANCE, "Instances of the same node"): {"instance_id": INSTANCE, "model": MODEL},
}  # fmt: skip
"""By table and column where a click leads, and which columns are chosen there."""
