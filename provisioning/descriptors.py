"""Let a program of ours open as many files as it may.

In:   this process's limits. Out: the limit that it has from now on.
"""

from __future__ import annotations

import resource


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it.

    The soft limit is low only for the sake of programs that use select(), which ours do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
