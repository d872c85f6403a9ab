"""Every series that rules may read: the exporter's, from its catalogue, and the provisioner's.

The provisioner spells its own where it counts. It is no library for rules, so the names stand here
once more; a test holds them equal to what it publishes, with their meaning.
"""

from __future__ import annotations

from exporter import catalogue
from exporter.catalogue import Kind, Series


def _of_provisioner(name: str, kind: Kind, *labels: str) -> Series:
    return Series(f"ollama_provisioner_{name}", kind, "", labels)


BUILD_INFO = _of_provisioner("build_info", Kind.GAUGE, "version", "revision", "python")
LEADER = _of_provisioner("leader", Kind.GAUGE)
WANTED_INSTANCES = _of_provisioner("wanted_instances", Kind.GAUGE)
"""Of standbys too, like INSTANCES and VIEW_TIMESTAMP: they follow the store."""
INSTANCES = _of_provisioner("instances", Kind.GAUGE, "phase")
VIEW_TIMESTAMP = _of_provisioner("view_timestamp_seconds", Kind.GAUGE)
"""While the store cannot be followed, when it last changed, which may be long ago at once."""
UNREACHABLE_NODES = _of_provisioner("unreachable_nodes", Kind.GAUGE)
"""0 of all that do not lead, like ORPHANS."""
ORPHANS = _of_provisioner("orphans", Kind.GAUGE)
UPSTREAMS_LEFT_OUT = _of_provisioner("upstreams_left_out", Kind.GAUGE)
PROVISION_DURATION = _of_provisioner("provision_duration_seconds", Kind.HISTOGRAM)
OPERATIONS = _of_provisioner("operations_total", Kind.COUNTER, "operation", "result")
TRIES = _of_provisioner("tries_total", Kind.COUNTER)
RUNNING_OPERATIONS = _of_provisioner("running_operations", Kind.GAUGE)
WAITING_OPERATIONS = _of_provisioner("waiting_operations", Kind.GAUGE)
"""Of the last reconcile, like READY_INSTANCES."""
REPLACEMENTS = _of_provisioner("replacements_total", Kind.COUNTER, "reason")
CANARIES = _of_provisioner("canaries_total", Kind.COUNTER, "outcome")
READY_INSTANCES = _of_provisioner("ready_instances", Kind.GAUGE)
"""As of the last reconcile: a provisioner that leadership lost keeps this value."""
RECONCILE_DURATION = _of_provisioner("reconcile_duration_seconds", Kind.HISTOGRAM)
LAST_RECONCILE = _of_provisioner("last_reconcile_timestamp_seconds", Kind.GAUGE)
STORE_DURATION = _of_provisioner("store_duration_seconds", Kind.HISTOGRAM, "call")
STORE_ERRORS = _of_provisioner("store_errors_total", Kind.COUNTER, "call")
STORE_OUTAGES = _of_provisioner("store_outages_total", Kind.COUNTER)
API_REQUESTS = _of_provisioner("api_requests_total", Kind.COUNTER, "operation", "status")
API_CLOSED_CONNECTIONS = _of_provisioner("api_closed_connections_total", Kind.COUNTER)
CONFIG_LAST_RELOAD_SUCCESSFUL = _of_provisioner("config_last_reload_successful", Kind.GAUGE)
CONFIG_LAST_RELOAD_SUCCESS = _of_provisioner(
    "config_last_reload_success_timestamp_seconds", Kind.GAUGE
)

PROVISIONER_SERIES = (
    BUILD_INFO, LEADER, WANTED_INSTANCES, INSTANCES, VIEW_TIMESTAMP, UNREACHABLE_NODES, ORPHANS,
    UPSTREAMS_LEFT_OUT, PROVISION_DURATION, OPERATIONS, TRIES, RUNNING_OPERATIONS,
    WAITING_OPERATIONS, REPLACEMENTS,
    CANARIES, READY_INSTANCES, RECONCILE_DURATION, LAST_RECONCILE, STORE_DURATION, STORE_ERRORS,
    STORE_OUTAGES, API_REQUESTS, API_CLOSED_CONNECTIONS, CONFIG_LAST_RELOAD_SUCCESSFUL,
    CONFIG_LAST_RELOAD_SUCCESS,
)  # fmt: skip
ALL_SERIES = catalogue.ALL_SERIES + PROVISIONER_SERIES
