"""The built-in page `/fleet`: the whole fleet at a glance, where there is no Grafana."""
