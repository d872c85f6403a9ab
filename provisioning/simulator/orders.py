"""What somebody who orders units may ask for, and the instance that an order means.

In:   a node's name and a UnitOrder.
Out:  an Instance: model as ordered, hardware by the node's address, the rest by the instance's id.
Fails with OrderError.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ollama_fleet.suggestions import did_you_mean
from provisioning.simulator.address import FIRST, Layout, address_of
from provisioning.simulator.errors import OrderError
from provisioning.simulator.spec import (
    MODELS,
    FleetSpec,
    Hardware,
    Instance,
    Model,
    dealt,
    hosted_instance,
)

MAX_NODES = 65_536
MODEL_BY_NAME: Mapping[str, Model] = MappingProxyType({model.name: model for model in MODELS})


class UnitOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a unit is to be."""

    fleet: str
    instance_id: str
    generation: int
    host: str
    port: int
    model: str


class OrderBook:
    """Reads orders for one fleet."""

    def __init__(self, spec: FleetSpec, layout: Layout) -> None:
        self._spec = spec
        self._layout = layout
        self._dealing = dealt(dict(spec.hardware))
        self._hardware: list[Hardware] = []
        """By number of a node's address; as far as it was needed."""

    def instance_of(self, node: str, order: UnitOrder) -> Instance:
        """Return the instance that is meant; equal orders give equal instances.

        Raises:
            OrderError: There can be no such instance here.
        """
        number, ports = _number_of(order.host), self._layout.ports
        if order.port not in ports:
            raise OrderError(
                f"port {order.port} is not among {ports[0]} to {ports[-1]}, where units are "
                "hosted; order another, or start with a wider range (--host-units)"
            )
        return hosted_instance(
            self._spec,
            instance_id=order.instance_id,
            index=self._layout.index_of(order.host, order.port),
            number=number,
            port=order.port,
            node=node,
            hardware=self._hardware_of(number),
            model=_model_of(order.model),
        )

    def _hardware_of(self, number: int) -> Hardware:
        while len(self._hardware) <= number:
            self._hardware.append(next(self._dealing))
        return self._hardware[number]


def _number_of(host: str) -> int:
    """Return the number of a node's address, counted from 0."""
    try:
        number = int(ipaddress.IPv4Address(host)) - FIRST
    except ValueError:
        number = -1
    if not 0 <= number < MAX_NODES:
        raise OrderError(
            f"host {host!r} is no address of a hosted node: give each node its own from "
            f"{address_of(0)} to {address_of(MAX_NODES - 1)}"
        )
    return number


def _model_of(name: str) -> Model:
    if name in MODEL_BY_NAME:
        return MODEL_BY_NAME[name]
    known = ", ".join(MODEL_BY_NAME)
    meant = did_you_mean(name, MODEL_BY_NAME)
    raise OrderError(f"simulated instances have no model {name!r}; they have {known}{meant}")
