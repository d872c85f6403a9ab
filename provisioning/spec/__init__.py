"""The specification of a fleet: its model, its defaults, its rules, and reading and writing it."""
