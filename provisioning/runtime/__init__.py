"""Run containers on a node: containers, processes or simulated ones."""
