"""What exporters give to Prometheus, and what that costs them."""

from __future__ import annotations

from dashboards.exporter_health.words import EXPORTER_NAME, NO_EXPORTER
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Panel, Query, Words, chart
from dashboards.queries import pipeline
from dashboards.queries.select import Ask
from exporter import catalogue


def page(ask: Ask) -> Section:
    """Return the charts of the page that Prometheus scrapes."""
    return Section(
        "Page for Prometheus",
        (row(8, (8, _samples(ask)), (8, _page_age(ask)), (8, _page_cost(ask))),),
    )


def _samples(ask: Ask) -> Panel:
    words = Words(
        title="Samples on the page",
        description="Of the fleet, by exporter: what Prometheus has to store with each scrape. "
        "About ten per instance. Series: ollama_exporter_exposition_samples.",
        no_data=NO_EXPORTER,
        unit="short",
    )
    return chart(
        words, Query(pipeline.own(ask, catalogue.EXPORTER_EXPOSITION_SAMPLES), EXPORTER_NAME)
    )


def _page_age(ask: Ask) -> Panel:
    words = Words(
        title="Age of the page",
        description="How old the figures are that each exporter gives. Good: below the poll "
        "interval. Growing: it answers scrapes, and polls no more. "
        "Series: ollama_exporter_exposition_timestamp_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(words, Query(pipeline.page_age(ask), EXPORTER_NAME))


def _page_cost(ask: Ask) -> Panel:
    words = Words(
        title="Rendering and scraping the page",
        description="CPU time to render a page, and how long Prometheus takes to get it. Near the "
        "scrape timeout: publish less or divide the fleet. "
        "Series: ollama_exporter_exposition_duration_seconds, scrape_duration_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        words,
        Query(
            pipeline.own(ask, catalogue.EXPORTER_EXPOSITION_DURATION), f"rendering {EXPORTER_NAME}"
        ),
        Query(pipeline.scraped(ask, "scrape_duration_seconds"), f"scraping {EXPORTER_NAME}"),
    )


def process(ask: Ask) -> Section:
    """Return the charts of the processes."""
    return Section(
        "Processes of the exporters",
        (row(7, (8, _cpu(ask)), (8, _memory(ask)), (8, _descriptors(ask))),),
    )


def _cpu(ask: Ask) -> Panel:
    words = Words(
        title="CPU",
        description="Cores in use; an exporter cannot use more than about one. Near one, polls "
        "become late: divide the fleet into more shards. Series: process_cpu_seconds_total.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return chart(words, Query(pipeline.cpu(ask), EXPORTER_NAME))


def _memory(ask: Ask) -> Panel:
    words = Words(
        title="Memory",
        description="Resident. Good: level. It grows with the number of instances only. "
        "Series: process_resident_memory_bytes.",
        no_data=NO_EXPORTER,
        unit="bytes",
    )
    return chart(
        words, Query(pipeline.scraped(ask, "process_resident_memory_bytes"), EXPORTER_NAME)
    )


def _descriptors(ask: Ask) -> Panel:
    words = Words(
        title="Open files",
        description="Share of those that each exporter may open; each connection to an instance "
        "is one. Near all: raise the limit, or instances become unknown. "
        "Series: process_open_fds, process_max_fds.",
        no_data=NO_EXPORTER,
        unit="percentunit",
    )
    return chart(words, Query(pipeline.descriptors_ratio(ask), EXPORTER_NAME), max=1)
