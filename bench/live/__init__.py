"""The alerts, proven live: a simulated fleet, the real programs, real receivers, real faults.

`python -m bench.live` (`make alerts-live`) plays every scenario with the shipped windows and prints
a table; `tests/e2e/test_alerts_live.py` plays the same scenarios with short windows.
"""
