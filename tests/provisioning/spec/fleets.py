"""Valid fleets as a strategy of hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from provisioning.spec.defaults import ENGINES
from provisioning.spec.schema import (
    Canary,
    Fleet,
    Limits,
    Mount,
    Node,
    Placement,
    PlacementStrategy,
    Pool,
    Probe,
    Rotation,
    RuntimeKind,
    WarmUp,
    Workload,
)
from provisioning.spec.values import MAX_DURATION_S, MIN_CPUS

NAMES = st.from_regex(r"[A-Za-z0-9]([._-]?[A-Za-z0-9]){0,8}", fullmatch=True)
LABEL_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).map("l_".__add__)
PRINTABLE = st.characters(exclude_categories=("C", "Z")) | st.just(" ")
WORDS = st.text(PRINTABLE, min_size=1, max_size=12)
ANYTHING = st.text(st.characters(codec="utf-8", exclude_characters="\0{}"), max_size=12)
VARIABLES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True) | st.sampled_from(
    [name for engine in ENGINES.values() for name in engine.environment]
)


def durations_s(most_s: float, *, least_s: float = 0.0) -> st.SearchStrategy[float]:
    """Return whole milliseconds, as specifications have them."""
    return st.integers(round(1000 * least_s), round(1000 * most_s)).map(lambda ms: ms / 1000)


TIMEOUTS_S = durations_s(3.1e8, least_s=0.001)
PART_OF_A_TURN_S = durations_s(MAX_DURATION_S / 16, least_s=0.001)
"""A drain, a stop, a start or a warm-up: three of each are no longer than a rotation may be."""
CPUS = st.floats(MIN_CPUS, 1.0)
PATHS = st.sampled_from(["/health", "/a?b=c&d", "/api/version"])
FOLDERS = st.from_regex(r"/[A-Za-z0-9_ :#-]{1,9}", fullmatch=True)
REQUESTS = st.builds(WarmUp, path=PATHS, body=ANYTHING, timeout_s=TIMEOUTS_S)
CANARIES = st.none() | st.builds(Canary, period_s=TIMEOUTS_S, n_failures=st.integers(1, 9))
LIMITS = st.builds(
    Limits,
    operations=st.integers(1, 999),
    operations_per_node=st.integers(0, 999),
    unavailable_ratio=st.integers(0, 10**12).map(lambda n: n / 10**12),
    start_timeout_s=PART_OF_A_TURN_S,
    warm_up_timeout_s=TIMEOUTS_S,
    tries=st.integers(1, 9),
    backoff_base_s=durations_s(9.0),
    backoff_cap_s=durations_s(99.0, least_s=9.0),
    retry_failed_s=durations_s(3e8),
    node_grace_s=durations_s(3e8),
    stop_grace_s=PART_OF_A_TURN_S,
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    engine = draw(st.sampled_from(sorted(ENGINES)))
    mounts = st.builds(Mount, source=FOLDERS, target=FOLDERS)
    return Workload(
        model=draw(WORDS),
        engine=engine,
        image=draw(WORDS),
        command=("serve", *draw(st.lists(ANYTHING | st.just("{port}"), max_size=2))),
        environment=draw(st.dictionaries(VARIABLES, ANYTHING | st.just("{address}"), max_size=3)),
        mounts=tuple(draw(st.lists(mounts, max_size=2, unique_by=lambda mount: mount.target))),
        cpus=draw(CPUS),
        memory_bytes=draw(st.integers(1, 2**40)),
        probe=Probe(
            path=draw(PATHS),
            interval_s=draw(TIMEOUTS_S),
            timeout_s=draw(TIMEOUTS_S),
            n_failures=draw(st.integers(1, 99)),
            canary=draw(CANARIES) if ENGINES[engine].canary_path else None,
        ),
        warm_up=draw(
            st.sampled_from(sorted(ENGINES[engine].presets))
            | st.lists(REQUESTS, max_size=2).map(tuple)
        ),
    )


@st.composite
def pools(draw: st.DrawFn, name: str, selector: dict[str, str]) -> Pool:
    every_s = st.just(0.0) | durations_s(MAX_DURATION_S, least_s=0.8 * MAX_DURATION_S)
    return Pool(
        name=name,
        count=3,
        workload=draw(workloads()),
        placement=Placement(
            strategy=draw(st.sampled_from(PlacementStrategy)),
            max_per_node=draw(st.just(0) | st.integers(3, 9)),
            selector=selector,
        ),
        rotation=Rotation(
            every_s=draw(every_s),
            at_once=draw(st.integers(1, 9)),
            drain_s=draw(PART_OF_A_TURN_S),
            warm_up_s=draw(PART_OF_A_TURN_S),
        ),
        developers=tuple(draw(st.lists(WORDS, max_size=3, unique=True))),
        archive=draw(st.just("") | FOLDERS),
    )


@st.composite
def nodes(draw: st.DrawFn, number: int, *, is_cordoned: bool) -> Node:
    runtime = draw(st.sampled_from(RuntimeKind))
    endpoint = {
        RuntimeKind.CONTAINERD: f"https://10.0.0.{number}:11480",
        RuntimeKind.PROCESS: "",
        RuntimeKind.SIMULATED: draw(st.sampled_from(["", "http://127.0.0.1:11451"])),
    }
    return Node(
        name=f"n{number}",
        runtime=runtime,
        address=f"10.0.0.{number}",
        endpoint=endpoint[runtime],
        cpus=100.0 + draw(CPUS),
        memory_bytes=2**50 + draw(st.integers(0, 2**40)),
        max_instances=draw(st.just(0) | st.integers(9, 99)),
        first_port=draw(st.integers(1, 9_999)),
        last_port=draw(st.integers(10_009, 65_535)),
        labels=draw(st.dictionaries(LABEL_NAMES, WORDS, max_size=3)),
        is_cordoned=is_cordoned,
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Return a fleet whose first node has room for all, and whose pools may select it."""
    first = draw(nodes(1, is_cordoned=False))
    selectors = st.sampled_from([{}, first.labels])
    return Fleet(
        name=draw(NAMES),
        nodes=(first, draw(nodes(2, is_cordoned=draw(st.booleans())))),
        pools=tuple(draw(pools(name, draw(selectors))) for name in ("a", "b")),
        limits=draw(LIMITS),
    )
