"""Say how many instances serve a load, by the formulas of Little and Erlang."""

from __future__ import annotations

from provisioning.capacity.errors import ImpossibleError

MAX_CONCURRENCY = 1e6
"""More requests at once than any fleet has instances for."""


def concurrency(requests_per_second: float, duration_s: float) -> float:
    """Return how many requests run at once on average, by Little's law: L = λ × W."""
    return requests_per_second * duration_s


def refused_share(offered: float, n_instances: int) -> float:
    """Return the share of requests that find every instance busy: Erlang's loss formula.

    It holds for requests that come independently of each other, however long each takes: an
    instance runs one at a time, and the gateway refuses what finds none free.
    """
    # Of 1 / B, as B itself underflows for a small load on many instances.
    inverse = 1.0
    for n in range(1, n_instances + 1):
        inverse = 1 + inverse * n / offered
    return 1 / inverse


def instances_for(offered: float, max_refused: float) -> int:
    """Return the fewest instances, at least one, that refuse at most a share of the requests.

    Raises:
        ImpossibleError: The load is beyond any fleet.
    """
    if offered > MAX_CONCURRENCY:
        raise ImpossibleError(
            f"{offered:,.0f} requests run at once, more than {MAX_CONCURRENCY:,.0f}: check "
            "--developers, --requests-per-day, --peak-factor and --tokens-per-request"
        )
    n, inverse = 1, 1 + 1 / offered
    while inverse * max_refused < 1:
        n += 1
        inverse = 1 + inverse * n / offered
    return n
