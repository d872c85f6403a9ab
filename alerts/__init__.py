"""Prometheus rules and Alertmanager routing, generated and tested."""
