"""What the dashboards ask Prometheus: PromQL as text, and nothing of how it is shown.

The names of series come from the catalogue and from the rules, the turns of phrase from
`alerts.promql`.
"""
