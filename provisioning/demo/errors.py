"""What can go wrong with the local programs."""

from __future__ import annotations


class DemoError(Exception):
    """Root of the errors that this package raises on purpose; its text is for people."""


class ProgramError(DemoError):
    """A program is neither installed nor can it be fetched."""


class PortError(DemoError):
    """A port is taken."""


class ChildError(DemoError):
    """A child process did not start, or ended by itself."""


class RunDirError(DemoError):
    """The folder for a run cannot be used."""
