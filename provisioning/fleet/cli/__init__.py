"""The provisioner's commands."""
