"""Run units on a node: containers, processes or simulated ones."""
