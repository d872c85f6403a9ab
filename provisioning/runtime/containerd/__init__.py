"""Containers on a node, through its containerd."""
