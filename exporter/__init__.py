"""Observe a fleet of LLM servers and publish it to Prometheus."""
