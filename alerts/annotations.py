"""Parts of annotations that ask Prometheus when an alert fires: how many of how many, and where.

They are templates that Prometheus and vmalert expand at each evaluation while an alert is active.
They read recorded series of the alert's own cluster, and say nothing where there are none.
"""

from __future__ import annotations

import re

from alerts.promql import Scope

RECORDED = re.compile(r"\b([a-z_]+:[a-z0-9_]+:[a-z0-9_]+)(\{)?")
MAX_NAMES = 3
"""Of nodes or models in one text: a person looks at a few, the dashboard has all."""
MAX_CHARACTERS = 60
"""Of one such name, which an inventory gives."""
STANDING_OUT = 1.5
"""How many times the mean makes a node or model stand out."""
WITH_COMMA = r'printf "%.0f" | reReplaceAll `(\d)(\d{3})$` `$1,$2`'
"""1940 as 1,940; good for counts below a million."""
VALUE = f"{{{{ $value | {WITH_COMMA} }}}}"
"""The alert's own value, a count."""
NAME = f'printf "%.{MAX_CHARACTERS}s" | reReplaceAll `[[:cntrl:]]+` ` `'


def count(scope: Scope, expression: str, *labels: str, before: str = "") -> str:
    """Return an expression's value as a count.

    Args:
        scope: How the exporters are scraped.
        expression: A number, or PromQL of recorded series with one result for each cluster.
        labels: Of the alert, besides the cluster's: the series must have the same.
        before: What stands before it, unless there is no result.
    """
    if not RECORDED.search(expression):
        return f"{before}{float(expression):,.0f}"
    shown = f"{{{{ . | first | value | {WITH_COMMA} }}}}"
    return f"{{{{ with {_query(scope, expression, *labels)} }}}}{before}{shown}{{{{ end }}}}"


def most(scope: Scope, what: str, expression: str, *, all_of: str) -> str:
    """Return a sentence with the nodes or models that have far more of something than others.

    Args:
        scope: How the exporters are scraped.
        what: The label by which they differ: `node` or `model`.
        expression: PromQL of recorded series, a count for each of them.
        all_of: A recorded series of which each of them has one, also those that have none of it.
    """
    mean = f"scalar(sum({expression}) / count(count by ({what}) ({all_of})))"
    # A single one says nothing of the place where it is.
    found = f"sort_desc(topk({MAX_NAMES}, {expression} > 1 > {STANDING_OUT} * {mean}))"
    shown = f'{{{{ $s | label "{what}" | {NAME} }}}} ({{{{ $s | value | {WITH_COMMA} }}}})'
    return _listed(scope, found, f" Most on {what}s ", shown)


def slowest(scope: Scope, what: str, ratio: str) -> str:
    """Return a sentence with the nodes or models whose ratio to the usual is lowest.

    Args:
        scope: How the exporters are scraped.
        what: The label by which they differ: `node` or `model`.
        ratio: PromQL of recorded series, only of those that are worth a look.
    """
    found = f"sort(bottomk({MAX_NAMES}, {ratio}))"
    shown = f'{{{{ $s | label "{what}" | {NAME} }}}} ({{{{ $s | value | humanizePercentage }}}})'
    return _listed(scope, found, f" Slowest {what}s: ", shown)


def _listed(scope: Scope, expression: str, before: str, shown: str) -> str:
    """Return a sentence that lists results, each as a template for `$s` shows it."""
    each = f"{{{{ if $i }}}}, {{{{ end }}}}{shown}"
    items = f"{{{{ range $i, $s := . }}}}{each}{{{{ end }}}}"
    return f"{{{{ with {_query(scope, expression)} }}}}{before}{items}.{{{{ end }}}}"


def _query(scope: Scope, expression: str, *labels: str) -> str:
    """Return the call that asks for an expression's result of the alert's own cluster.

    `%q` quotes any value of a label as PromQL does; a label that is missing is an empty one.
    """
    labels = (scope.cluster_label, *labels)
    own = ", ".join(f"{label}=%[{n}]q" for n, label in enumerate(labels, 1))
    asked = " ".join(expression.replace("%", "%%").split())
    asked = RECORDED.sub(lambda name: f"{name[1]}{{{own}{', ' if name[2] else '}'}", asked)
    return f"query (printf `{asked}` {' '.join(f'$labels.{label}' for label in labels)})"
