"""The web UI at `/fleet`: the whole fleet at a glance, without Grafana."""
