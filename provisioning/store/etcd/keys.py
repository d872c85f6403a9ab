"""Where in etcd a fleet's records lie.

    /ollama-fleet/<fleet>/state/instances/<id>    the instance, as JSON
    /ollama-fleet/<fleet>/state/spec              the specification
    /ollama-fleet/<fleet>/ports/<node>/<port>     the id of the instance that has it
    /ollama-fleet/<fleet>/leader                  who leads; goes with its lease
    /ollama-fleet/<fleet>/writer                  the epoch of the last term that put something

What is loaded and watched lies below `state/`, so that one range and one watch show all of it in
the order of its revisions. Names are quoted as in URLs.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from provisioning.store.records import Place


class Keys:
    """The keys of one fleet."""

    def __init__(self, fleet: str) -> None:
        root = f"/ollama-fleet/{quote(fleet, safe='')}"
        self.leader = f"{root}/leader".encode()
        self.writer = f"{root}/writer".encode()
        self.state = f"{root}/state/".encode()
        self.spec = self.state + b"spec"
        self._instances = self.state + b"instances/"
        self._ports = f"{root}/ports"

    def instance(self, instance_id: str) -> bytes:
        """Return where an instance's record is."""
        return self._instances + quote(instance_id, safe="").encode()

    def instance_id(self, key: bytes) -> str | None:
        """Return whose record this key is; None: no instance's."""
        if not key.startswith(self._instances):
            return None
        return unquote(key.removeprefix(self._instances).decode())

    def port(self, place: Place) -> bytes:
        """Return where it stands who has a port."""
        node, port = place
        return f"{self._ports}/{quote(node, safe='')}/{port}".encode()


def range_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that begin with a prefix, which ends in no 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
