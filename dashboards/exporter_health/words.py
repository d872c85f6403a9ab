"""What several panels of the pipeline say when they are empty, and what an exporter is called."""

from __future__ import annotations

NO_EXPORTER = "Prometheus has no figures of an exporter: see whether it scrapes one."
NO_PROMETHEUS = "Prometheus does not scrape itself, or has no rules of ollama-fleet."
EXPORTER_NAME = "{{instance}}"
