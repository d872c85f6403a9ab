"""Hold the specification in force: the last one that could be read, as long as there is one.

In:   what the store holds, as text.
Out:  its SpecIndex; the same one as long as it is in force. Never fails: what cannot be read is told
      of once, in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from provisioning.errors import SpecError
from provisioning.spec_index import SpecIndex
from provisioning.spec_model import Fleet
from provisioning.store.base import StoredSpec

log = logging.getLogger("provisioning.in_force")


class InForce:
    """The specification that a leader goes by."""

    def __init__(self, read_spec: Callable[[str], Fleet]) -> None:
        self._read_spec = read_spec
        self._spec: StoredSpec | None = None
        self._roster: SpecIndex | None = None

    def spec_index(self, spec: StoredSpec | None) -> SpecIndex | None:
        """Take over what the store holds now, and return what is in force; None: nothing."""
        if spec is None:  # also where there was one: an emptied store asks for nothing
            self._spec = self._roster = None
        elif spec != self._spec:
            self._spec = spec
            try:
                self._roster = SpecIndex(self._read_spec(spec.text))
            except SpecError as error:
                log.error("the specification is not taken over: %s", error)
        return self._roster
