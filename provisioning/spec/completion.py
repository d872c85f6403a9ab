"""Fill in what a person left out: engines' defaults, groups of nodes, developers' names.

In:   a FleetForm, and the folder that names of files start from.
Out:  a Fleet, and which entry of the form each of its nodes comes from.
Fails with nothing: what cannot be completed is told as Problems, and left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path as FilePath

from provisioning.model import (
    Fleet,
    Limits,
    Node,
    Placement,
    Pool,
    Probe,
    Rotation,
    WarmUp,
    Workload,
)
from provisioning.spec import schema
from provisioning.spec.engines import ENGINES, Engine, Preset, warm_up_of
from provisioning.spec.problems import Path, Problem, did_you_mean

MAX_DEVELOPERS_BYTES = 4_000_000


class Completion:
    """One reading of one form; `problems` grows while it goes on."""

    def __init__(self, given: schema.FleetForm, folder: FilePath) -> None:
        self._given = given
        self._folder = folder
        self.problems: list[Problem] = []
        self.entry_of_node: list[int] = []
        """By index of a node in the Fleet: its index in the form."""

    def fleet(self) -> Fleet:
        """Return the whole fleet."""
        given = self._given
        nodes: list[Node] = []
        for index, entry in enumerate(given.nodes):
            some = self._nodes(entry, ("nodes", index))
            nodes += some
            self.entry_of_node += [index] * len(some)
        pools = [self._pool(entry, ("pools", index)) for index, entry in enumerate(given.pools)]
        return Fleet(given.name, tuple(nodes), tuple(pools), _limits(given.limits))

    def _nodes(self, entry: schema.NodeForm, path: Path) -> list[Node]:
        try:
            names = schema.names_of(entry.name, entry.count)
            addresses = schema.aligned(entry.address, len(names))
            endpoints = schema.aligned(entry.endpoint, len(names))
        except ValueError as error:
            self._complain((*path, "name"), str(error))
            return []
        return [_node(entry, *each) for each in zip(names, addresses, endpoints, strict=True)]

    def _pool(self, entry: schema.PoolForm, path: Path) -> Pool:
        placement, rotation = entry.placement, entry.rotation
        return Pool(
            entry.name,
            entry.count,
            self._workload(entry, path),
            Placement(placement.strategy, placement.max_per_node, sorted_pairs(placement.selector)),
            Rotation(rotation.every, rotation.at_once, rotation.drain, rotation.warm_up),
            self._developers(entry.developers, (*path, "developers")),
            entry.archive,
        )

    def _workload(self, entry: schema.PoolForm, path: Path) -> Workload:
        engine = self._engine(entry.engine, (*path, "engine"))
        health = entry.health
        if health.path is None and not engine.health_path and entry.engine in ENGINES:
            where = (*path, "health")
            self._complain(where, f"needs a path: engine {entry.engine} has no usual one")
        return Workload(
            model=entry.model,
            engine=entry.engine,
            image=entry.image,
            command=engine.command if entry.command is None else tuple(entry.command),
            environment=self._environment(entry, engine, (*path, "environment")),
            mounts=tuple((mount.source, mount.target) for mount in entry.mounts),
            cpus=entry.cpus,
            memory_bytes=entry.memory,
            probe=Probe(
                engine.health_path or "/" if health.path is None else health.path,
                health.interval,
                health.timeout,
                health.failures,
            ),
            warm_up=self._warm_up(entry, engine, (*path, "warm_up")),
        )

    def _engine(self, name: str, path: Path) -> Engine:
        if name not in ENGINES:
            known = ", ".join(ENGINES)
            self._complain(
                path, f"must be one of {known}, got {name!r}{did_you_mean(name, ENGINES)}"
            )
        return ENGINES.get(name, Engine())

    def _environment(
        self, entry: schema.PoolForm, engine: Engine, path: Path
    ) -> tuple[tuple[str, str], ...]:
        known = engine.environment if entry.engine in ENGINES else entry.environment
        for name, value in entry.environment.items():
            if value is None and name not in known:
                drops = f"has no value, which only drops what engine {entry.engine} sets by default"
                near = did_you_mean(name, known)
                self._complain((*path, name), f'{drops}; write "" for an empty text{near}')
        given = {**engine.environment, **entry.environment}
        return sorted_pairs({name: value for name, value in given.items() if value is not None})

    def _warm_up(self, entry: schema.PoolForm, engine: Engine, path: Path) -> tuple[WarmUp, ...]:
        wanted = engine.warm_up if entry.warm_up is None else entry.warm_up
        if not isinstance(wanted, Preset):
            return tuple(map(_request, wanted))
        try:
            return warm_up_of(entry.engine, wanted, entry.model)
        except ValueError as error:
            self._complain(path, str(error))
            return ()

    def _developers(self, given: list[str] | schema.DevelopersForm, path: Path) -> tuple[str, ...]:
        if isinstance(given, list):
            return tuple(given)
        if given.file is not None and given.count:
            self._complain(path, "names a file beside a count; give one or the other")
        elif given.file is not None:
            return self._named_in(given.file, (*path, "file"))
        width = max(4, len(str(given.count)))
        return tuple(f"{given.prefix}{number:0{width}}" for number in range(1, given.count + 1))

    def _named_in(self, name: str, path: Path) -> tuple[str, ...]:
        """Return the lines of a file, without empty ones and those that begin with #."""
        file = self._folder / name
        try:
            if not file.is_file():
                raise ValueError("it is not a regular file")
            if file.stat().st_size > MAX_DEVELOPERS_BYTES:
                raise ValueError(f"it is larger than {MAX_DEVELOPERS_BYTES:,} bytes")
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:  # UnicodeDecodeError among them
            seen = getattr(error, "strerror", None) or error
            self._complain(path, f"cannot read {file}: {seen}")
            return ()
        return tuple(line for line in lines if line and not line.startswith("#"))

    def _complain(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path, message))


def sorted_pairs(texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return a mapping as pairs, sorted by key."""
    return tuple(sorted(texts.items()))


def _node(entry: schema.NodeForm, name: str, address: str, endpoint: str) -> Node:
    return Node(
        name=name,
        runtime=entry.runtime,
        address=address,
        endpoint=endpoint,
        cpus=entry.cpus,
        memory_bytes=entry.memory,
        max_instances=entry.max_instances,
        first_port=entry.first_port,
        last_port=entry.last_port,
        labels=sorted_pairs(entry.labels),
        is_cordoned=entry.cordoned,
    )


def _request(given: schema.RequestForm) -> WarmUp:
    body = given.body if isinstance(given.body, str) else json.dumps(given.body)
    return WarmUp(given.path, body, given.timeout)


def _limits(given: schema.LimitsForm) -> Limits:
    return Limits(
        operations=given.operations,
        operations_per_node=given.operations_per_node,
        unavailable_ratio=given.unavailable,
        start_timeout_s=given.start_timeout,
        warm_up_timeout_s=given.warm_up_timeout,
        tries=given.tries,
        backoff_base_s=given.backoff_base,
        backoff_cap_s=given.backoff_cap,
        retry_failed_s=given.retry_failed,
        node_grace_s=given.node_grace,
        stop_grace_s=given.stop_grace,
    )
