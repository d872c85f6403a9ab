"""How dashboards are built: panels, variables, links, the grid, and what makes Grafana take them.

The only part that knows grafanalib. Everything else says what to show.
"""
