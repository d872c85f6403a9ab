"""What can go wrong in a simulation, grouped by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Sequence


class SimulationError(Exception):
    """Root of every error that the simulation raises on purpose."""


class ListenError(SimulationError):
    """A port or address cannot be listened on; another one may work."""


class SpecError(SimulationError):
    """A fleet that cannot be: the description has to be mended."""


class FaultError(SimulationError):
    """A fault that cannot be read or that selects nothing; carries every problem at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class UnknownFaultError(SimulationError):
    """There is no active fault of that id."""


class StartOrderError(SimulationError):
    """A container that can never run here: its order has to be mended."""


class PlaceTakenError(SimulationError):
    """Another container has the address and port; another port may be free."""


class NodeGoneError(SimulationError):
    """The node does not answer, as a fault has it, until that is healed."""


class InventoryError(SimulationError):
    """The inventory file cannot be written."""
