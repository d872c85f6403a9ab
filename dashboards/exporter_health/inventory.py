"""Where exporters know the instances from."""

from __future__ import annotations

from dashboards.exporter_health.words import NO_EXPORTER
from dashboards.kit import colours, fields
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Column, Panel, Query, Words, chart, table
from dashboards.queries import pipeline
from dashboards.queries.select import Ask

GOOD = {"0": ("failing", colours.BAD), "1": ("good", colours.GOOD)}


def section(ask: Ask) -> Section:
    """Return the charts and the table of sources."""
    return Section(
        "Inventory",
        (row(8, (8, _inventory_age(ask)), (8, _inventory_size(ask)), (8, _sources(ask))),),
    )


def _inventory_age(ask: Ask) -> Panel:
    words = Words(
        title="Age of the inventory",
        description="Since each source was last read well. Good: a saw-tooth no higher than the "
        "reload interval. A line that climbs: new instances are not watched, old ones count as "
        "down. Series: ollama_exporter_inventory_last_success_timestamp_seconds.",
        no_data="No exporter has read an inventory yet.",
        unit="s",
    )
    return chart(words, Query(pipeline.inventory_age(ask), "{{instance}} {{source}}"))


def _inventory_size(ask: Ask) -> Panel:
    words = Words(
        title="Instances in the inventory",
        description="As each source listed them when it was last read well. A step down that "
        "nobody planned: the source is cut short. Series: ollama_exporter_inventory_instances.",
        no_data="No exporter has read an inventory yet.",
        unit="none",
    )
    return chart(words, Query(pipeline.inventory_total(ask), "{{source}}"), is_stacked=True)


def _sources(ask: Ask) -> Panel:
    words = Words(
        title="Sources of the inventory",
        description="Whether each could be read the last time, and what it lists. Failing: an "
        "exporter's log has the reason. Series: ollama_exporter_inventory_last_reload_successful, "
        "ollama_exporter_inventory_instances.",
        no_data=NO_EXPORTER,
    )
    looks = fields.coloured_cell(GOOD)
    return table(
        words,
        Column(name="last read", expr=pipeline.inventory_good(ask), looks=looks),
        Column(name="instances", expr=pipeline.inventory_size(ask)),
        labels=("source", ask.cluster),
        sort=[("last read", False)],
    )
