"""What watches the fleet: whether the other dashboards, and the alerts, can be believed.

A module per part of the dashboard.
"""
