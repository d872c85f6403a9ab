"""Write a fleet as the document that a person would have written, and as the one canonical JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import yaml

from provisioning.errors import SpecError
from provisioning.model import Fleet, Limits, Node, Pool, Workload
from provisioning.spec.amounts import duration_text, share_text, size_text
from provisioning.spec.checks import problems_of
from provisioning.spec.engines import ENGINES, Engine, preset_of
from provisioning.spec.problems import Path, Unknown, clipped, refuse

Document = dict[str, Any]
TEXT_OR_POWER = re.compile(r'"(?:[^"\\]|\\.)*"|[0-9.]+e[-+][0-9]+')
"""In JSON, a text, or else a number with a power of ten: without a dot, YAML takes that for a text.
"""
BROKEN_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What writers of JSON and YAML leave as it is, and a reader of YAML takes for something else."""


def fleet_yaml(fleet: Fleet) -> str:
    """Return the fleet as YAML, with a line end after the last line."""
    return yaml.dump(
        fleet_document(fleet),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=float("inf"),
    )


def fleet_json(fleet: Fleet) -> str:
    """Return the fleet as JSON on one line, which a specification may be written in too."""
    text = json.dumps(fleet_document(fleet), ensure_ascii=False)
    text = TEXT_OR_POWER.sub(lambda found: _without_power(found[0]), text)
    return BROKEN_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def fleet_document(fleet: Fleet) -> Document:
    """Return the whole specification."""
    return {
        "name": fleet.name,
        "nodes": [node_document(node) for node in fleet.nodes],
        "pools": [pool_document(pool) for pool in fleet.pools],
        "limits": limits_document(fleet.limits),
    }


def node_document(node: Node) -> Document:
    """Return one entry of `nodes`."""
    return {
        "name": node.name,
        "runtime": node.runtime.value,
        "endpoint": node.endpoint,
        "address": node.address,
        "cpus": _number(node.cpus),
        "memory": size_text(node.memory_bytes),
        "max_instances": node.max_instances,
        "first_port": node.first_port,
        "last_port": node.last_port,
        "labels": dict(node.labels),
        "cordoned": node.is_cordoned,
    }


def pool_document(pool: Pool) -> Document:
    """Return one entry of `pools`."""
    workload, placement, rotation = pool.workload, pool.placement, pool.rotation
    probe = workload.probe
    return {
        "name": pool.name,
        "model": workload.model,
        "engine": workload.engine,
        "count": pool.count,
        "image": workload.image,
        "archive": pool.archive,
        "command": list(workload.command),
        "environment": _environment(workload),
        "mounts": [{"source": source, "target": target} for source, target in workload.mounts],
        "cpus": _number(workload.cpus),
        "memory": size_text(workload.memory_bytes),
        "health": {
            "path": probe.path,
            "interval": duration_text(probe.interval_s),
            "timeout": duration_text(probe.timeout_s),
            "failures": probe.n_failures,
        },
        "warm_up": _warm_up(workload),
        "placement": {
            "strategy": placement.strategy.value,
            "max_per_node": placement.max_per_node,
            "selector": dict(placement.selector),
        },
        "rotation": {
            "every": duration_text(rotation.every_s),
            "at_once": rotation.at_once,
            "drain": duration_text(rotation.drain_s),
            "warm_up": duration_text(rotation.warm_up_s),
        },
        "developers": list(pool.developers),
    }


def limits_document(limits: Limits) -> Document:
    """Return the section `limits`."""
    return {
        "operations": limits.operations,
        "operations_per_node": limits.operations_per_node,
        "unavailable": share_text(limits.unavailable_ratio),
        "start_timeout": duration_text(limits.start_timeout_s),
        "warm_up_timeout": duration_text(limits.warm_up_timeout_s),
        "tries": limits.tries,
        "backoff_base": duration_text(limits.backoff_base_s),
        "backoff_cap": duration_text(limits.backoff_cap_s),
        "retry_failed": duration_text(limits.retry_failed_s),
        "node_grace": duration_text(limits.node_grace_s),
        "stop_grace": duration_text(limits.stop_grace_s),
    }


def _environment(workload: Workload) -> Mapping[str, str | None]:
    """Return the variables; those of the engine that are not wanted are there without a value."""
    given = dict(workload.environment)
    unwanted = ENGINES.get(workload.engine, Engine()).environment.keys() - given.keys()
    return {**given, **dict.fromkeys(sorted(unwanted))}


def _warm_up(workload: Workload) -> str | list[Document]:
    """Return the preset's name where one makes these requests: it goes with the model's name."""
    if preset := preset_of(workload.engine, workload.model, workload.warm_up):
        return preset.value
    return [
        {"path": one.path, "body": one.body, "timeout": duration_text(one.timeout_s)}
        for one in workload.warm_up
    ]


def _without_power(text_or_number: str) -> str:
    return text_or_number if text_or_number[0] == '"' else f"{Decimal(text_or_number):f}"


def _number(amount: float) -> float:
    return int(amount) if amount.is_integer() else amount


class _Dumper(yaml.SafeDumper):
    """Writes what is there twice twice: specifications have no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        """Say that nothing is referred to."""
        return True

    def quoted(self, text: str) -> yaml.ScalarNode:
        """Return a text, with escapes where it would not be read as it is."""
        style = '"' if BROKEN_IN_YAML.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.quoted)


SOURCE = "the specification"


def encode_fleet(fleet: Fleet) -> str:
    """Return the fleet as JSON."""
    return msgspec.json.encode(fleet, order="deterministic").decode()


def decode_fleet(text: str | bytes) -> Fleet:
    """Return the fleet of a JSON text, as it was written: whether it can be is not looked at.

    Raises:
        SpecError: The text is no specification, or holds keys that are not known.
    """
    try:
        fleet = msgspec.json.decode(text, type=Fleet)
        refuse(SOURCE, _unknown((), msgspec.json.decode(text), msgspec.to_builtins(fleet)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(SOURCE, [clipped(f"is none: {error}")]) from error
    return fleet


def checked_fleet(text: str | bytes) -> Fleet:
    """Return the fleet of a JSON text that a stranger wrote.

    Raises:
        SpecError: As `decode_fleet`, and where there can be no such fleet.
    """
    fleet = decode_fleet(text)
    refuse(SOURCE, problems_of(fleet))
    return fleet


def _unknown(path: Path, given: object, known: object) -> Iterator[Unknown]:
    """Yield the keys that decoding has passed over."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key in known:
                yield from _unknown((*path, key), value, known[key])
            else:
                yield Unknown((*path, key), "unknown key", str(key), known)
    elif isinstance(given, list) and isinstance(known, list | tuple):
        for index, (value, inner) in enumerate(zip(given, known, strict=True)):
            yield from _unknown((*path, index), value, inner)
