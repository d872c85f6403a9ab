"""Fleets as a strategy of hypothesis; each is one that can be."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from provisioning.model import (
    Fleet,
    Limits,
    Node,
    Placement,
    Pool,
    Probe,
    Rotation,
    RuntimeKind,
    Spread,
    WarmUp,
    Workload,
)
from provisioning.spec.complaints import MAX_DURATION_S
from provisioning.spec.engines import ENGINES, Preset, warm_up_of

NAMES = st.from_regex(r"[A-Za-z0-9]([._-]?[A-Za-z0-9]){0,8}", fullmatch=True)
LABEL_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).map("l_".__add__)
PRINTABLE = st.characters(exclude_categories=("C", "Z")) | st.just(" ")
WORDS = st.text(PRINTABLE, min_size=1, max_size=12)
ANYTHING = st.text(st.characters(codec="utf-8", exclude_characters="\0{}"), max_size=12)
VARIABLES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True) | st.sampled_from(
    [name for engine in ENGINES.values() for name in engine.environment]
)
DURATIONS_S = st.floats(0.0, 3.1e8, exclude_min=True)
MOMENTS_S = DURATIONS_S | st.just(0.0)
PART_OF_A_TURN_S = st.floats(0.0, MAX_DURATION_S / 16, exclude_min=True)
"""A drain, a stop, a start or a warm-up: three of each are no longer than a rotation may be."""
CPUS = st.floats(0.0, 1.0, exclude_min=True) | st.just(5e-05)
PATHS = st.sampled_from(["/health", "/a?b=c&d", "/api/version"])
FOLDERS = st.from_regex(r"/[A-Za-z0-9_ :#-]{1,9}", fullmatch=True)


Pairs = tuple[tuple[str, str], ...]


def pairs(
    names: st.SearchStrategy[str], values: st.SearchStrategy[str]
) -> st.SearchStrategy[Pairs]:
    return st.dictionaries(names, values, max_size=3).map(
        lambda texts: tuple(sorted(texts.items()))
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    engine, model = draw(st.sampled_from(sorted(ENGINES))), draw(WORDS)
    presets = Preset if engine == "ollama" else (Preset.NONE,)
    requests = st.builds(WarmUp, PATHS, ANYTHING, DURATIONS_S)
    mounts = st.lists(st.tuples(FOLDERS, FOLDERS), max_size=2, unique_by=lambda pair: pair[1])
    return Workload(
        model=model,
        engine=engine,
        image=draw(WORDS),
        command=("serve", *draw(st.lists(ANYTHING | st.just("{port}"), max_size=2))),
        environment=draw(pairs(VARIABLES, ANYTHING | st.just("{address}"))),
        mounts=tuple(draw(mounts)),
        cpus=draw(CPUS),
        memory_bytes=draw(st.integers(1, 2**40)),
        probe=Probe(draw(PATHS), draw(DURATIONS_S), draw(DURATIONS_S), draw(st.integers(1, 99))),
        warm_up=draw(
            st.sampled_from([warm_up_of(engine, one, model) for one in presets])
            | st.lists(requests, max_size=2).map(tuple)
        ),
    )


@st.composite
def pools(draw: st.DrawFn, name: str, selector: Pairs) -> Pool:
    drain_s, warm_up_s = draw(PART_OF_A_TURN_S), draw(PART_OF_A_TURN_S)
    every_s = draw(st.just(0.0) | st.floats(0.8 * MAX_DURATION_S, MAX_DURATION_S))
    return Pool(
        name=name,
        count=3,
        workload=draw(workloads()),
        placement=Placement(
            draw(st.sampled_from(Spread)), draw(st.just(0) | st.integers(3, 9)), selector
        ),
        rotation=Rotation(every_s, draw(st.integers(1, 9)), drain_s, warm_up_s),
        developers=tuple(draw(st.lists(WORDS, max_size=3, unique=True))),
        archive=draw(st.just("") | FOLDERS),
    )


@st.composite
def nodes(draw: st.DrawFn, name: str, number: int) -> Node:
    runtime = draw(st.sampled_from(RuntimeKind))
    endpoint = {
        RuntimeKind.CONTAINERD: f"https://10.0.0.{number}:11480",
        RuntimeKind.PROCESS: "",
        RuntimeKind.SIMULATED: draw(st.sampled_from(["", "http://127.0.0.1:11451"])),
    }
    return Node(
        name,
        runtime,
        address=f"10.0.0.{number}",
        endpoint=endpoint[runtime],
        cpus=100.0 + draw(CPUS),
        memory_bytes=2**50 + draw(st.integers(0, 2**40)),
        max_instances=draw(st.just(0) | st.integers(9, 99)),
        first_port=draw(st.integers(1, 9_999)),
        last_port=draw(st.integers(10_009, 65_535)),
        labels=draw(pairs(LABEL_NAMES, WORDS)),
        is_cordoned=draw(st.booleans()),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Return a fleet whose first node has room for all, and whose pools may select it."""
    first = msgspec.structs.replace(draw(nodes("n1", 1)), is_cordoned=False)
    return Fleet(
        draw(NAMES),
        (first, draw(nodes("n2", 2))),
        tuple(draw(pools(name, draw(st.sampled_from([(), first.labels])))) for name in ("a", "b")),
        Limits(
            draw(st.integers(1, 999)),
            draw(st.integers(0, 999)),
            draw(st.floats(0.0, 1.0) | st.sampled_from([0.0, 5e-05, 0.05, 0.07, 1 / 3])),
            draw(PART_OF_A_TURN_S),
            draw(DURATIONS_S),
            draw(st.integers(1, 9)),
            draw(st.just(0.0) | st.floats(0.0, 9.0)),
            draw(st.floats(9.0, 99.0)),
            draw(MOMENTS_S),
            draw(MOMENTS_S),
            draw(PART_OF_A_TURN_S),
        ),
    )
