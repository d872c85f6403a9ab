"""Whether pools are right in themselves, and beside each other.

In:   Pools, as they were decoded, and the limits of their fleet.
Out:  Problems, all of them, each with its path. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from provisioning.budget import PASSES_S, Throughput, throughput_of, warm_up_s_of
from provisioning.model import Limits, Pool, Workload
from provisioning.placeholders import NAMES, placeholder_fault
from provisioning.spec import words
from provisioning.spec.amounts import count_text
from provisioning.spec.complaints import (
    MAX_BYTES,
    MAX_COUNT,
    MAX_DURATION_S,
    above_zero,
    at_least,
    complaint,
    named,
    repeated_items,
    repeated_names,
)
from provisioning.spec.engines import ENGINES
from provisioning.spec.problems import Path, Problem, Unknown
from provisioning.spec.words import MAX_POOL_NAME_CHARACTERS

MAX_INSTANCES = 1_000_000


def problems_of(pools: Sequence[Pool], limits: Limits) -> Iterator[Problem | Unknown]:
    """Yield all that is wrong with the pools, in the order of the document."""
    for index, pool in enumerate(pools):
        yield from _pool(("pools", index), pool)
        yield from _rotation(("pools", index, "rotation"), pool, limits)
    yield from repeated_items("pools", [pool.name for pool in pools])
    if sum(pool.count for pool in pools) > MAX_INSTANCES:
        yield Problem(("pools",), f"must not have more than {MAX_INSTANCES:,} instances in all")


def _pool(path: Path, pool: Pool) -> Iterator[Problem | Unknown]:
    yield from named((*path, "name"), pool.name, MAX_POOL_NAME_CHARACTERS)
    yield from at_least(0, path, count=pool.count)
    yield from _workload(path, pool.workload)
    yield from _archive((*path, "archive"), pool)
    at_most = pool.placement.max_per_node
    yield from at_least(0, (*path, "placement"), max_per_node=at_most)
    yield from _developers((*path, "developers"), pool)


def _workload(path: Path, workload: Workload) -> Iterator[Problem | Unknown]:
    model = workload.model
    model_fault = words.text_fault(model) if model else "must not be empty"
    yield from complaint((*path, "model"), model_fault)
    if workload.engine not in ENGINES:
        message = f"must be one of {', '.join(ENGINES)}"
        yield Unknown((*path, "engine"), message, workload.engine, ENGINES)
    yield from above_zero(path, MAX_COUNT, cpus=workload.cpus)
    yield from above_zero(path, MAX_BYTES, memory=workload.memory_bytes)
    yield from complaint((*path, "image"), words.text_fault(workload.image))
    yield from _command((*path, "command"), workload.command)
    yield from _environment((*path, "environment"), workload.environment)
    yield from _mounts((*path, "mounts"), workload.mounts)
    yield from _probe((*path, "health"), workload)
    for index, request in enumerate(workload.warm_up):
        where = (*path, "warm_up", index)
        yield from complaint((*where, "path"), words.path_fault(request.path))
        yield from at_least(0, where, MAX_DURATION_S, timeout=request.timeout_s)


def _command(path: Path, command: Sequence[str]) -> Iterator[Problem]:
    for index, argument in enumerate(command):
        fault = "must not hold a NUL" if "\0" in argument else placeholder_fault(argument)
        yield from complaint((*path, index), fault)
    if command and not command[0]:
        yield Problem((*path, 0), "must name a program")


def _environment(path: Path, environment: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    for name, value in environment:
        fault = words.variable_fault(name)
        if "\0" in value:
            fault = "must not hold a NUL"
        elif placeholder_fault(value):
            # Not in its own words, which would show what may be a secret.
            known = ", ".join(f"{{{known}}}" for known in NAMES)
            fault = f"holds braces that are no placeholder; known are {known}; {{{{ is a brace"
        yield from complaint((*path, name), fault)
    yield from repeated_names(path, environment)


def _archive(path: Path, pool: Pool) -> Iterator[Problem]:
    if not pool.archive:
        return
    if not pool.archive.startswith("/") or "\0" in pool.archive:
        yield Problem(path, f"must be an absolute path, got {pool.archive!r}")
    if not pool.workload.image:
        yield Problem(path, "needs an `image`: the name that its image gets on the nodes")


def _mounts(path: Path, mounts: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    for index, pair in enumerate(mounts):
        for key, folder in zip(("source", "target"), pair, strict=True):
            if not folder.startswith("/") or ".." in folder.split("/") or "\0" in folder:
                yield Problem((*path, index, key), f"must be an absolute path, got {folder!r}")
    yield from repeated_names(path, [(target, "") for _, target in mounts])


def _probe(path: Path, workload: Workload) -> Iterator[Problem]:
    probe = workload.probe
    yield from complaint((*path, "path"), words.path_fault(probe.path))
    yield from above_zero(path, MAX_DURATION_S, interval=probe.interval_s, timeout=probe.timeout_s)
    yield from at_least(1, path, failures=probe.n_failures)


def _rotation(path: Path, pool: Pool, limits: Limits) -> Iterator[Problem]:
    rotation = pool.rotation
    faults = [
        *at_least(0, path, MAX_DURATION_S, every=rotation.every_s, drain=rotation.drain_s),
        *at_least(0, path, MAX_DURATION_S, warm_up=rotation.warm_up_s),
        *at_least(1, path, at_once=rotation.at_once),
    ]
    yield from faults
    if rotation.every_s and not faults and 0 <= pool.count <= MAX_COUNT and _are_countable(limits):
        throughput = throughput_of(pool, limits)
        if throughput.whole_s > rotation.every_s:
            yield Problem((*path, "every"), _too_slow(pool, limits, throughput))


def _are_countable(limits: Limits) -> bool:
    """Say whether the arithmetic works with these limits; `checks` reports their faults."""
    durations_s = (limits.start_timeout_s, limits.stop_grace_s)
    is_timed = all(0 <= duration_s <= MAX_DURATION_S for duration_s in durations_s)
    return is_timed and 0 < limits.operations <= MAX_COUNT and 0 <= limits.unavailable_ratio <= 1


def _too_slow(pool: Pool, limits: Limits, throughput: Throughput) -> str:
    """Return the arithmetic by which a rotation cannot keep its period, and what to change."""
    rotation, warm_up_s = pool.rotation, warm_up_s_of(pool)
    warm_up = f"{warm_up_s:g} s warm_up, " if warm_up_s else ""
    turn = (
        f"{rotation.drain_s:g} s drain, {limits.stop_grace_s:g} s limits.stop_grace, "
        f"{limits.start_timeout_s:g} s limits.start_timeout, {warm_up}{PASSES_S:g} s to notice"
    )
    return (
        f"{rotation.every_s:,.0f} s is too short: to replace {count_text(pool.count, 'instance')}, "
        f"{throughput.n_at_once:,} at once, {throughput.turn_s:,.0f} s each ({turn}), takes "
        f"{throughput.whole_s:,.0f} s; rotate less often, drain for a shorter time, or raise "
        f"{' and '.join(throughput.bounds)}"
    )


def _developers(path: Path, pool: Pool) -> Iterator[Problem]:
    n_developers = len(pool.developers)
    # With count 0 the pool is put away, and whoever is listed has one again once it is not.
    if 0 < pool.count < n_developers:
        helps = "raise its count or list fewer"
        yield Problem(
            path, f"{n_developers:,} want one of {count_text(pool.count, 'instance')}; {helps}"
        )
    for index, name in enumerate(pool.developers):
        fault = words.text_fault(name) if name else "must not be empty"
        yield from complaint((*path, index), fault)
    yield from repeated_names(path, [(name, "") for name in pool.developers])
