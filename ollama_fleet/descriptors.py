"""Raise this process's limit of open files, and share it out among its uses."""

from __future__ import annotations

import errno
import resource

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says when this machine lacks something, whoever was to be reached."""
SHARE = 4
"""One use takes at most a quarter: half is left for the store, the nodes and the processes."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it.

    The soft limit is low only for the sake of programs that use select(), which ours do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def share(most: int) -> int:
    """Return how many descriptors one use may have: `most`, or its share of a low limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, limit // SHARE))
