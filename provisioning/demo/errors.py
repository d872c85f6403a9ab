"""What can go wrong with the local programs, grouped by what the caller can do about it."""

from __future__ import annotations


class StackError(Exception):
    """Root of every error that this package raises on purpose; its text is meant for people."""


class ProgramError(StackError):
    """A program is neither installed nor can it be fetched; something has to be installed."""


class PortError(StackError):
    """A port that was asked for cannot be had; another one has to be named."""


class ChildError(StackError):
    """A child process did not start, or ended by itself; its log says why."""


class BuildError(StackError):
    """The alert rules could not be built; what the command said tells which setting is wrong."""


class ExtraError(StackError):
    """A Python package of one of the project's extras is not installed."""


class QueryError(StackError):
    """Prometheus could not be asked now; asking again later may work."""


class ModelError(StackError):
    """The demo's model cannot be written to the cache; another folder or more room is needed."""


class RunDirError(StackError):
    """The folder for a run cannot be used; another one has to be named."""


class UnwatchableError(StackError):
    """A specification has instances that nothing could poll; it has to be changed."""


class FleetError(StackError):
    """The provisioner could not be told what the fleet is to be."""


class LeftoverError(StackError):
    """Processes of the fleet could not be ended; a person has to look at them."""


class NothingSeenError(StackError):
    """Everything runs, and yet Prometheus sees no healthy instance."""
