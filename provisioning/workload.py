"""What an instance runs: its workload's digest, and the container that a runtime makes of it."""

from __future__ import annotations

from ollama_fleet.urls import host_port_text
from provisioning.model import (
    ContainerSpec,
    Instance,
    InventoryEntry,
    Node,
    Pool,
    RuntimeKind,
    Workload,
)
from provisioning.spec.values import filled


def instance_id(pool_name: str, number: int) -> str:
    """Return the id of a pool's instance: `llama-00042`."""
    return f"{pool_name}-{number:05}"


def inventory_entry_of(workload: Workload, node: Node) -> InventoryEntry:
    """Return what an instance is found by that runs the workload on the node."""
    return InventoryEntry(workload.model, workload.engine, node.address, tuple(node.labels.items()))


def host_of(instance: Instance, node: Node) -> str:
    """Return where an instance listens: its node's address when its container was made."""
    return instance.inventory_entry.address or node.address


def model_store(node: Node, container: ContainerSpec) -> str:
    """Return a text that is the same for containers which keep Ollama's models in one folder.

    Processes share it, whatever the node's name is: they run on the provisioner's machine. What a
    container fetches it keeps to itself: its mounts are read-only.
    """
    if node.runtime is not RuntimeKind.PROCESS:
        return container.name
    own = dict(container.environment)
    return own.get("OLLAMA_MODELS") or own.get("HOME") or ""


def container_spec(fleet_name: str, pool: Pool, node: Node, instance: Instance) -> ContainerSpec:
    """Return the order to make an instance's present generation on its node."""
    workload = pool.workload
    values = {
        "address": host_port_text(node.address, instance.port),
        "host": node.address,
        "id": instance.id,
        "model": workload.model,
        "node": node.name,
        "port": str(instance.port),
    }
    return ContainerSpec(
        name=instance.container,
        fleet=fleet_name,
        instance_id=instance.id,
        generation=instance.generation,
        pool=pool.name,
        host=node.address,
        port=instance.port,
        image=workload.image,
        command=tuple(filled(argument, values) for argument in workload.command),
        environment=tuple(
            (name, filled(text, values)) for name, text in workload.environment.items()
        ),
        mounts=tuple((mount.source, mount.target) for mount in workload.mounts),
        cpus=workload.cpus,
        memory_bytes=workload.memory_bytes,
        archive=pool.archive,
        model=workload.model,
        engine=workload.engine,
    )
